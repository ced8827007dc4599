"""Live fan-out: one reader a worker follows the topics that somebody watches, and feeds every watcher.

A watcher that does not keep up loses events of its own bounded queue and is told how many; the others
never wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from streams.domain.errors import UnavailableError
from streams.kafka.consumer import LogReader, Partition, Record
from streams.settings import Settings

log = logging.getLogger(__name__)

QUEUE_RECORDS: Final = 1_000
QUEUE_BYTES: Final = 8_388_608
"""How much a watcher may be behind: records, and bytes of their values."""
_IDLE_S: Final = 0.1
_POLL_MS: Final = 100
"""How long a new watcher waits at most for its turn."""


class Subscription:
    """What one watcher has not yet taken. Only the hub puts records in."""

    def __init__(self, topic: str, capacity: int = QUEUE_RECORDS) -> None:
        self.topic = topic
        self._queue: deque[Record] = deque()
        self._capacity = capacity
        self._bytes = 0
        self._ready = asyncio.Event()
        self._dropped = 0
        self._closed = False

    def put(self, records: Iterable[Record]) -> None:
        """Append records; past the capacity, in records or in bytes, the oldest go, and are counted."""
        for record in records:
            self._queue.append(record)
            self._bytes += len(record.value or b"")
        while len(self._queue) > self._capacity or (self._bytes > QUEUE_BYTES and len(self._queue) > 1):
            self._bytes -= len(self._queue.popleft().value or b"")
            self._dropped += 1
        self._ready.set()

    def close(self) -> None:
        """Let the watcher's `take` end once the queue is empty."""
        self._closed = True
        self._ready.set()

    async def take(self) -> tuple[list[Record], int]:
        """Everything that has come, at least one record, and how many were lost before it.

        An empty list means that the hub has shut down.
        """
        while not self._queue and not self._closed:
            self._ready.clear()
            await self._ready.wait()
        records, dropped = list(self._queue), self._dropped
        self._queue.clear()
        self._bytes = self._dropped = 0
        return records, dropped


class Hub:
    """The subscriptions of one worker and the reader that feeds them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reader: LogReader | None = None
        self._lock = asyncio.Lock()
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._positions: dict[Partition, int] = {}

    @property
    def watchers(self) -> int:
        """How many subscriptions there are."""
        return sum(map(len, self._subscriptions.values()))

    async def start(self) -> None:
        """Connect. Raises KafkaUnavailableError or KafkaAccessError."""
        self._reader = LogReader(self._settings, client_id=f"{self._settings.app_id}-hub")
        await self._reader.start()

    async def stop(self) -> None:
        """End every subscription and close the reader."""
        for subscription in [s for group in self._subscriptions.values() for s in group]:
            subscription.close()
        self._positions = {}
        # Not while it is being read: what `follow` polls for ends within its moment of waiting.
        async with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            await reader.stop()

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[Subscription]:
        """Watch a Kafka topic from now on: what is written after this has begun is seen.

        Raises UnknownTopicError, or UnavailableError before the hub has started.
        """
        subscription = Subscription(topic)
        async with self._lock:
            if topic not in self._subscriptions:
                await self._add(topic)
            self._subscriptions.setdefault(topic, set()).add(subscription)
        try:
            yield subscription
        finally:
            async with self._lock:
                group = self._subscriptions[topic]
                group.discard(subscription)
                if not group:
                    del self._subscriptions[topic]
                    self._drop(topic)

    async def _add(self, topic: str) -> None:
        reader = self._connected
        spans = await reader.spans(await reader.partitions([topic]))
        self._positions |= {partition: span.end for partition, span in spans.items()}
        reader.assign(self._positions)

    def _drop(self, topic: str) -> None:
        self._positions = {p: offset for p, offset in self._positions.items() if p.topic != topic}
        if self._reader is not None:
            self._reader.assign(self._positions)

    async def follow(self) -> None:
        """Read and publish until the hub is stopped; who runs this stops the worker where it raises."""
        failures = 0
        policy = self._settings.retry_policy()
        while self._reader is not None:
            if not self._positions:
                await asyncio.sleep(_IDLE_S)
                continue
            try:
                async with self._lock:
                    if self._reader is not None:
                        self._publish(await self._reader.poll(_POLL_MS))
                failures = 0
            except UnavailableError as exc:
                failures += 1
                log.warning("live streams wait for Kafka: %s", exc)
                await asyncio.sleep(policy.ceiling_s(failures))

    def _publish(self, batches: dict[Partition, list[Record]]) -> None:
        for partition, records in batches.items():
            self._positions[partition] = records[-1].offset + 1
            for subscription in self._subscriptions.get(partition.topic, ()):
                subscription.put(records)

    @property
    def _connected(self) -> LogReader:
        if self._reader is None:
            raise UnavailableError("live streams have not started yet")
        return self._reader
