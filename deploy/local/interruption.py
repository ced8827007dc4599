"""How `make run` is told to end: by a signal, or by somebody who stops the stack from elsewhere."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - the wish of a person, not an error
    """Somebody wants the stack to end."""


class StoppedElsewhere(Interrupted):
    """Somebody stops it already, from another terminal."""


@dataclass
class Stop:
    """The wish to stop, set by a signal; a second signal only says that we are at it."""

    event: threading.Event
    stopping: bool = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Take SIGINT, SIGTERM and SIGHUP."""
        self.event.set()
        if number == signal.SIGHUP:
            # The terminal is gone, or the pipe's reader: what we print from now on would raise.
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
        elif self.stopping:
            # write(2) itself: print is not for signal handlers, which may come in the middle of one. And it must not
            # raise: the reader of a pipe (make run | tee) gets the same Ctrl-C, and is gone by now.
            with suppress(OSError):
                os.write(2, b"\nstopping already; processes that do not end are killed in time\n")
