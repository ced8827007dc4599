"""The newest records of a topic, read backwards from the end of its log, so that every worker answers alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from streams.domain.errors import PlatformError
from streams.kafka.consumer import LogReader, Partition, Record, Span

MAX_SCANNED: Final = 20_000
"""How many offsets one question may look at."""
MAX_SCANNED_BYTES: Final = 33_554_432
_FIRST_WIDTH: Final = 64
_GROWTH: Final = 4


class Latest(NamedTuple):
    """The newest matching records, newest first."""

    records: list[Record]
    truncated: bool
    """Whether older records that match may have been left out since too much had been looked at."""


class BackwardScan:
    """Decides what to read next: in each partition a window before the last one, four times as wide.

    A partition is done at its beginning, or once it has reached back beyond the oldest record that is wanted;
    that takes Kafka's timestamps to run forward within a partition, as they do unless producers set them.
    """

    def __init__(
        self,
        spans: Mapping[Partition, Span],
        limit: int,
        matches: Callable[[Record], bool],
        *,
        max_scanned: int = MAX_SCANNED,
        max_bytes: int = MAX_SCANNED_BYTES,
    ) -> None:
        self._starts = {partition: span.start for partition, span in spans.items()}
        self._low = {partition: span.end for partition, span in spans.items()}
        self._reached: dict[Partition, int] = {}
        self._limit = limit
        self._matches = matches
        self._budget = max_scanned
        self._bytes_budget = max_bytes
        self._width = min(_FIRST_WIDTH, -(-limit // max(1, len(spans))))
        self._found: list[Record] = []
        self._seen = self._seen_bytes = 0

    def next_windows(self) -> dict[Partition, Span]:
        """The offsets to read now; none when the scan is over."""
        windows: dict[Partition, Span] = {}
        wanted = self._open()
        width = self._width
        if self._seen:
            # So that large records end the scan before they fill the memory.
            affordable = (self._bytes_budget - self._seen_bytes) * self._seen // max(1, self._seen_bytes)
            width = min(width, affordable // max(1, len(wanted)))
        for partition in wanted:
            high = self._low[partition]
            low = max(self._starts[partition], high - min(width, self._budget))
            if low < high:
                windows[partition] = Span(low, high)
                self._low[partition] = low
                self._budget -= high - low
        self._width *= _GROWTH
        return windows

    def add(self, records: list[Record]) -> None:
        """Records of the windows, in any order."""
        for record in records:
            partition = Partition(record.topic, record.partition)
            self._reached[partition] = min(record.timestamp_ms, self._reached.get(partition, record.timestamp_ms))
            self._seen += 1
            self._seen_bytes += len(record.value or b"")
            if self._matches(record):
                self._found.append(record)

    def result(self) -> Latest:
        """What was found. Call it when there are no more windows."""
        self._sort()
        return Latest(self._found, bool(self._open()))

    def _open(self) -> list[Partition]:
        self._sort()
        oldest = self._found[-1].timestamp_ms if len(self._found) == self._limit else None
        return [
            partition
            for partition, low in self._low.items()
            if low > self._starts[partition]
            and (oldest is None or partition not in self._reached or self._reached[partition] >= oldest)
        ]

    def _sort(self) -> None:
        self._found.sort(key=lambda r: (-r.timestamp_ms, -r.offset, r.partition))
        del self._found[self._limit :]


class LatestEvents:
    """Answers one question after the other, by one reader a worker, connected when the first one comes."""

    def __init__(self, open_reader: Callable[[], LogReader]) -> None:
        self._open_reader = open_reader
        self._reader: LogReader | None = None
        self._lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def newest(self, topic: str, limit: int, matches: Callable[[Record], bool]) -> Latest:
        """The newest `limit` records of a Kafka topic that match. Raises UnknownTopicError or Kafka's errors."""
        async with self._lock:
            reader = await self._started()
            try:
                scan = BackwardScan(await reader.spans(await reader.partitions([topic])), limit, matches)
                while windows := scan.next_windows():
                    async for records in reader.read(windows):
                        scan.add(records)
            except BaseException:
                # Given up halfway, by an error or by the request's deadline: its state is anybody's guess.
                self._discard(reader)
                raise
            return scan.result()

    async def close(self) -> None:
        """Close the connections."""
        if self._reader is not None:
            self._discard(self._reader)
        if self._closing:
            await asyncio.wait(self._closing, timeout=5)

    async def _started(self) -> LogReader:
        if self._reader is None:
            reader = self._open_reader()
            await reader.start()
            self._reader = reader
        return self._reader

    def _discard(self, reader: LogReader) -> None:
        self._reader = None
        # Beside the request, whose deadline has no time left for it.
        task = asyncio.get_running_loop().create_task(_stop(reader))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _stop(reader: LogReader) -> None:
    try:
        await reader.stop()
    except PlatformError:
        return  # it is given up because Kafka is away: that it cannot say goodbye is no news
