"""What becomes of records that were handed over together: each has an outcome, and whoever asked may wait for all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from streams.domain.errors import PlatformError

log = logging.getLogger(__name__)

MAX_RECORD_BYTES: Final = 1_048_576
"""The broker's default `message.max.bytes`; a larger record is refused before it is queued."""

MAX_DEAD_LETTER_BYTES: Final = 2 * MAX_RECORD_BYTES
"""A dead letter holds a whole record, and why: its topic takes twice as much."""

Headers = Sequence[tuple[str, bytes]]


class OutgoingRecord(msgspec.Struct, frozen=True, gc=False):
    """A record to be written."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    max_bytes: int = MAX_RECORD_BYTES
    """What its topic takes."""

    @property
    def bytes(self) -> int:
        """Its size, without the few bytes that the record format adds."""
        size = 0
        for name, value in self.headers:
            size += len(name) + len(value)
        return size + len(self.key or b"") + len(self.value or b"")


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """Where an acknowledged record is: on disk by all in-sync replicas."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


Outcome = Receipt | PlatformError


class Sending:
    """Records that were handed over together, and what became of each.

    The records stay on their way when whoever waits for them gives up; only those that have not left yet are then
    taken back.
    """

    __slots__ = ("_left", "_then", "outcomes")

    def __init__(self, count: int) -> None:
        self.outcomes: list[Outcome | None] = [None] * count
        """In the order of the records; None while it is not known."""
        self._left = count
        self._then: list[Callable[[], None]] = []

    @property
    def is_settled(self) -> bool:
        """Whether every outcome is known."""
        return not self._left

    @property
    def is_wanted(self) -> bool:
        """Whether the records are still to be sent."""
        return bool(self._then)

    def settle(self, index: int, outcome: Outcome) -> None:
        """The outcome of a record is known; the first one counts."""
        if self.outcomes[index] is not None:
            return
        self.outcomes[index] = outcome
        self._left -= 1
        if not self._left:
            then, self._then = self._then, []
            for go_on in then:
                try:
                    go_on()
                except Exception:
                    # A bug of one who waits must not cost those behind it their outcome.
                    log.exception("what comes after a record's outcome failed")

    def then(self, go_on: Callable[[], None]) -> None:
        """Call this when every outcome is known, which is not yet. It waits like those who call `settled`."""
        self._then.append(go_on)

    def give_up(self, go_on: Callable[[], None]) -> None:
        """Wait no longer with what `then` was given."""
        if go_on in self._then:
            self._then.remove(go_on)

    async def settled(self, deadline: float = float("inf")) -> bool:
        """Wait until every outcome is known, at most until the deadline (the loop's time, seconds)."""
        await all_settled([self], deadline)
        return not self._left


async def all_settled(sendings: Iterable[Sending], deadline: float = float("inf")) -> None:
    """Wait until every outcome of all of them is known, at most until the deadline (the loop's time, seconds).

    All are waited for from the start, and not one after the other: what nobody waits for is not sent.
    """
    left = [sending for sending in sendings if not sending.is_settled]
    if not left:
        return
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    count = len(left)

    def one_less() -> None:
        nonlocal count
        count -= 1
        if not count:
            _wake(waiter)

    # One timer, which is cheaper by far than a time-out around a task.
    timer = None if deadline == float("inf") else loop.call_at(deadline, _wake, waiter)
    for sending in left:
        sending.then(one_less)
    try:
        await waiter
    finally:
        for sending in left:
            sending.give_up(one_less)
        if timer is not None:
            timer.cancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
