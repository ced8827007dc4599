"""What libraries say too loudly, or again and again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

SAY_AGAIN_S: Final = 10.0


class NotAgain(logging.Filter):
    """Lets a message of a kind through once in ten seconds: a client whose broker is away says it ten times a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may be written; messages of one format are of one kind."""
        now = self._clock()
        if now - self._said.get(record.msg, float("-inf")) < SAY_AGAIN_S:
            return False
        self._said[record.msg] = now
        return True


def quieten() -> None:
    """Call once, after the libraries are imported."""
    # A line for each call of the registry is no news, and neither is a traceback for each client that speaks no HTTP;
    # what goes wrong in a handler is logged by web.errors.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    # A filter looks at its own logger's records alone, so each logger of the client gets one.
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] == "aiokafka":
            logging.getLogger(name).addFilter(NotAgain())
