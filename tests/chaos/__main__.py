"""`make chaos-agents`: the agents on a real broker, while workers are killed, frozen and fenced, and Kafka fails.

Needs no running stack: it starts a broker, a registry and workers of its own, on free ports and in a temporary
directory, and leaves nothing behind. The exit code is 1 on any difference, 130 on Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from tests.chaos.faults import short, whole
from tests.chaos.feed import FeedError
from tests.chaos.report import document, show
from tests.chaos.run import Chaos, ChaosError, Outcome
from tests.stack import ServerDiedError

_WRITE_S: Final = 5.0


class ProgressLine:
    """Says how far it is: one line that is redrawn on a terminal, else one now and then."""

    def __init__(self) -> None:
        self._said_at = float("-inf")
        self._is_terminal = sys.stderr.isatty()

    def tell(self, text: str) -> None:
        """Show this now."""
        now = time.monotonic()
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\033[K{text[:width]}")
        elif now - self._said_at >= _WRITE_S:
            self._said_at = now
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._is_terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def main() -> NoReturn:
    """Run, report, and exit."""
    arguments = _arguments()
    logging.basicConfig(level=logging.CRITICAL)  # of Kafka's clients, while the broker is away
    line = ProgressLine()
    plan = (short if arguments.short else whole)(arguments.seed)
    directory = Path(arguments.keep or tempfile.mkdtemp(prefix="streams-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    chaos = Chaos(directory, seed=arguments.seed, events=arguments.events, plan=plan, tell=line.tell)
    code = 130
    try:
        outcome = asyncio.run(_within(chaos, arguments.limit))
        line.end()
        sys.stdout.write(json.dumps(document(outcome)) + "\n" if arguments.json else show(outcome) + "\n")
        code = 0 if outcome.is_sound else 1
    except (ChaosError, FeedError, ServerDiedError) as exc:
        line.end()
        sys.stderr.write(f"seed {arguments.seed}: {exc}\n")
        code = 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        line.end()
        sys.stderr.write("interrupted\n")
    finally:
        if not arguments.keep:
            shutil.rmtree(directory, ignore_errors=True)
    sys.exit(code)


async def _within(chaos: Chaos, limit_s: float) -> Outcome:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with asyncio.timeout(limit_s):
            return await chaos.run()
    except TimeoutError:
        with suppress(AttributeError):
            raise ChaosError(f"not done within {limit_s:g} s\n{chaos.picture()}") from None
        raise


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=300_000, help="how many; 300000 when absent")
    parser.add_argument("--seed", type=int, default=1, help="of events and faults; 1 when absent")
    parser.add_argument("--short", action="store_true", help="one of each fault only: what make test does")
    parser.add_argument("--limit", type=float, default=480.0, help="give up after so many seconds; 480 when absent")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--keep", metavar="DIRECTORY", help="leave the workers' logs and journals there")
    arguments = parser.parse_args()
    if arguments.events < 1_000:
        parser.error("--events: it takes 1000 or more")
    return arguments


if __name__ == "__main__":
    main()
