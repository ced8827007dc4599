"""Live fan-out: one reader a worker follows the topics that somebody watches, and feeds every watcher.

What it reads is kept in one feed a topic, for a while also after the last watcher has gone: who comes back with a
cursor goes on from there. Who is farther behind reads history until the feed covers the rest. Those who do not keep up
have gaps; the others hardly wait for them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

from streams.catch_up import CHUNK_PARTITION_BYTES, CatchUp
from streams.domain.cursor import Gap, Positions, place
from streams.domain.errors import KafkaUnavailableError, PlatformError, UnavailableError, UnknownTopicError
from streams.feed import Feed
from streams.kafka.consumer import LogReader, LostPlaceError, Partition, Record, Span
from streams.settings import Settings
from streams.subscription import Subscription

log = logging.getLogger(__name__)

Start = Literal["latest", "earliest"] | Positions
OpenReader = Callable[[str], LogReader]
"""Makes a reader for a purpose, which its client id tells the broker; it is not started."""

_CATCH_UP: Final = "catch-up"
_CHUNK_WAIT_MS: Final = 10
"""How long a read of history waits at the log's end: the next watcher may be waiting for the reader."""
_POLL_MS: Final = 100
_GATHER_S: Final = 0.005
"""After records have come, so long others are waited for: each wake-up of a thousand watchers costs their number."""
_PATIENCE_S: Final = 0.1
"""How long a watcher may hold up a full feed before it has a gap, until it has caught up again; half of it after each
time that was in vain lately, and nothing in the end: a few who stall again and again would slow down all others."""
_MOST_STRIKES: Final = 5
_LOOK_S: Final = 0.002
_LINGER_S: Final = 30.0
"""How long a feed is kept that nobody watches."""
_REFRESH_S: Final = 10.0
"""How often new partitions are looked for."""
_SILENCE_S: Final = 6.0
"""How long Kafka may not answer before that is a trouble. With the patience of the health check, that is longer than a
topic that is no more stays watched."""


@dataclass(slots=True)
class _Watched:
    feed: Feed
    watchers: set[Subscription] = field(default_factory=set)
    empty_since: float = 0.0


class Hub:
    """The feeds of one worker and the reader that fills them."""

    def __init__(self, settings: Settings, open_reader: OpenReader | None = None) -> None:
        self._settings = settings
        self._open_reader = open_reader or self._kafka_reader
        self._reader: LogReader | None = None
        self._asker: LogReader | None = None
        self._asking = asyncio.Lock()
        self._questions = 0
        self._answers: dict[str, tuple[int, dict[int, Span]]] = {}
        """By topic, the last answer and the number of its question."""
        self._polling = asyncio.Lock()
        self._watched: dict[str, _Watched] = {}
        self._changed = asyncio.Event()
        self._count = 0
        self.trouble: str | None = None
        """Why nothing can be read for those who watch, by its code; None where it can, or nobody watches."""
        self.history = CatchUp(lambda: self._open_reader(_CATCH_UP), settings.stream_catch_up_readers)

    @property
    def watchers(self) -> int:
        """How many subscriptions there are."""
        return self._count

    def _kafka_reader(self, purpose: str) -> LogReader:
        client_id = f"{self._settings.app_id}-{purpose}"
        if purpose == _CATCH_UP:
            return LogReader(
                self._settings, client_id=client_id, max_partition_bytes=CHUNK_PARTITION_BYTES, wait_ms=_CHUNK_WAIT_MS
            )
        return LogReader(self._settings, client_id=client_id, resets=False)

    async def start(self) -> None:
        """Connect. Raises KafkaUnavailableError or KafkaAccessError."""
        reader, asker = self._open_reader("hub"), self._open_reader("hub-offsets")
        await reader.start()
        try:
            await asker.start()
        except BaseException:
            await reader.stop()
            raise
        self._reader, self._asker = reader, asker

    async def stop(self) -> None:
        """End every subscription and close the readers."""
        # Not while they are used: what `follow` polls for ends within its moment of waiting.
        async with self._polling:
            reader, self._reader = self._reader, None
        # Nothing is opened from here on, so that nobody waits for what will never come.
        for watched in self._watched.values():
            watched.feed.close()
        self._watched = {}
        self._changed.set()
        async with self._asking:
            asker, self._asker = self._asker, None
        await self.history.close()
        for each in (reader, asker):
            if each is not None:
                await each.stop()

    @asynccontextmanager
    async def subscribe(self, topic: str, start: Start = "latest") -> AsyncIterator[Subscription]:
        """Watch a Kafka topic: from what is written after this has begun, from its first record, or from a cursor.

        Raises CursorError, UnknownTopicError, or UnavailableError before the hub has started or when it is full.
        """
        if self._count >= self._settings.stream_max_clients:
            raise UnavailableError(
                f"this worker serves {self._count} live streams, as many as it may: connect later, or to another worker",
                retry_after_s=5.0,
            )
        self._count += 1
        try:
            watched, subscription = await self._join(topic, start)
            try:
                yield subscription
            finally:
                watched.watchers.discard(subscription)
                watched.empty_since = time.monotonic()
        finally:
            self._count -= 1

    async def _join(self, topic: str, start: Start) -> tuple[_Watched, Subscription]:
        watched = self._watched.get(topic)
        gap: Gap | None = None
        if watched is not None and start == "latest":
            positions = dict(watched.feed.head)
        elif watched is not None and not isinstance(start, str) and _is_kept(watched.feed, start):
            positions = dict(sorted(start.items()))
        else:
            spans = await self._spans(topic)
            watched = self._watched.get(topic) or self._open(topic, spans)
            for number in spans.keys() - watched.feed.head.keys():
                self._add_partition(watched.feed, number, spans[number].start)
            # The reader may be a moment ahead of the offsets that were asked for before.
            ends = {p: (span.start, max(span.end, watched.feed.head[p])) for p, span in spans.items()}
            match start:
                case "latest":
                    positions = dict(watched.feed.head)
                case "earliest":
                    positions = {p: begin for p, (begin, _) in sorted(ends.items())}
                case _:
                    positions, gap = place(start, ends)
        subscription = Subscription(watched.feed, self.history, self._settings, positions, gap)
        watched.watchers.add(subscription)
        return watched, subscription

    async def _spans(self, topic: str) -> dict[int, Span]:
        """The offsets that a topic has now. A thousand clients who come back at once ask Kafka a few times, not each."""
        asked_before = self._questions
        async with self._asking:
            if self._asker is None:
                raise UnavailableError("live streams have not started yet")
            number, spans = self._answers.get(topic, (0, {}))
            if number > asked_before:
                return spans
            self._questions += 1
            number = self._questions
            found = await self._asker.spans(await self._asker.partitions([topic]))
            spans = {partition.partition: span for partition, span in found.items()}
            self._answers[topic] = number, spans
        return spans

    def _open(self, topic: str, spans: dict[int, Span]) -> _Watched:
        if self._reader is None:
            raise UnavailableError("live streams have ended")
        feed = Feed(
            topic,
            {partition: span.end for partition, span in spans.items()},
            capacity=self._settings.stream_queue_events,
            capacity_bytes=self._settings.stream_queue_bytes,
        )
        self._watched[topic] = _Watched(feed, empty_since=time.monotonic())
        self._changed.set()
        return self._watched[topic]

    def _add_partition(self, feed: Feed, number: int, offset: int) -> None:
        feed.add_partition(number, offset)
        self._changed.set()

    async def follow(self) -> None:
        """Read and publish until the hub is stopped; who runs this stops the worker where it raises."""
        async with asyncio.TaskGroup() as group:
            refreshing = group.create_task(self._refresh())
            await self._read()
            refreshing.cancel()

    async def _read(self) -> None:
        failures = 0
        policy = self._settings.retry_policy()
        while self._reader is not None:
            self._forget()
            if not self._watched:
                self.trouble = None
                # Before anything is waited for: whoever comes meanwhile must be seen.
                self._changed.clear()
                await self.history.close()
                await self._changed.wait()
                continue
            try:
                batches = await self._poll()
            except LostPlaceError as exc:
                # Who comes back with a cursor is told what is missing, or that the cursor is another topic's.
                for topic in exc.topics:
                    self._end(topic, exc)
                continue
            except UnavailableError as exc:
                failures += 1
                self.trouble = exc.code
                log.warning("live streams wait for Kafka: %s", exc)
                await asyncio.sleep(policy.ceiling_s(failures))
                continue
            failures = 0
            if batches:
                await self._publish(batches)
                await asyncio.sleep(_GATHER_S)

    async def _poll(self) -> dict[Partition, list[Record]]:
        async with self._polling:
            if self._reader is None:
                return {}
            if self._changed.is_set():
                self._changed.clear()
                feeds = [watched.feed for watched in self._watched.values()]
                self._reader.assign({Partition(f.topic, p): offset for f in feeds for p, offset in f.head.items()})
            batches = await self._reader.poll(_POLL_MS)
            is_silent = not batches and self._reader.silence_s() >= _SILENCE_S
            self.trouble = KafkaUnavailableError.code if is_silent else None
            return batches

    def _forget(self) -> None:
        """Drop feeds that nobody has watched for a while."""
        latest = time.monotonic() - _LINGER_S
        for topic in [t for t, w in self._watched.items() if not w.watchers and w.empty_since <= latest]:
            del self._watched[topic]
            self._changed.set()

    def _end(self, topic: str, error: PlatformError) -> None:
        """End every subscription of a topic with an error."""
        if (watched := self._watched.pop(topic, None)) is not None:
            watched.feed.close(error)
            self._changed.set()

    async def _publish(self, batches: dict[Partition, list[Record]]) -> None:
        for partition, records in batches.items():
            watched = self._watched.get(partition.topic)
            if watched is None:
                continue
            for piece in watched.feed.pieces(records):
                await self._let_them_take(watched, piece)
                watched.feed.publish(piece)

    async def _let_them_take(self, watched: _Watched, piece: Sequence[Record]) -> None:
        """Wait a moment for watchers who would lose something by this piece: a burst is faster than any of them."""
        oldest = watched.feed.kept_after(piece)
        began = time.monotonic()
        while (late := [each for each in watched.watchers if each.holds_up(oldest)]) and not watched.feed.closed:
            now = time.monotonic()
            for watcher in late:
                strikes = watcher.strikes(now)
                if strikes > _MOST_STRIKES or now - began >= _PATIENCE_S / 2**strikes:
                    watcher.is_slow(now)
            if any(watcher.holds_up(oldest) for watcher in late):
                await asyncio.sleep(_LOOK_S)

    async def _refresh(self) -> None:
        """Find partitions that watched topics were given, and topics that are no more."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            for topic in list(self._watched):
                await self._refresh_topic(topic)

    async def _refresh_topic(self, topic: str) -> None:
        try:
            spans = await self._spans(topic)
        except UnknownTopicError as exc:
            self._end(topic, exc)
            return
        except UnavailableError as exc:
            log.warning("new partitions of %s are not looked for: %s", topic, exc)
            return
        if (watched := self._watched.get(topic)) is not None:
            for number in sorted(spans.keys() - watched.feed.head.keys()):
                log.info("%s was given partition %d", topic, number)
                self._add_partition(watched.feed, number, spans[number].start)


def _is_kept(feed: Feed, cursor: Positions) -> bool:
    """Whether a watcher can go on from a cursor without a look at Kafka's offsets."""
    return cursor.keys() == feed.head.keys() and all(feed.floor[p] <= cursor[p] <= feed.head[p] for p in cursor)
