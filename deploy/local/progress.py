"""Progress of long steps: what is being done, how much of it, and for how long already.

Standard library only: `make setup` runs before any environment exists.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TextIO

REFRESH_S: Final = 0.2
PLAIN_EVERY_S: Final = 10.0
TAIL_LINES: Final = 15

_COLOURS: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class SetupError(Exception):
    """A step failed; the message says what, and what mends it."""


def paint(text: str, colour: str, out: TextIO | None = None) -> str:
    """`text` in a colour on a terminal, as it is otherwise (also with NO_COLOR, see no-color.org)."""
    if os.environ.get("NO_COLOR") or not (out or sys.stdout).isatty():
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def megabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1_000_000:.1f} MB"


def say(text: str, out: TextIO | None = None, *, end: str = "\n", before: str = "") -> None:
    """Write a line at once; when nobody can read it any more, take that as a hang-up, and go on.

    A terminal that was closed reports it to the leader of its session alone, which may be a make that waits for us.
    """
    stream = out or sys.stdout
    try:
        stream.write(before + text + end)
        stream.flush()
    except OSError:
        os.kill(os.getpid(), signal.SIGHUP)


class Step:
    """One long step. On a terminal its line is refreshed in place; elsewhere a line comes every ten seconds.

    `measure` is called from a thread of its own and says how much is done so far.
    """

    def __init__(self, title: str, measure: Callable[[], str] = str, out: TextIO | None = None) -> None:
        self.title = title
        self.measure = measure
        self._out = out or sys.stdout
        self._terminal = self._out.isatty()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        """Start to show progress."""
        if not self._terminal:
            self._print(f"  {self.title} …")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave one line that says how it ended."""
        self._done.set()
        self._thread.join()
        mark = paint("✓", "green", self._out) if kind is None else paint("✗", "red", self._out)
        self._print(f"{mark} {self._line()}", replace=True)

    def _line(self) -> str:
        detail = self.measure()
        return f"{self.title}: {detail + ', ' if detail else ''}{time.monotonic() - self._started:.0f} s"

    def _show(self) -> None:
        while not self._done.wait(REFRESH_S if self._terminal else PLAIN_EVERY_S):
            self._print(
                f"{paint('…', 'cyan', self._out)} {self._line()}", replace=True, end="" if self._terminal else "\n"
            )

    def _print(self, text: str, *, replace: bool = False, end: str = "\n") -> None:
        # Erase first: a shorter line would leave the end of the longer one behind it.
        say(text, self._out, end=end, before="\r\x1b[2K" if replace and self._terminal else "")


def run_step(
    title: str,
    command: Sequence[str],
    *,
    log: Path,
    measure: Callable[[], str] = str,
    on_line: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a command as one step: its output goes to `log`, its progress to the terminal.

    Raises SetupError with the last lines of the output when the command fails.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    log.parent.mkdir(parents=True, exist_ok=True)
    with Step(title, measure), log.open("w", encoding="utf-8") as file:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=dict(env) if env is not None else None,
                cwd=cwd,
            )
        except OSError as exc:
            raise SetupError(f"{title}: {command[0]} does not run: {exc.strerror}") from exc
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                tail.append(line.rstrip())
                if on_line is not None:
                    on_line(line)
        if process.returncode:
            raise SetupError(
                f"{title}: {command[0]} ended with status {process.returncode}; its last lines (all: {log}):\n  "
                + "\n  ".join(tail)
            )
