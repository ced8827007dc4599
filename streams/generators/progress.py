"""How a run is going: one line, redrawn on a terminal, else written every ten seconds."""

from __future__ import annotations

import asyncio
import time
from typing import Final, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from streams.generators.totals import Totals

REDRAW_S: Final = 0.5
WRITE_S: Final = 10.0


class ProgressLine:
    """The text, with the rate since it was last asked for."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._began = self._asked_at = time.monotonic()
        self._sent = 0

    def text(self) -> str:
        """Events sent, events a second, retries, failures and surprises."""
        totals = self._totals
        now = time.monotonic()
        sent = totals.emitted
        rate = (sent - self._sent) / max(now - self._asked_at, 1e-6)
        self._asked_at, self._sent = now, sent
        return (
            f"{now - self._began:.0f} s: {sent:,} events sent, {rate:,.0f}/s,"
            f" {totals.retries:,} retries, {totals.failed:,} failed, {totals.surprises:,} surprises"
        )


async def show_progress(totals: Totals, err: TextIO) -> None:
    """Show the line until cancelled."""
    line = ProgressLine(totals)
    if not err.isatty():
        while True:
            await asyncio.sleep(WRITE_S)
            err.write(line.text() + "\n")
            err.flush()
    with Live(Text(""), console=Console(file=err), auto_refresh=False, transient=True) as live:
        while True:
            await asyncio.sleep(REDRAW_S)
            live.update(Text(line.text()), refresh=True)
