"""How a command meets its user: mistakes in one line, Ctrl-C without a traceback."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import ParamSpec

from streams.domain.errors import PlatformError

P = ParamSpec("P")


def plain_errors(command: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """The command, whose expected errors end it with a line on stderr and exit code 1."""

    @wraps(command)
    async def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await command(*args, **kwargs)
        except PlatformError as exc:
            sys.stderr.write(f"{exc} [{exc.code}]\n")
            sys.exit(1)

    return run


async def until_interrupted(work: Coroutine[None, None, None]) -> None:
    """Run until the work ends, or Ctrl-C or SIGTERM ends it; either way it closes what it has opened.

    Faust's own handler stops the loop under a command that is still waiting.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()
