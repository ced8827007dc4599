"""Doing a thing again until it works: the shell around `streams.domain.retry`, with a real clock."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from streams.domain.errors import PlatformError
from streams.domain.retry import RetryPolicy

T = TypeVar("T")


def is_retriable(error: Exception) -> bool:
    """Whether the same call may succeed later, as far as the error itself knows."""
    return isinstance(error, PlatformError) and error.retriable


async def retrying(
    attempt: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    may_pass: Callable[[Exception], bool] = is_retriable,
    on_retry: Callable[[Exception, int], None] | None = None,
) -> T:
    """What `attempt` returns, tried again by the policy while its error may pass.

    `on_retry` is told the error and how many attempts have failed. Raises the last error where it may not pass, or
    the deadline allows no further attempt.
    """
    began = time.monotonic()
    failures = 0
    while True:
        try:
            return await attempt()
        except Exception as exc:
            failures += 1
            delay = policy.delay_s(failures, time.monotonic() - began, random.random())
            if delay is None or not may_pass(exc):
                raise
            if on_retry is not None:
                on_retry(exc, failures)
            await asyncio.sleep(delay)
