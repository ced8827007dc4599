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
from streams.kafka.consumer import LogReader, Partition, Record, open_reader
from streams.registry import SchemaLoader, SchemaRegistry

_HISTORY: Final = 200
"""How many of the last records of each partition of platform.aggregates are looked at when it begins."""
_GLANCE_MS: Final = 100


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
    counts = _Counts(counter)
    while True:
        began = time.monotonic()
        await counts.look_for_topics()
        picture.count(dict(counts.by_topic), began)
        for records in (await tail.poll(_GLANCE_MS)).values():
            for record in records:
                await _note(picture, record, codec, loader)
        show(None)
        await counts.count_until(began + interval_s)


class _Counts:
    """How many records topics hold: what was there at first by offsets, what comes since by counting it.

    Offsets alone would count the markers of transactions too: at a low rate, one beside each event.
    """

    def __init__(self, reader: LogReader) -> None:
        self.by_topic: dict[str, int] = {}
        self._reader = reader
        self._positions: dict[Partition, int] = {}

    async def look_for_topics(self) -> None:
        """Take partitions that are new."""
        names = sorted(name for name in await app.platform.admin.topics() if name.startswith(EVENTS_PREFIX))
        wanted = [*names, INGRESS, DLQ, LATE]
        new = [p for p in await self._reader.partitions(wanted) if p not in self._positions]
        for partition, span in (await self._reader.spans(new)).items():
            self._positions[partition] = span.end
            self.by_topic[partition.topic] = self.by_topic.get(partition.topic, 0) + span.end - span.start
        if new:
            self.by_topic = {name: self.by_topic.get(name, 0) for name in wanted}
            self._reader.assign(self._positions)

    async def count_until(self, deadline: float) -> None:
        """Count what comes until then, on the monotonic clock."""
        while (rest := deadline - time.monotonic()) > 0:
            for partition, records in (await self._reader.poll(max(1, int(rest * 1000)))).items():
                self._positions[partition] = records[-1].offset + 1
                self.by_topic[partition.topic] += len(records)


async def _note(picture: Picture, record: Record, codec: AvroCodec, loader: SchemaLoader) -> None:
    value = record.value
    if value is not None:
        picture.closed(await loader.read(lambda: codec.decode_aggregate(value)))
