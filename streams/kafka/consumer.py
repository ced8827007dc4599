"""Reading topics without a group: positions are the caller's, only committed records are seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from streams.domain.errors import KafkaUnavailableError, UnavailableError, UnknownTopicError
from streams.kafka.batching import internals
from streams.kafka.errors import translated
from streams.kafka.security import aiokafka_options
from streams.settings import Settings

_POLL_MS: Final = 500
_MAX_POLL_RECORDS: Final = 500
_SETTLE_S: Final = 0.05
_CHUNK_S: Final = 5.0
"""How long a chunk is waited for: a partition may have no leader, and its topic may be no more."""


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


class LostPlaceError(UnavailableError):
    """The log has no such offsets: retention was faster than the reader, or it is another log of the same name."""

    def __init__(self, topics: Iterable[str]) -> None:
        self.topics = frozenset(topics)
        super().__init__(f"the log does not have what would come next: {', '.join(sorted(self.topics))}")


def plain(headers: Iterable[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes], ...]:
    """Headers whose values are all bytes: one without a value, which Kafka allows, has an empty one."""
    return tuple((name, value or b"") for name, value in headers)


class LogReader:
    """A consumer without a group. Not for concurrent use: one reader, one task.

    Every method raises KafkaUnavailableError or KafkaAccessError where Kafka does not answer as it should.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        client_id: str,
        max_partition_bytes: int = 1_048_576,
        wait_ms: int = 100,
        resets: bool = True,
    ) -> None:
        self._settings = settings
        self._client_id = client_id
        self._max_partition_bytes = max_partition_bytes
        """How much is fetched ahead of each partition; a larger batch of records is taken all the same."""
        self._wait_ms = wait_ms
        """How long a broker waits for records where there are none yet. Whoever reads only what is there already, and
        then something else, waits as long for a fetch that it no longer wants."""
        self._resets = resets
        """Whether reading goes on at the log's beginning where the log does not have a position; else `poll` raises
        LostPlaceError."""
        self._assigned_at = 0.0
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Connect."""
        consumer = AIOKafkaConsumer(
            **aiokafka_options(self._settings),
            client_id=self._client_id,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest" if self._resets else "none",
            fetch_max_wait_ms=self._wait_ms,
            max_partition_fetch_bytes=self._max_partition_bytes,
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
                await internals.stop(consumer)

    async def partitions(self, topics: Iterable[str]) -> list[Partition]:
        """Every partition of the topics. Raises UnknownTopicError for one that does not exist."""
        consumer = self._running
        found: list[Partition] = []
        with translated("list partitions"):
            # All topics, as they are now: what aiokafka keeps of its own may be minutes old.
            cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001
        for topic in topics:
            numbers = cluster.partitions_for_topic(topic)
            if numbers is None:
                raise UnknownTopicError(topic)
            with translated(f"list the partitions of {topic}"):
                # aiokafka keeps the metadata of assigned topics only, and has no public way to ask for another's.
                await consumer._client.add_topic(topic)  # noqa: SLF001
                if numbers != consumer.partitions_for_topic(topic):
                    await consumer._client.force_metadata_update()  # noqa: SLF001
            found.extend(Partition(topic, number) for number in sorted(numbers))
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

    async def offsets_at(self, partitions: Iterable[Partition], timestamp_ms: int) -> dict[Partition, int | None]:
        """The first offset of each partition whose record has this time in Kafka or a later one; None: there is none."""
        wanted = [TopicPartition(*partition) for partition in partitions]
        if not wanted:
            return {}
        with translated("ask for the offsets of a time"):
            # Times before the epoch are no question that Kafka takes; every record is after them.
            found = await self._running.offsets_for_times(dict.fromkeys(wanted, max(timestamp_ms, 0)))
        return {
            Partition(tp.topic, tp.partition): None if (at := found.get(tp)) is None else at.offset for tp in wanted
        }

    async def read(self, spans: Mapping[Partition, Span]) -> AsyncGenerator[list[Record]]:
        """The records of the spans, partition by partition in order, in the batches that Kafka gives."""
        open_spans = {TopicPartition(*p): span for p, span in spans.items() if span.start < span.end}
        self.assign({p: span.start for p, span in spans.items() if span.start < span.end})
        while open_spans:
            # No more than is wanted: what a fetch has beyond that need not be taken apart.
            most = min(_MAX_POLL_RECORDS, sum(span.end - span.start for span in open_spans.values()))
            for records in (await self.poll(most=most)).values():
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

    async def chunk(self, spans: Mapping[Partition, Span]) -> dict[Partition, tuple[list[Record], int]]:
        """What Kafka gives first of the spans: of each partition that came on, its records, and where it goes on.

        Records may be none where a partition came on: its next offsets were transactions' ends. Raises
        KafkaUnavailableError where nothing comes within some seconds.
        """
        self.assign({partition: span.start for partition, span in spans.items()})
        try:
            async with asyncio.timeout(_CHUNK_S):
                came_on = await self._come_on(spans)
        except TimeoutError as exc:
            topics = ", ".join(sorted({partition.topic for partition in spans}))
            raise KafkaUnavailableError(f"cannot read {topics}: nothing has come for {_CHUNK_S:g} s") from exc
        # Nobody wants the rest of them, and at the log's end a broker would be asked for it all the time.
        self.pause(spans)
        return came_on

    async def _come_on(self, spans: Mapping[Partition, Span]) -> dict[Partition, tuple[list[Record], int]]:
        while True:
            batches = await self.poll()
            came_on: dict[Partition, tuple[list[Record], int]] = {}
            for partition, span in spans.items():
                position = min(await self.position(partition), span.end)
                if position > span.start:
                    came_on[partition] = ([r for r in batches.get(partition, ()) if r.offset < span.end], position)
            if came_on:
                return came_on

    async def position(self, partition: Partition) -> int:
        """The offset where the reading of an assigned partition goes on."""
        with translated(f"read {partition.topic}"):
            position: int = await self._running.position(TopicPartition(*partition))
        return position

    def assign(self, positions: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets on, and no others."""
        consumer = self._running
        consumer.assign([TopicPartition(*p) for p in positions])
        self._assigned_at = time.time()
        for partition, offset in positions.items():
            consumer.seek(TopicPartition(*partition), offset)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Ask for no more of these assigned partitions."""
        self._running.pause(*[TopicPartition(*partition) for partition in partitions])

    async def poll(self, wait_ms: int = _POLL_MS, *, most: int = _MAX_POLL_RECORDS) -> dict[Partition, list[Record]]:
        """What has come on the assigned partitions; waits for something so many milliseconds at most."""
        with translated("read"):
            try:
                batches = await self._running.getmany(timeout_ms=wait_ms, max_records=most)
            except OffsetOutOfRangeError as exc:
                raise LostPlaceError(partition.topic for partition in exc.args[0]) from exc
        return {
            Partition(tp.topic, tp.partition): [
                Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, plain(r.headers)) for r in records
            ]
            for tp, records in batches.items()
            if records
        }

    def silence_s(self) -> float:
        """For how long Kafka has answered for no assigned partition, in seconds, where `poll` has found nothing.

        aiokafka tries again for ever, and tells nobody.
        """
        consumer = self._running
        answers = [consumer.last_poll_timestamp(tp) or 0 for tp in consumer.assignment()]
        return time.time() - max(self._assigned_at, max(answers) / 1_000) if answers else 0.0

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
