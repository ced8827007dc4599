"""A topic of memory and readers of it, for the real hub: partitions, transactions' ends, retention."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from streams.domain.errors import PlatformError, UnknownTopicError
from streams.kafka.consumer import LogReader, Partition, Record, Span

TOPIC = "events.iot"


class MemoryLog:
    """What is in each partition; None stands for the end of a transaction, which has an offset and is never seen."""

    def __init__(self, partitions: int, *, at_once: int = 1_000, topic: str = TOPIC) -> None:
        self.topic = topic
        self.partitions: list[list[Record | None]] = [[] for _ in range(partitions)]
        self.starts = [0] * partitions
        self.at_once = at_once
        """How many records of a partition a poll gives at most."""
        self.fails: PlatformError | None = None
        self.silence_s = 0.0
        """For how long it seems to its readers that Kafka is away."""
        self.gone = False
        self.readers: list[str] = []
        """The purpose of every reader that was opened."""
        self._grown = asyncio.Event()

    def append(self, *records: Record | None, partition: int = 0) -> None:
        """Add records, or transactions' ends; a record's own partition counts."""
        for record in records:
            self.partitions[partition if record is None else record.partition].append(record)
        self._grown.set()
        self._grown = asyncio.Event()

    def add_partition(self) -> None:
        self.partitions.append([])
        self.starts.append(0)

    def expire(self, partition: int, start: int) -> None:
        """Retention: nothing before this offset is left."""
        self.starts[partition] = max(self.starts[partition], min(start, len(self.partitions[partition])))

    def reader(self, purpose: str) -> MemoryLogReader:
        self.readers.append(purpose)
        return MemoryLogReader(self)

    async def grown(self) -> None:
        await self._grown.wait()


class MemoryLogReader(LogReader):
    """Reads as the real one does: positions are moved by what is polled, past what nobody sees."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self._positions: dict[Partition, int] = {}

    async def start(self) -> None:
        if self.log.fails is not None:
            raise self.log.fails

    async def stop(self) -> None:
        self._positions = {}

    async def partitions(self, topics: Iterable[str]) -> list[Partition]:
        await asyncio.sleep(0)
        if self.log.fails is not None:
            raise self.log.fails
        for topic in topics:
            if topic != self.log.topic or self.log.gone:
                raise UnknownTopicError(topic)
        return [Partition(self.log.topic, number) for number in range(len(self.log.partitions))]

    async def spans(self, partitions: Iterable[Partition]) -> dict[Partition, Span]:
        await asyncio.sleep(0)
        if self.log.fails is not None:
            raise self.log.fails
        return {p: Span(self.log.starts[p.partition], len(self.log.partitions[p.partition])) for p in partitions}

    def assign(self, positions: Mapping[Partition, int]) -> None:
        self._positions = dict(positions)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Nothing is read ahead here."""

    def silence_s(self) -> float:
        return self.log.silence_s

    async def position(self, partition: Partition) -> int:
        return self._positions[partition]

    async def poll(self, wait_ms: int = 500, *, most: int = 10_000) -> dict[Partition, list[Record]]:
        await asyncio.sleep(0)
        if self.log.fails is not None:
            raise self.log.fails
        if all(offset >= len(self.log.partitions[p.partition]) for p, offset in self._positions.items()):
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    await self.log.grown()
            except TimeoutError:
                return {}
        found: dict[Partition, list[Record]] = {}
        for partition, position in self._positions.items():
            # As auto_offset_reset=earliest does.
            start = max(position, self.log.starts[partition.partition])
            taken = self.log.partitions[partition.partition][start : start + min(most, self.log.at_once)]
            self._positions[partition] = start + len(taken)
            if records := [record for record in taken if record is not None]:
                found[partition] = records
        return found
