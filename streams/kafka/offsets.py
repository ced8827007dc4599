"""Offsets that a reader does not see: what is written but not committed, what groups have committed, and times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException
from confluent_kafka import TopicPartition as ConfluentPartition
from confluent_kafka.admin import AdminClient

from streams.kafka.consumer import Partition
from streams.kafka.errors import translate_confluent, translated
from streams.kafka.security import aiokafka_options, confluent_options
from streams.retrying import retrying
from streams.settings import Settings

_TIMEOUT_S: Final = 10.0


class Offsets:
    """Asks brokers for offsets. Every method raises KafkaUnavailableError or KafkaAccessError."""

    def __init__(self, consumer: AIOKafkaConsumer, settings: Settings) -> None:
        self._consumer = consumer
        self._settings = settings
        # aiokafka's own way to these is a consumer in the group, which reports what it waits for as errors.
        self._admin = AdminClient({**confluent_options(settings), "log_level": 0, "client.id": settings.app_id})

    async def written(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The end of each partition, with the records of transactions that are still open."""
        wanted = await self._known(partitions)
        if not wanted:
            return {}
        with translated("ask for offsets"):
            ends = await self._consumer.end_offsets(wanted)
        return {Partition(tp.topic, tp.partition): offset for tp, offset in ends.items()}

    async def at(self, partitions: Iterable[Partition], timestamp_ms: int) -> dict[Partition, int | None]:
        """The first offset of each partition whose record has this time in Kafka or a later one; None: there is none."""
        wanted = await self._known(partitions)
        if not wanted:
            return {}
        with translated("ask for the offsets of a time"):
            found = await self._consumer.offsets_for_times(dict.fromkeys(wanted, max(timestamp_ms, 0)))
        return {
            Partition(tp.topic, tp.partition): None if (at := found.get(tp)) is None else at.offset for tp in wanted
        }

    async def committed(self, group: str, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """What a group has committed; a partition where it has committed nothing is left out. The group is not joined."""
        wanted = [ConfluentPartition(*partition) for partition in partitions]
        if not wanted:
            return {}

        async def ask() -> ConsumerGroupTopicPartitions:
            request = [ConsumerGroupTopicPartitions(group, wanted)]
            try:
                return await asyncio.wrap_future(
                    self._admin.list_consumer_group_offsets(request, request_timeout=_TIMEOUT_S)[group]
                )
            except KafkaException as exc:
                raise translate_confluent(exc, f"ask for the offsets of the group {group}") from exc

        # Right after its start, a broker knows no coordinator for a while.
        found = await retrying(ask, self._settings.retry_policy(_TIMEOUT_S))
        return {Partition(tp.topic, tp.partition): tp.offset for tp in found.topic_partitions or () if tp.offset >= 0}

    async def _known(self, partitions: Iterable[Partition]) -> list[TopicPartition]:
        wanted = [TopicPartition(*partition) for partition in partitions]
        for topic in sorted({tp.topic for tp in wanted}):
            with translated(f"look up {topic}"):
                # As in LogReader: aiokafka keeps the metadata of topics that it has been told of.
                await self._consumer._client.add_topic(topic)  # noqa: SLF001
        return wanted


@asynccontextmanager
async def open_offsets(settings: Settings, purpose: str) -> AsyncIterator[Offsets]:
    """Offsets for one purpose, which the client id tells the broker; the connections are closed at the end."""
    consumer = AIOKafkaConsumer(
        **aiokafka_options(settings),
        client_id=f"{settings.app_id}-{purpose}-offsets",
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_uncommitted",
        request_timeout_ms=int(_TIMEOUT_S * 1_000),
    )
    with translated(f"connect to Kafka at {settings.kafka_bootstrap_servers}"):
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
    try:
        yield Offsets(consumer, settings)
    finally:
        with translated("close the connections"):
            await consumer.stop()
