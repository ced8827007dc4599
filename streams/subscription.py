"""One watcher of a topic: behind at first, where it reads history, then at a place in the topic's feed."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

from streams.catch_up import CatchUp
from streams.domain.cursor import Gap, format_cursor
from streams.domain.errors import OverloadedError, UnavailableError
from streams.feed import Entry, Feed, Follower, size_of
from streams.settings import Settings

log = logging.getLogger(__name__)

TAKE_RECORDS: Final = 256
TAKE_BYTES: Final = 65_536
"""How much a watcher is given at once."""
_FORGIVEN_S: Final = 60.0
"""After so long without another, it no longer counts that a watcher was waited for in vain."""


class Subscription:
    """What one watcher takes, and how far it has come."""

    def __init__(
        self, feed: Feed, history: CatchUp, settings: Settings, positions: dict[int, int], gap: Gap | None
    ) -> None:
        self._feed = feed
        self._history = history
        self._policy = settings.retry_policy()
        self._positions = positions
        self._gap = gap
        self._follower: Follower | None = None
        self._behind: deque[Entry] = deque()
        self._slow = False
        self._strikes = 0
        self._struck_at = float("-inf")
        self.cursor = gap.before if gap is not None else format_cursor(positions)
        """What has been taken so far."""

    @property
    def live(self) -> bool:
        """Whether it is at a place in the feed, and so waits for what is new alone."""
        return self._follower is not None

    def holds_up(self, oldest: int) -> bool:
        """Whether it would lose something, and may be waited for, if this became the feed's oldest entry."""
        return self._follower is not None and not self._slow and self._follower.at < oldest

    def is_slow(self, now: float) -> None:
        """It was waited for long enough: not again until it has caught up. `now` is monotonic, in seconds."""
        self._slow = True
        self._strikes, self._struck_at = self.strikes(now) + 1, now

    def strikes(self, now: float) -> int:
        """How often it was waited for in vain lately."""
        return self._strikes if now - self._struck_at < _FORGIVEN_S else 0

    async def take(self) -> list[Entry] | Gap | None:
        """What comes next, waiting for it; None when the worker shuts down. Cancel it as you like.

        Only one who has been live is told of a gap of the reason `slow`. Raises UnknownTopicError where the topic is
        no more, LostPlaceError where the log does not have what comes next, and KafkaAccessError.
        """
        while True:
            if self._gap is not None:
                gap, self._gap = self._gap, None
                self.cursor = gap.after
                return gap
            if self._behind:
                return self._take_behind()
            if self._feed.closed:
                if self._follower is not None and (taken := self._take_live()) is not None:
                    return taken
                if self._feed.error is not None:
                    raise self._feed.error
                return None
            if self._follower is None:
                await self._catch_up()
            elif (taken := self._take_live()) is not None:
                return taken
            else:
                await self._feed.changed()

    def _take_live(self) -> list[Entry] | Gap | None:
        follower = self._follower
        assert follower is not None
        if (gap := follower.gap()) is not None:
            self.cursor = gap.after
            return gap
        entries = follower.take(TAKE_RECORDS, TAKE_BYTES)
        self.cursor = follower.cursor
        if follower.at == self._feed.end:
            self._slow = False
        return entries or None

    def _take_behind(self) -> list[Entry]:
        entries: list[Entry] = []
        size = 0
        while self._behind and len(entries) < TAKE_RECORDS and size < TAKE_BYTES:
            entries.append(self._behind.popleft())
            size += size_of(entries[-1].record)
        self.cursor = entries[-1].cursor
        return entries

    async def _catch_up(self) -> None:
        """Go live where the feed covers the rest, else read the next chunk of what is before it."""
        feed = self._feed
        failures = 0
        while not feed.closed:
            if added := {p: feed.beginning(p) for p in feed.head.keys() - self._positions.keys()}:
                self._positions = dict(sorted((self._positions | added).items()))
            if feed.covers(self._positions):
                self._follower = Follower(feed, self._positions)
                return
            try:
                chunk = await self._history.read(feed.topic, self._positions, feed.head)
            except UnavailableError as exc:
                failures += 1
                # Not where others have the readers: that is as it should be.
                if not isinstance(exc, OverloadedError):
                    log.warning("a live stream's history waits for Kafka: %s", exc)
                await asyncio.sleep(self._policy.ceiling_s(failures))
                continue
            self._gap = chunk.gap
            at = dict(self._positions)
            if chunk.gap is not None:
                at |= {range_.partition: range_.end for range_ in chunk.gap.ranges}
            for record in chunk.records:
                at[record.partition] = record.offset + 1
                self._behind.append(Entry(record, format_cursor(at)))
            self._positions = chunk.positions
            return
