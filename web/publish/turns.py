"""Long work on the event loop, a few milliseconds at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from time import perf_counter
from typing import Final, TypeVar

T = TypeVar("T")

TURN_S: Final = 0.005


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """The items, one by one; whenever those, and what is done with them, have taken a turn's time, others get theirs.

    By time and not by number: what is wrong with a record takes fifty times as long to tell as that nothing is.
    """
    ends = perf_counter() + TURN_S
    for item in items:
        yield item
        if perf_counter() >= ends:
            await asyncio.sleep(0)
            ends = perf_counter() + TURN_S
