"""Reading topics without a group: positions are the caller's, only committed records are seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.domain.errors import UnknownTopicError
from streams.kafka.errors import translated
from streams.kafka.security import aiokafka_options
from streams.settings import Settings

_POLL_MS: Final = 500
_SETTLE_S: Final = 0.05


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


class Span(NamedTuple):
    """Offsets of a partition, start <= offset < end."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it was read."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def plain(headers: Iterable[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes], ...]:
    """Headers whose values are all bytes: one without a value, which Kafka allows, has an empty one."""
    return tuple((name, value or b"") for name, value in headers)


class LogReader:
    """A consumer without a group. Not for concurrent use: one reader, one task.

    Every method raises KafkaUnavailableError or KafkaAccessError where Kafka does not answer as it should.
    """

    def __init__(self, settings: Settings, *, client_id: str) -> None:
        self._settings = settings
        self._client_id = client_id
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Connect."""
        consumer = AIOKafkaConsumer(
            **aiokafka_options(self._settings),
            client_id=self._client_id,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
            request_timeout_ms=10_000,
        )
        with translated(f"connect to Kafka at {self._settings.kafka_bootstrap_servers}"):
            try:
                await consumer.start()
            except BaseException:
                await consumer.stop()
                raise
        self._consumer = consumer

    async def stop(self) -> None:
        """Close the connections."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            # aiokafka's fetcher swallows a cancellation that meets it while it changes assignments, and then stop()
            # would wait for ever: leave it the moment that it needs.
            await asyncio.sleep(_SETTLE_S)
            with translated("close the reader"):
                await consumer.stop()

    async def partitions(self, topics: Iterable[str]) -> list[Partition]:
        """Every partition of the topics. Raises UnknownTopicError for one that does not exist."""
        consumer = self._running
        found: list[Partition] = []
        with translated("list partitions"):
            existing = await consumer.topics()
        for topic in topics:
            if topic not in existing:
                raise UnknownTopicError(topic)
            with translated(f"list the partitions of {topic}"):
                # aiokafka keeps the metadata of assigned topics only, and has no public way to ask for another's.
                await consumer._client.add_topic(topic)  # noqa: SLF001
            found.extend(Partition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ()))
        return found

    async def spans(self, partitions: Iterable[Partition]) -> dict[Partition, Span]:
        """The offsets that each partition holds now; the end is that of the last committed record (LSO)."""
        wanted = [TopicPartition(*partition) for partition in partitions]
        if not wanted:
            return {}
        with translated("ask for offsets"):
            starts = await self._running.beginning_offsets(wanted)
            ends = await self._running.end_offsets(wanted)
        return {Partition(tp.topic, tp.partition): Span(starts[tp], max(starts[tp], ends[tp])) for tp in wanted}

    async def read(self, spans: Mapping[Partition, Span]) -> AsyncIterator[list[Record]]:
        """The records of the spans, partition by partition in order, in the batches that Kafka gives."""
        open_spans = {TopicPartition(*p): span for p, span in spans.items() if span.start < span.end}
        self.assign({p: span.start for p, span in spans.items() if span.start < span.end})
        while open_spans:
            for records in (await self.poll()).values():
                end = open_spans.get(TopicPartition(records[0].topic, records[0].partition), Span(0, 0)).end
                if within := [record for record in records if record.offset < end]:
                    yield within
            # Positions, not offsets: the last offsets of a span may be transaction markers, which nobody sees.
            for tp in list(open_spans):
                with translated(f"read {tp.topic}"):
                    position = await self._running.position(tp)
                if position >= open_spans[tp].end:
                    del open_spans[tp]
                    self._running.pause(tp)

    def assign(self, positions: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets on, and no others."""
        consumer = self._running
        consumer.assign([TopicPartition(*p) for p in positions])
        for partition, offset in positions.items():
            consumer.seek(TopicPartition(*partition), offset)

    async def poll(self, wait_ms: int = _POLL_MS) -> dict[Partition, list[Record]]:
        """What has come on the assigned partitions; waits for something so many milliseconds at most."""
        with translated("read"):
            batches = await self._running.getmany(timeout_ms=wait_ms)
        return {
            Partition(tp.topic, tp.partition): [
                Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, plain(r.headers)) for r in records
            ]
            for tp, records in batches.items()
            if records
        }

    @property
    def _running(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise RuntimeError("the reader is not started")
        return self._consumer


@asynccontextmanager
async def open_reader(settings: Settings, purpose: str) -> AsyncIterator[LogReader]:
    """A reader for one purpose, which its client id tells the broker; it is closed at the end."""
    reader = LogReader(settings, client_id=f"{settings.app_id}-{purpose}")
    await reader.start()
    try:
        yield reader
    finally:
        await reader.stop()
