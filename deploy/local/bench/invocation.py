"""The command line of a benchmark: its numbers, and how it ends when it is broken off."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from deploy.local.bench.report import Case


def positive(text: str) -> int:
    """A number of 1 or more, with `_` or `,` between its thousands. Raises ArgumentTypeError or ValueError."""
    number = int(text.replace("_", "").replace(",", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def parser(prog: str, description: str | None, cases: Sequence[Case]) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    names = [case.name for case in cases]
    found = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog="cases: " + "; ".join(f"{case.name}: {case.title}" for case in cases),
    )
    found.add_argument("--runs", type=positive, default=5, metavar="N", help="runs of each subject (5)")
    found.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="CASE",
        help=f"only this case, may be repeated: {', '.join(names)}",
    )
    found.add_argument("--json", action="store_true", help="print JSON on standard output, and progress on the other")
    return found


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end us as Ctrl-C does: in order."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
