"""`faust -A streams audit`: the ledger in which every event is accounted for, and whether it balances."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import orjson
from faust.cli import AppCommand, option
from rich.console import Console
from rich.live import Live
from rich.text import Text

from streams.commands.audit_report import document, pages
from streams.commands.running import plain_errors, until_interrupted
from streams.domain.errors import ConfigurationError
from streams.domain.ledger import Rules, TimeRange
from streams.domain.naming import EVENTS_PREFIX
from streams.domain.validation import parse_timestamp
from streams.faust_app import app
from streams.generators.options import parse_duration
from streams.ledger import Notify, Progress, Report
from streams.ledger import audit as read_ledger

QUIET_S: Final = 2.0
"""What takes no longer says nothing on its way."""
REDRAW_S: Final = 0.5
WRITE_S: Final = 5.0
WIDTH: Final = 120
"""Columns of the tables where there is no terminal."""
_AGO = re.compile(r"[\d.]+(ms|s|m|h)")


@app.command(
    option("--from", "start", help="RFC 3339, epoch ms, or how long ago: 15m, 2h; the beginning when absent"),
    option("--to", "end", help="the same; now when absent"),
    option("--distinct", is_flag=True, help="windows hold each event id once"),
    option("--no-duplicates", is_flag=True, help="an event id that occurs twice is a difference"),
    option("--wait", default="30s", show_default=True, help="how long open transactions are waited for"),
    option("--all", "everything", is_flag=True, help="show every minute, however many there are"),
    option("--json", "as_json", is_flag=True, help="for machines: one JSON document"),
)
@plain_errors
async def audit(
    self: AppCommand,
    start: str | None,
    end: str | None,
    *,
    distinct: bool,
    no_duplicates: bool,
    wait: str,
    everything: bool,
    as_json: bool,
) -> None:
    """Account for every event, by topic and minute; exit code 1 and the differences where it does not add up."""
    now_ms = int(time.time() * 1_000)
    period = TimeRange.around(parse_moment(start, "--from", now_ms), parse_moment(end, "--to", now_ms))
    if period.start_ms is not None and period.end_ms is not None and period.start_ms >= period.end_ms:
        raise ConfigurationError("--from: it takes a time before that of --to")
    rules = Rules(distinct=distinct, no_duplicates=no_duplicates)
    patience_s = parse_duration(wait, "--wait")
    found: list[Report] = []

    async def read() -> None:
        topics = [name for name in await app.platform.admin.topics() if name.startswith(EVENTS_PREFIX)]
        with progress(Console(stderr=True)) as notify:
            found.append(await read_ledger(app.platform.settings, topics, period, rules, notify, patience_s=patience_s))

    await until_interrupted(read())
    if not found:
        sys.stderr.write("interrupted\n")
        sys.exit(130)  # as a shell reports Ctrl-C
    [report] = found
    if as_json:
        sys.stdout.write(orjson.dumps(document(report), option=orjson.OPT_NON_STR_KEYS).decode() + "\n")
    else:
        console = Console()
        if not console.is_terminal:
            console = Console(width=WIDTH)
        console.print(pages(report, everything=everything), highlight=False)
    sys.stdout.flush()
    if not report.verdict.balanced:
        sys.exit(1)


def parse_moment(text: str | None, name: str, now_ms: int) -> int | None:
    """Epoch milliseconds of RFC 3339, of epoch milliseconds, or of a duration before now. Raises ConfigurationError."""
    if text is None:
        return None
    text = text.strip()
    if _AGO.fullmatch(text):
        return now_ms - round(parse_duration(text, name) * 1_000)
    try:
        return parse_timestamp(int(text) if text.removeprefix("-").isdecimal() else text)
    except ValueError as exc:
        raise ConfigurationError(
            f"{name}: it takes RFC 3339 with a time zone, epoch milliseconds, or a time ago such as 15m, not {text!r}"
        ) from exc


@contextmanager
def progress(console: Console) -> Iterator[Notify]:
    """Shows how far the reading is once it takes long: one line, redrawn on a terminal, else written now and then."""
    began = time.monotonic()
    shown_at = began + QUIET_S - WRITE_S
    with Live(Text(""), console=console, auto_refresh=False, transient=True) as live:

        def notify(at: Progress) -> None:
            nonlocal shown_at
            now = time.monotonic()
            if now - began < QUIET_S or now - shown_at < (REDRAW_S if console.is_terminal else WRITE_S):
                return
            shown_at = now
            if console.is_terminal:
                live.update(Text(_line(at, now - began)), refresh=True)
            else:
                console.file.write(_line(at, now - began) + "\n")
                console.file.flush()

        yield notify


def _line(at: Progress, seconds: float) -> str:
    if not at.whole:
        return f"{seconds:.0f} s: {at.doing}"
    share = min(at.done / at.whole, 1.0)
    return f"{seconds:.0f} s: {at.doing}: {at.done:,} records, {share:.0%}, {at.done / seconds:,.0f} a second"
