"""Pages of a log of several partitions, newest first: what to read next, and where the next page begins.

Within a partition offsets count, strictly backwards; between partitions the time of their newest record that is not
told yet. So the pages, one after the other, hold every record once, whatever the clocks of its writers were.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

T = TypeVar("T")

MAX_SCANNED: Final = 20_000
"""How many offsets one page may look at."""
MAX_SCANNED_BYTES: Final = 33_554_432
_FIRST_WIDTH: Final = 64
_GROWTH: Final = 4
CURSOR_PATTERN: Final = r"[0-9]{1,10}:[0-9]{1,18}(,[0-9]{1,10}:[0-9]{1,18})*"
_CURSOR = re.compile(CURSOR_PATTERN, re.ASCII)


class Found(NamedTuple, Generic[T]):
    """A record that matches, and what is kept of it."""

    offset: int
    timestamp_ms: int
    item: T


class Page(NamedTuple, Generic[T]):
    """Records, newest first."""

    items: list[T]
    before: str | None
    """The cursor of the next, older page; None where this one reaches the beginning of the log."""
    truncated: bool
    """Whether the page ends here since too much was looked at, not since it is full."""


def parse_cursor(text: str) -> dict[int, int]:
    """For each partition the offset before which the page begins. Raises ValueError."""
    if _CURSOR.fullmatch(text) is None:
        raise ValueError("expected the cursor of another page, as it was")
    pairs = (part.split(":") for part in text.split(","))
    return {int(partition): int(offset) for partition, offset in pairs}


class NewestFirst(Generic[T]):
    """One page. Ask for windows, read and add them, until there are none; then take the page."""

    def __init__(
        self,
        spans: Mapping[int, tuple[int, int]],
        limit: int,
        *,
        before: Mapping[int, int] | None = None,
        max_scanned: int = MAX_SCANNED,
        max_bytes: int = MAX_SCANNED_BYTES,
    ) -> None:
        self._start = {partition: start for partition, (start, _) in spans.items()}
        self._low = {
            # A partition that the cursor does not know has come since: what is in it is newer than the last page.
            partition: max(start, end if before is None else min(end, before.get(partition, start)))
            for partition, (start, end) in spans.items()
        }
        self._waiting: dict[int, list[Found[T]]] = {partition: [] for partition in spans}
        """Read but not told: oldest first, so that the next to be told is the last."""
        self._limit = limit
        self._budget = max(max_scanned, len(spans))
        self._bytes_budget = max_bytes
        self._width = min(_FIRST_WIDTH, limit)
        self._seen = self._seen_bytes = self._matched = 0
        self._items: list[T] = []
        self._windows: dict[int, tuple[int, int]] = {}
        self._begin = self._bounds()

    def windows(self) -> dict[int, tuple[int, int]]:
        """The offsets to read now, start <= offset < end, of each partition; none when the page is done."""
        self._tell()
        hungry = self._hungry()
        is_spent = self._seen_bytes >= self._bytes_budget
        if len(self._items) == self._limit or (is_spent and self.has_come_on):
            return {}
        # A share for each, so that the first windows reach all partitions: then every page gets on, by a record or an
        # offset without a match.
        width = min(self._width, max(1, self._budget // max(1, len(hungry))))
        if self._seen:
            # So that large records end the page before they fill the memory.
            affordable = (self._bytes_budget - self._seen_bytes) * self._seen // max(1, self._seen_bytes)
            # Nor more than would fill the page if it were all of one partition, going by what was found so far.
            needed = -(-(self._limit - len(self._items)) * self._seen // max(1, self._matched))
            width = max(1, min(width, needed, affordable // max(1, len(hungry))))
        if is_spent:
            width = 1
        windows = {}
        for partition in hungry:
            high = self._low[partition]
            low = max(self._start[partition], high - min(width, self._budget))
            if low < high:
                windows[partition] = (low, high)
                self._low[partition] = low
                self._budget -= high - low
        self._width *= _GROWTH
        self._windows = windows
        return windows

    @property
    def has_come_on(self) -> bool:
        """Whether the next page would begin elsewhere than this one: a page that has not may not end."""
        return bool(self._items) or self._bounds() != self._begin

    @property
    def is_too_large(self) -> bool:
        """Whether the windows hold more than they were thought to, going by what was newer: leave them, and say so."""
        return self._seen_bytes >= self._bytes_budget and any(high - low > 1 for low, high in self._windows.values())

    def interrupted(self, reached: Mapping[int, int]) -> None:
        """The windows were left before their ends: of each partition, `reached` is what comes next of what was read.

        A window that is not complete counts as not read: its newest records are those that are missing.
        """
        for partition, (low, high) in self._windows.items():
            if reached.get(partition, low) < high:
                self._waiting[partition].clear()
                self._low[partition] = high
                self._budget += high - low

    def looked_at(self, records: int, size: int) -> None:
        """So many records, of so many bytes together, were read."""
        self._seen += records
        self._seen_bytes += size

    def add(self, partition: int, found: Sequence[Found[T]]) -> None:
        """The records of a partition's window that match, in any order, all at once or in parts."""
        waiting = self._waiting[partition]
        waiting.extend(found)
        waiting.sort(key=lambda one: one.offset)
        self._matched += len(found)

    def page(self) -> Page[T]:
        """The page. Call it when there are no more windows."""
        self._tell()
        bounds = self._bounds()
        left = any(self._waiting.values()) or bool(self._hungry())
        cursor = ",".join(f"{partition}:{offset}" for partition, offset in sorted(bounds.items()))
        return Page(self._items, cursor if left else None, left and len(self._items) < self._limit)

    def _bounds(self) -> dict[int, int]:
        """Before which offset of each partition nothing is told yet."""
        return {
            partition: waiting[-1].offset + 1 if (waiting := self._waiting[partition]) else low
            for partition, low in self._low.items()
        }

    def _hungry(self) -> list[int]:
        """The partitions of which nothing is known that comes next, though they hold more."""
        return [p for p, low in self._low.items() if low > self._start[p] and not self._waiting[p]]

    def _tell(self) -> None:
        while len(self._items) < self._limit and not self._hungry():
            heads = [(waiting[-1].timestamp_ms, -partition) for partition, waiting in self._waiting.items() if waiting]
            if not heads:
                return
            self._items.append(self._waiting[-max(heads)[1]].pop().item)
