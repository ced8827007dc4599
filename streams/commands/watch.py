"""`faust -A streams watch`: the live picture of a running platform, read from Kafka alone."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from faust.cli import AppCommand, option
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streams.codecs import AvroCodec
from streams.commands.running import plain_errors, until_interrupted
from streams.commands.topics import open_reader
from streams.domain.aggregates import AggregatedEvent, supersedes
from streams.domain.errors import PlatformError
from streams.domain.naming import AGGREGATES, DLQ, EVENTS_PREFIX, INGRESS, LATE, api_topic
from streams.faust_app import app
from streams.kafka.consumer import LogReader, Partition, Record, Span
from streams.registry import SchemaLoader, SchemaRegistry

_WINDOWS: Final = 8
_RATE_OVER_S: Final = 5.0
_HISTORY: Final = 200
"""How many of the last records of each partition of platform.aggregates are looked at when it begins."""


class Picture:
    """What is known of the platform now. Pure but for the clock that the caller passes in."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.windows: dict[tuple[str, str, str, int], AggregatedEvent] = {}
        self._samples: deque[tuple[float, dict[str, int]]] = deque()

    def count(self, ends: dict[str, int], now_s: float) -> None:
        """Note how many records each topic holds at a time (s)."""
        self.counts = ends
        self._samples.append((now_s, ends))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > _RATE_OVER_S:
            self._samples.popleft()

    def rate(self, topic: str) -> float:
        """Records a second over the last five seconds."""
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        if ended <= began or topic not in first:
            return 0.0
        return (last.get(topic, 0) - first[topic]) / (ended - began)

    def closed(self, result: AggregatedEvent) -> None:
        """Note a window result; only the newest windows are kept."""
        if supersedes(result, self.windows.get(result.identity)):
            self.windows[result.identity] = result
        for identity in sorted(self.windows, key=lambda i: i[3], reverse=True)[_HISTORY:]:
            del self.windows[identity]

    def newest(self) -> list[AggregatedEvent]:
        """The newest closed windows, newest first."""
        return sorted(self.windows.values(), key=lambda r: (-r.window_start, r.topic, r.event_type))[:_WINDOWS]

    def line(self) -> str:
        """One line, for a log."""
        events = [topic for topic in self.counts if topic.startswith(EVENTS_PREFIX)]
        parts = [f"{sum(map(self.rate, events)):,.0f} events/s"]
        parts += [f"{api_topic(topic)} {self.counts[topic]:,}" for topic in events]
        parts += [f"dlq {self.counts.get(DLQ, 0):,}", f"late {self.counts.get(LATE, 0):,}"]
        if newest := self.newest():
            window = newest[0]
            parts.append(
                f"newest window {_clock(window.window_start)} {window.topic}/{window.event_type} {window.count:,}"
            )
        return " | ".join(parts)

    def tables(self) -> Group:
        """The same as tables, for a terminal."""
        totals = Table("topic", title="Events", title_justify="left")
        totals.add_column("events", justify="right")
        totals.add_column("per second", justify="right")
        for topic, count in self.counts.items():
            totals.add_row(topic, f"{count:,}", f"{self.rate(topic):,.1f}")
        closed = Table(
            "window start (UTC)", "kind", "topic", "event type", title="Newest closed windows", title_justify="left"
        )
        for column in ("count", "avg", "users"):
            closed.add_column(column, justify="right")
        for r in self.newest():
            average = "" if r.avg is None else f"{r.avg:,.2f}"
            closed.add_row(
                _clock(r.window_start),
                r.window,
                r.topic,
                r.event_type,
                f"{r.count:,}",
                average,
                f"{r.distinct_users:,}",
            )
        return Group(totals, closed if self.windows else Text("No window has closed yet."), Text("Ctrl-C ends."))


@app.command(option("--interval", type=float, default=1.0, show_default=True, help="seconds between two pictures"))
@plain_errors
async def watch(self: AppCommand, interval: float) -> None:
    """Show events a second, totals by topic, the newest closed windows and the dead letters, until Ctrl-C."""
    console = Console()
    picture = Picture()
    if console.is_terminal:
        with Live(Text("waiting for Kafka …"), console=console, auto_refresh=False) as live:
            await until_interrupted(
                _follow(picture, interval, lambda waiting: live.update(waiting or picture.tables(), refresh=True))
            )
    else:
        await until_interrupted(_follow(picture, max(interval, 5.0), lambda w: _say(str(w or picture.line()))))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _follow(picture: Picture, interval_s: float, show: Callable[[Text | None], None]) -> None:
    settings = app.platform.settings
    show(Text("waiting for Kafka"))
    while True:
        try:
            async with open_reader(settings, "watch") as counter, open_reader(settings, "watch-windows") as tail:
                await _observe(picture, counter, tail, interval_s, show)
        except PlatformError as exc:
            # A picture of a platform that is starting, or stopping, is no failure: say so, look again.
            if not exc.retriable and exc.code != "unknown_topic":
                raise
            show(Text(f"waiting: {exc}"))
            await asyncio.sleep(interval_s)


async def _observe(
    picture: Picture,
    counter: LogReader,
    tail: LogReader,
    interval_s: float,
    show: Callable[[Text | None], None],
) -> None:
    settings = app.platform.settings
    codec = AvroCodec()
    loader = SchemaLoader(SchemaRegistry(settings), codec)
    spans = await tail.spans(await tail.partitions([AGGREGATES]))
    tail.assign({p: max(span.start, span.end - _HISTORY) for p, span in spans.items()})
    while True:
        began = time.monotonic()
        picture.count(await _totals(counter), began)
        for records in (await tail.poll()).values():
            for record in records:
                await _note(picture, record, codec, loader)
        show(None)
        await asyncio.sleep(max(0.0, interval_s - (time.monotonic() - began)))


async def _totals(reader: LogReader) -> dict[str, int]:
    names = sorted(name for name in await app.platform.admin.topics() if name.startswith(EVENTS_PREFIX))
    spans: dict[Partition, Span] = await reader.spans(await reader.partitions([*names, INGRESS, DLQ, LATE]))
    totals = dict.fromkeys([*names, INGRESS, DLQ, LATE], 0)
    for partition, span in spans.items():
        totals[partition.topic] += span.end - span.start
    return totals


async def _note(picture: Picture, record: Record, codec: AvroCodec, loader: SchemaLoader) -> None:
    value = record.value
    if value is not None:
        picture.closed(await loader.read(lambda: codec.decode_aggregate(value)))


def _clock(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%H:%M")
