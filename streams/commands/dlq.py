"""`faust -A streams dlq`: dead letters listed, shown and redriven."""

from __future__ import annotations

import asyncio
import getpass
import signal
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

import click
import msgspec
from faust.cli import AppCommand, option
from faust.cli.base import _apply_options, cli
from mode.worker import exiting
from rich.console import Console
from rich.table import Table

from streams.commands.running import plain_errors
from streams.dead_letters import LetterBrowser, LetterStore, LetterSummary, LetterView, Text
from streams.domain.errors import PlatformError
from streams.domain.newest_first import parse_cursor
from streams.domain.redrive import LetterFilter, Place, Tally
from streams.domain.validation import parse_timestamp
from streams.faust_app import Platform, app
from streams.kafka.consumer import LogReader
from streams.redriving import Intake, Look, Order, Redrive, Redriver, redrive_writer
from streams.topics import event_topics, redrive_spec

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_PROGRESS_S: Final = 1.0


@cli.group("dlq", help="List, show and redrive dead letters.")
def group() -> None:
    """The commands below it register themselves here."""


class _DlqCommand(AppCommand):
    """A command below `dlq`, which Faust itself has no way to say."""

    abstract: ClassVar[bool] = True

    @classmethod
    def as_click_command(cls) -> Any:
        @click.pass_context
        def run(*args: Any, **kwargs: Any) -> None:
            command = cls(*args, **kwargs)
            with exiting(print_exception=True, file=sys.stderr):
                command()

        return _apply_options(cls.options or [])(group.command(cls.__name__.rstrip("_"), help=cls.__doc__)(run))


class _Time(click.ParamType):
    """RFC 3339 with a time zone, or epoch milliseconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_timestamp(int(value) if str(value).isdecimal() else value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class _Letter(click.ParamType):
    """`partition@offset`."""

    name = "partition@offset"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place:
        try:
            return Place.parse(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class _Cursor(click.ParamType):
    """What a page ended with."""

    name = "cursor"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[int, int]:
        try:
            return parse_cursor(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


_FILTERS: Final = (
    option("--reason", "reasons", multiple=True, help="only those with this code; repeatable"),
    option("--source-topic", help="only records that came from this Kafka topic, such as platform.ingress"),
    option("--event-topic", help="only events for this topic, such as iot"),
    option("--from", "from_ms", type=_Time(), help="only those that failed then or later: RFC 3339, or epoch ms"),
    option("--to", "to_ms", type=_Time(), help="only those that failed before"),
    option("--letter", "letters", type=_Letter(), multiple=True, help="only this one, such as 0@17; repeatable"),
)
_JSON: Final = option("--json", "as_json", is_flag=True, help="for machines: one JSON document")


@app.command(
    *_FILTERS,
    option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="how many"),
    option("--before", type=_Cursor(), help="where an earlier page ended"),
    _JSON,
    base=_DlqCommand,
)
@plain_errors
async def list_(self: AppCommand, limit: int, before: dict[int, int] | None, as_json: bool, **filters: Any) -> None:
    """List dead letters, newest first."""
    page = await _browser(app.platform).page(_filter(**filters), limit, before)
    if as_json:
        _print_json({"letters": page.items, "before": page.before, "truncated": page.truncated})
        return
    table = Table()
    for column in ("letter", "failed at (UTC)", "reason"):
        table.add_column(column, no_wrap=True)
    table.add_column("for", overflow="fold")
    table.add_column("replays", justify="right")
    table.add_column("detail", overflow="fold", ratio=1)
    for letter in page.items:
        table.add_row(*_row(letter))
    Console().print(table)
    if page.before is not None:
        sys.stderr.write(f"there are older ones: --before {page.before}\n")


@app.command(click.argument("letter", type=_Letter()), _JSON, base=_DlqCommand)
@plain_errors
async def show(self: AppCommand, letter: Place, as_json: bool) -> None:
    """Show one dead letter in full: LETTER is its partition@offset, such as 0@17."""
    view = await _browser(app.platform).view(letter)
    if view is None:
        sys.stderr.write(f"there is no dead letter {letter}\n")
        sys.exit(1)
    if as_json:
        _print_json(view)
    else:
        sys.stdout.write(_in_full(view))


@app.command(
    *_FILTERS,
    option("--limit", type=click.IntRange(1), help="how many letters are redriven at most"),
    option(
        "--rate", type=click.FloatRange(0, min_open=True), help="records a second; STREAMS_DLQ_REDRIVE_RATE if absent"
    ),
    option("--yes", is_flag=True, help="do it; without it, only what would happen is said"),
    _JSON,
    base=_DlqCommand,
)
@plain_errors
async def redrive(
    self: AppCommand, limit: int | None, rate: float | None, yes: bool, as_json: bool, **filters: Any
) -> None:
    """Write dead letters that are valid today to their event topics, each exactly once.

    A dry run comes first, and is all unless --yes is given. Ctrl-C ends it when the transaction under way is finished.
    """
    platform, wanted = app.platform, _filter(**filters)
    await _prepare(platform)
    redriver = _redriver(platform)
    look = await redriver.look(wanted, limit)
    if not yes:
        _show_look(look, as_json=as_json)
        return
    _say(f"dry run: {_words(look.totals)}")
    order = Order(
        str(uuid.uuid4()),
        getpass.getuser(),
        time.time_ns() // 1_000_000,
        wanted,
        rate or platform.settings.dlq_redrive_rate,
        limit,
    )
    run = redriver.begin(order)
    error: PlatformError | None = None
    try:
        await _until_stopped(run)
    except PlatformError as exc:
        error = exc
    if as_json:
        _print_json({"run_id": order.run_id, "totals": run.tally, "error": None if error is None else error.code})
    else:
        sys.stdout.write(f"{order.run_id}: {_words(run.tally)}\n")
    if error is not None:
        raise error


async def _until_stopped(run: Redrive) -> None:
    """Work to the end, or to that of the transaction under way when a signal comes; progress goes to stderr."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(run.work())

    def stop() -> None:
        _say("finishing the transaction under way")
        run.stop()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_PROGRESS_S)
            if not task.done():
                _say(_words(run.tally))
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    task.result()


async def _prepare(platform: Platform) -> None:
    """What a worker does at its start, as far as a redrive needs it."""
    await platform.admin.create([redrive_spec(platform.settings)])
    for topic in event_topics(platform.settings):
        await platform.schemas.prepare(topic)


def _store(platform: Platform) -> LetterStore:
    settings = platform.settings
    return LetterStore(lambda: LogReader(settings, client_id=f"{settings.app_id}-dlq"))


def _browser(platform: Platform) -> LetterBrowser:
    return LetterBrowser(_store(platform), platform.codec, platform.loader, platform.registry)


def _redriver(platform: Platform) -> Redriver:
    settings = platform.settings
    return Redriver(
        _store(platform),
        lambda: redrive_writer(settings),
        Intake(platform.codec, platform.loader, platform.catalog, platform.publisher),
        policy=settings.retry_policy(),
        max_replays=settings.dlq_max_replays,
    )


def _filter(
    *,
    reasons: tuple[str, ...],
    source_topic: str | None,
    event_topic: str | None,
    from_ms: int | None,
    to_ms: int | None,
    letters: tuple[Place, ...],
) -> LetterFilter:
    return LetterFilter(frozenset(reasons), source_topic, event_topic, from_ms, to_ms, frozenset(letters))


def _row(letter: LetterSummary) -> tuple[str, ...]:
    return (
        f"{letter.partition}@{letter.offset}",
        "" if letter.failed_at is None else _clock(letter.failed_at),
        letter.reason or letter.error or "",
        letter.event_topic or letter.source_topic or "",
        str(letter.replays),
        letter.detail or "",
    )


def _in_full(view: LetterView) -> str:
    letter, lines = view.letter, []
    for field in letter.__struct_fields__:
        value = getattr(letter, field)
        if isinstance(value, Text):
            value = value.text if value.text is not None else f"base64 {value.base64}"
        if value is not None:
            lines.append(f"{field}: {value}")
    lines += [f"redriven_by: {view.redriven_by}"] if view.redriven_by else []
    lines += ["", f"decoded ({view.decoded.format or 'no format'}):"]
    if view.decoded.error is not None:
        lines.append(f"  {view.decoded.error}: {view.decoded.detail}")
    else:
        lines.append(msgspec.json.format(bytes(view.decoded.document), indent=2).decode("utf-8", "replace"))
    lines += ["", "headers:"]
    lines += [
        f"  {h.name}: {h.value.text if h.value.text is not None else f'base64 {h.value.base64}'}"
        for h in view.raw.headers
    ]
    lines += ["", f"key (base64): {view.raw.key}", f"value (base64): {view.raw.value}", ""]
    return "\n".join(lines)


def _show_look(look: Look, *, as_json: bool) -> None:
    if as_json:
        _print_json({"dry_run": True, "totals": look.totals, "sample": look.sample, "complete": look.complete})
        return
    table = Table("letter", "would be", "why")
    for one in look.sample:
        why = " ".join(filter(None, (one.code, one.detail)))
        table.add_row(f"{one.partition}@{one.offset}", one.outcome.value, why)
    Console().print(table)
    sys.stdout.write(f"dry run: {_words(look.totals)}\n")
    _say("nothing was written; add --yes to do it")


def _words(tally: Tally) -> str:
    """The totals in one line."""
    parts = [f"{tally.redriven:,} redriven", f"{tally.already_redriven:,} already redriven"]
    for what, counts in (("still invalid", tally.invalid), ("refused", tally.refused)):
        by = ", ".join(f"{code} {count:,}" for code, count in sorted(counts.items()))
        parts.append(f"{sum(counts.values()):,} {what}" + (f" ({by})" if by else ""))
    return ", ".join(parts)


def _print_json(document: object) -> None:
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _clock(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
