"""The newest records of one topic, kept once for everybody who watches it.

A feed is a sequence: every record that was read, in the order in which it was read. Who watches has a place in it,
and no queue of its own; so what waits for a thousand watchers is in memory once, and is bounded once. A watcher
whose place is no longer kept has a gap.

No I/O is here, and no clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from streams.domain.cursor import Gap, Positions, Range, format_cursor, gap_of, parse_cursor
from streams.domain.errors import PlatformError
from streams.kafka.consumer import Record

_PIECES: Final = 4
"""A feed grows by at most this part of what it holds, so that those who keep up are never overrun at one go."""


class Entry:
    """A record, the cursor after it, and the messages that were made of it."""

    __slots__ = ("bodies", "cursor", "record")

    def __init__(self, record: Record, cursor: str, bodies: dict[str, bytes] | None = None) -> None:
        self.record = record
        self.cursor = cursor
        self.bodies: dict[str, bytes] = {} if bodies is None else bodies
        """By format, without the cursor: whoever renders keeps them here, for all who watch."""


def size_of(record: Record) -> int:
    """Bytes of a record: key, value and the headers' values."""
    return len(record.value or b"") + len(record.key or b"") + sum([len(value) for _, value in record.headers])


class Feed:
    """The records of a topic from `start` to before `end`, which are numbers of the sequence, not offsets."""

    def __init__(self, topic: str, positions: Positions, *, capacity: int, capacity_bytes: int) -> None:
        self.topic = topic
        self.start = self.end = 0
        self.floor = dict(sorted(positions.items()))
        """The next offset of each partition before the oldest entry."""
        self.head = dict(self.floor)
        """The same after the newest."""
        self.closed = False
        self.error: PlatformError | None = None
        """Why it was closed, where that was not the worker's end."""
        self._added: dict[int, int] = {}
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._bytes = 0
        self._entries: dict[int, Entry] = {}
        self._waiting: set[asyncio.Future[None]] = set()

    def __getitem__(self, number: int) -> Entry:
        return self._entries[number]

    def add_partition(self, partition: int, offset: int) -> None:
        """Follow one more partition from an offset on. Every cursor names it from now on, those of old entries too."""
        self._added[partition] = offset
        for entry in self._entries.values():
            entry.cursor = format_cursor(dict(sorted({**parse_cursor(entry.cursor), partition: offset}.items())))
        self.floor = dict(sorted({**self.floor, partition: offset}.items()))
        self.head = dict(sorted({**self.head, partition: offset}.items()))

    def beginning(self, partition: int) -> int:
        """Where a partition was begun that was added while it was watched."""
        return self._added.get(partition, 0)

    def pieces(self, records: Sequence[Record]) -> Iterator[Sequence[Record]]:
        """The records in pieces that are small beside what the feed holds."""
        most, most_bytes = max(1, self._capacity // _PIECES), self._capacity_bytes // _PIECES
        begin = size = 0
        for number, record in enumerate(records):
            size += size_of(record)
            if number > begin and (number - begin >= most or size > most_bytes):
                yield records[begin:number]
                begin, size = number, size_of(record)
        if begin < len(records):
            yield records[begin:]

    def kept_after(self, records: Iterable[Record]) -> int:
        """The number of the oldest entry that is kept once these records have been added."""
        sizes = [size_of(record) for record in records]
        count, size, oldest = self.end - self.start + len(sizes), self._bytes + sum(sizes), self.start
        while oldest < self.end and (count > self._capacity or size > self._capacity_bytes):
            size -= size_of(self._entries[oldest].record)
            count -= 1
            oldest += 1
        return oldest

    def publish(self, records: Iterable[Record]) -> None:
        """Add records, drop the oldest that are too many, and wake who waits.

        A record that was there already is left out: after an unclean change of leaders a log may be read again.
        """
        added = 0
        for record in records:
            if record.offset < self.head.get(record.partition, 0):
                continue
            self.head[record.partition] = record.offset + 1
            self._entries[self.end] = Entry(record, format_cursor(self.head))
            self._bytes += size_of(record)
            self.end += 1
            added += 1
        while self.end - self.start > max(1, self._capacity) or (
            self._bytes > self._capacity_bytes and self.end - self.start > 1
        ):
            record = self._entries.pop(self.start).record
            self._bytes -= size_of(record)
            self.floor[record.partition] = record.offset + 1
            self.start += 1
        if added:
            self._wake()

    def close(self, error: PlatformError | None = None) -> None:
        """Nothing more will come."""
        self.closed, self.error = True, error
        self._wake()

    async def changed(self) -> None:
        """Return when something was added, or the feed was closed."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def covers(self, positions: Positions) -> bool:
        """Whether a watcher who has seen everything before these positions finds the rest here."""
        return all(positions.get(partition, self.beginning(partition)) >= o for partition, o in self.floor.items())


class Follower:
    """A watcher's place in a feed, which covers the positions that it begins with.

    As a rule that is a number of the sequence alone, and the cursors are those of the feed. One who came with a cursor
    may have seen records that are still to come in the sequence: they are skipped, and until then its cursors are its
    own. Another worker's sequence is mixed from the partitions in another order.
    """

    def __init__(self, feed: Feed, positions: Positions) -> None:
        self._feed = feed
        has_all = all(positions.get(partition, -1) >= offset for partition, offset in feed.head.items())
        self.at = feed.end if has_all else feed.start
        here = feed.head if has_all else feed.floor
        self._ahead = {p: offset for p, offset in positions.items() if offset > here.get(p, -1)}
        self.cursor = format_cursor(here | self._ahead)

    def gap(self) -> Gap | None:
        """What this watcher has lost since it last took something; it goes on after that."""
        feed = self._feed
        if self.at >= feed.start:
            return None
        missed = feed.start - self.at
        before = parse_cursor(self.cursor)
        self.at = feed.start
        self._ahead = {p: offset for p, offset in self._ahead.items() if offset > feed.floor[p]}
        after = feed.floor | self._ahead
        self.cursor = format_cursor(after)
        seen = {p: before.get(p, feed.beginning(p)) for p in after}
        ranges = [Range(p, seen[p], offset) for p, offset in after.items() if offset > seen[p]]
        return gap_of(seen, after, ranges, "slow", missed) if ranges else None

    def take(self, most: int, most_bytes: int) -> list[Entry]:
        """What comes next: so many entries, and bytes of records, or one entry more, at most. Call `gap` before.

        Two who are at one place are given the very same entries; one whose cursors are its own, its own.
        """
        feed = self._feed
        while self._ahead and self.at < feed.end:
            own = self._own(feed[self.at])
            self.at += 1
            if own is not None:
                return [own]
        entries: list[Entry] = []
        size = 0
        while self.at < feed.end and len(entries) < most and size < most_bytes:
            entry = feed[self.at]
            entries.append(entry)
            size += size_of(entry.record)
            self.at += 1
        if entries:
            self.cursor = entries[-1].cursor
        return entries

    def _own(self, entry: Entry) -> Entry | None:
        """The entry with this watcher's cursor; None where it has seen it before."""
        record = entry.record
        ahead = self._ahead.get(record.partition, -1)
        if record.offset + 1 >= ahead:
            self._ahead.pop(record.partition, None)
        cursor = format_cursor(dict(sorted({**parse_cursor(entry.cursor), **self._ahead}.items())))
        self.cursor = cursor
        return None if record.offset < ahead else Entry(record, cursor, entry.bodies)
