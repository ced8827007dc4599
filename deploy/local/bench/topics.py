"""Topics of a benchmark: made afresh, and counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from streams.kafka.admin import TopicAdmin
from streams.kafka.security import aiokafka_options
from streams.settings import Settings
from streams.topics import topic_specs


async def make_afresh(settings: Settings) -> None:
    """Remove every topic that is there, and make the platform's."""
    async with _admin(settings) as admin:
        names = [name for name in await admin.list_topics() if not name.startswith("__")]
        if names:
            await admin.delete_topics(names)
        while set(names) & set(await admin.list_topics()):  # noqa: ASYNC110  # Kafka tells nobody when they are gone
            await asyncio.sleep(0.05)
    await TopicAdmin(settings).create(topic_specs(settings))


async def count(settings: Settings, topic: str) -> int:
    """How many offsets of a topic are used."""
    consumer = AIOKafkaConsumer(**aiokafka_options(settings))
    async with consumer:
        # aiokafka keeps the metadata of assigned topics only, and has no public way to ask for another's.
        await consumer._client.add_topic(topic)  # noqa: SLF001
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        return sum(ends.values())


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**aiokafka_options(settings))
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()
