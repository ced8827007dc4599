"""`faust -A streams watch`: the live picture of a running platform, read from Kafka alone."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Final

from faust.cli import AppCommand, option
from rich.console import Console
from rich.live import Live
from rich.text import Text

from streams.codecs import AvroCodec
from streams.commands.picture import Picture
from streams.commands.running import plain_errors, until_interrupted
from streams.domain.errors import PlatformError
from streams.domain.naming import AGGREGATES, DLQ, EVENTS_PREFIX, INGRESS, LATE
from streams.faust_app import app
from streams.kafka.consumer import LogReader, Partition, Record, Span, open_reader
from streams.registry import SchemaLoader, SchemaRegistry

_HISTORY: Final = 200
"""How many of the last records of each partition of platform.aggregates are looked at when it begins."""


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
