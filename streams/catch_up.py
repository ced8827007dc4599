"""Reading history for watchers who are behind: a chunk at a time, by few readers in turn.

A reader is held for one fetch only, not while its watcher takes what came: one who takes slowly keeps nobody else
from reading, and holds one chunk in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from streams.domain.cursor import Gap, Positions, Range, gap_of
from streams.feed import size_of
from streams.kafka.consumer import LogReader, Partition, Record, Span
from streams.kafka.reader_pool import ReaderPool

CHUNK_PARTITION_BYTES: Final = 262_144
"""What is fetched of a partition at once; a batch of records that is larger comes whole."""
CHUNK_BYTES: Final = 1_048_576
"""What a watcher holds of what was fetched, or one record more: a batch that is compressed may be any number of times
as large as what was fetched. The rest is fetched again."""
CHUNK_PARTITIONS: Final = 4
"""How many partitions are read at once: those that are the farthest behind."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What was read at once."""

    records: list[Record]
    """In the log's order for each partition."""
    positions: dict[int, int]
    """Where the watcher is after them, of every partition."""
    gap: Gap | None
    """What retention took before it could be read; it is before the records."""


class CatchUp:
    """The readers of one worker, connected when they are first needed."""

    def __init__(self, open_reader: Callable[[], LogReader], limit: int) -> None:
        self._readers = ReaderPool(open_reader, limit)
        self.reading = 0
        """How many watchers are being read for now."""

    async def read(self, topic: str, positions: Positions, head: Positions) -> Chunk:
        """The next records of a topic from these positions to before the head, which is past one of them at least.

        Waits for a reader's turn. Raises OverloadedError, KafkaUnavailableError or KafkaAccessError.
        """
        behind = sorted((p for p, end in head.items() if positions[p] < end), key=lambda p: positions[p] - head[p])
        spans = {Partition(topic, p): Span(positions[p], head[p]) for p in behind[:CHUNK_PARTITIONS]}
        async with self._readers.reader() as reader:
            self.reading += 1
            try:
                return await _read(reader, spans, positions)
            finally:
                self.reading -= 1

    async def close(self) -> None:
        """Close the readers."""
        await self._readers.close()


async def _read(reader: LogReader, spans: dict[Partition, Span], positions: Positions) -> Chunk:
    came_on = _bounded(await reader.chunk(spans))
    # Where the first offset is not the one that was asked for, it was a transaction's end, or retention was faster.
    jumped = [p for p, (records, at) in came_on.items() if (records[0].offset if records else at) > spans[p].start]
    starts = await reader.spans(jumped)
    before, after, ranges = dict(positions), dict(positions), []
    for partition, (records, at) in came_on.items():
        number = partition.partition
        if partition in starts:
            resumed = min(starts[partition].start, records[0].offset if records else at)
            if resumed > positions[number]:
                ranges.append(Range(number, positions[number], resumed))
                before[number] = resumed
        after[number] = at
    gap = gap_of(positions, before, ranges, "expired") if ranges else None
    return Chunk([record for records, _ in came_on.values() for record in records], after, gap)


def _bounded(came_on: dict[Partition, tuple[list[Record], int]]) -> dict[Partition, tuple[list[Record], int]]:
    """The first of these records, and where to go on after them."""
    bounded, size = {}, 0
    for partition, (records, at) in came_on.items():
        sizes = itertools.accumulate((size_of(record) for record in records), initial=size)
        count = sum(1 for before in itertools.islice(sizes, len(records)) if before < CHUNK_BYTES)
        bounded[partition] = (records[:count], at if count == len(records) else records[count].offset)
        size += sum(size_of(record) for record in records[:count])
    return bounded
