"""Waiting until the platform takes events."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import aiohttp
from yarl import URL

from streams.domain.errors import UnavailableError
from streams.domain.retry import RetryPolicy

READY_PATH: Final = "api/v1/health/ready"
_SAY_EVERY_S: Final = 10.0
_ANSWER_WITHIN_S: Final = 5.0


async def wait_until_ready(base: URL, policy: RetryPolicy, stop: asyncio.Event, say: Callable[[str], None]) -> None:
    """Return when the worker at `base` says that it is ready, or `stop` is set.

    The policy has the delays and the deadline; `say` is told of a wait at once and then every ten seconds.
    Raises UnavailableError when the deadline has passed.
    """
    url = base / READY_PATH
    began = time.monotonic()
    said_at = -_SAY_EVERY_S
    failures = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_WITHIN_S)) as session:
        while not stop.is_set():
            state = await _state(session, url)
            if state is None:
                return
            failures += 1
            elapsed_s = time.monotonic() - began
            delay_s = policy.delay_s(failures, elapsed_s, random.random())
            if delay_s is None:
                raise UnavailableError(f"{url} was not ready within {policy.deadline_s:g} s: {state}")
            if elapsed_s - said_at >= _SAY_EVERY_S:
                said_at = elapsed_s
                say(f"waiting for {url}: {state}")
            try:
                await asyncio.wait_for(stop.wait(), delay_s)
            except TimeoutError:
                continue


async def _state(session: aiohttp.ClientSession, url: URL) -> str | None:
    """What keeps the worker from being ready; None when nothing does."""
    try:
        async with session.get(url) as response:
            if response.status == HTTPStatus.OK:
                return None
            return f"{response.status} {(await response.text())[:200]}".rstrip()
    except (aiohttp.ClientError, TimeoutError) as exc:
        return str(exc) or type(exc).__name__
