"""A few readers of the log for many questions, so that a slow question holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from streams.domain.errors import OverloadedError, PlatformError
from streams.kafka.consumer import LogReader

IDLE_S: Final = 60.0
"""How long a reader that nobody asks keeps its connections."""
WAITING_PER_READER: Final = 16
"""So many questions may wait for each reader; more are refused, which is cheaper for both sides than to wait in vain."""

_CLOSE_S: Final = 5.0


class ReaderPool:
    """Up to `size` readers, connected when they are first needed; each question has one for itself."""

    def __init__(self, open_reader: Callable[[], LogReader], size: int, *, idle_s: float = IDLE_S) -> None:
        self._open_reader = open_reader
        self._slots = asyncio.Semaphore(size)
        self._most_waiting = size * WAITING_PER_READER
        self._waiting = 0
        self._idle_s = idle_s
        self._free: list[tuple[LogReader, float]] = []
        """Who was used last is last, with the loop's time of that: so those that are not needed grow old."""
        self._expiry: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[LogReader]:
        """A reader for one question; waits for its turn.

        Raises OverloadedError where too many wait already, or Kafka's errors. A reader that a question left in the
        middle, by an error or by its deadline, is closed: what it was about to get is anybody's guess.
        """
        if self._slots.locked() and self._waiting >= self._most_waiting:
            raise OverloadedError(f"{self._waiting} questions wait for a reader of the log")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            reader = self._free.pop()[0] if self._free else await self._connected()
            try:
                yield reader
            except BaseException:
                self._discard(reader)
                raise
            self._free.append((reader, asyncio.get_running_loop().time()))
            self._expire_later()
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Close the connections of readers that are not in use."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        while self._free:
            self._discard(self._free.pop()[0])
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSE_S)

    async def _connected(self) -> LogReader:
        reader = self._open_reader()
        await reader.start()
        return reader

    def _expire_later(self) -> None:
        if self._expiry is None and self._free:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_at(self._free[0][1] + self._idle_s, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        oldest = asyncio.get_running_loop().time() - self._idle_s
        while self._free and self._free[0][1] <= oldest:
            self._discard(self._free.pop(0)[0])
        self._expire_later()

    def _discard(self, reader: LogReader) -> None:
        # Beside the request, whose deadline may have no time left for it.
        task = asyncio.get_running_loop().create_task(_stop(reader))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _stop(reader: LogReader) -> None:
    try:
        await reader.stop()
    except PlatformError:
        return  # it is given up because Kafka is away: that it cannot say goodbye is no news
