"""Sending emissions when they are due, several at once, and counting what becomes of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final

from streams.generators.emission import Emission
from streams.generators.sink import Outcome, Sink, Verdict
from streams.generators.totals import Totals

TICK_S: Final = 0.01
"""The shortest sleep: what comes due meanwhile goes out together, which costs one timer, not one an event."""
_LOOK_UP_S: Final = 0.2
"""The longest sleep, so that a stop is seen soon."""


async def drive(
    emissions: Iterable[Emission], sink: Sink, totals: Totals, *, workers: int, stop: asyncio.Event
) -> None:
    """Send every emission at its time, or as soon after as the sink takes it, until they end or `stop` is set.

    Those under way are then finished; those that are only queued are dropped, and count for nothing. Raises the
    PlatformError of an outcome that is fatal, after the others under way were counted.
    """
    queue: asyncio.Queue[Emission | None] = asyncio.Queue(maxsize=workers)
    halted = asyncio.Event()
    fatal: list[Exception] = []

    async def work() -> None:
        while (emission := await queue.get()) is not None:
            if halted.is_set() or stop.is_set():
                continue
            outcome = Outcome(Verdict.FAILED, uncertain=True)
            try:
                outcome = await sink.send(emission)
            finally:
                # Also when this task is cancelled: the event may have arrived.
                totals.settle(emission, outcome)
            if outcome.fatal is not None:
                fatal.append(outcome.fatal)
                halted.set()
                sink.abandon()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(workers):
            tasks.create_task(work())
        await _feed(emissions, queue, (halted, stop))
        for _ in range(workers):
            await queue.put(None)
    if fatal:
        raise fatal[0]


async def _feed(
    emissions: Iterable[Emission], queue: asyncio.Queue[Emission | None], ends: tuple[asyncio.Event, asyncio.Event]
) -> None:
    halted, stop = ends
    began = time.monotonic()
    for emission in emissions:
        while (wait_s := emission.send_at_s - (time.monotonic() - began)) > 0.0:
            await asyncio.sleep(min(max(wait_s, TICK_S), _LOOK_UP_S))
            if halted.is_set() or stop.is_set():
                return
        await queue.put(emission)
        if halted.is_set() or stop.is_set():
            return
