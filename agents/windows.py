"""`platform.aggregates` -> the windows table: the newest revision of each closed window."""

from __future__ import annotations

from functools import partial
from typing import Final, cast

import faust
import msgspec
from faust.types import StreamT

from agents.outcome import see_to
from streams.domain.aggregates import AggregatedEvent, supersedes
from streams.domain.naming import AGGREGATES
from streams.faust_app import app
from streams.kafka.consumer import Record
from streams.kafka.delivery import received
from streams.topics import HOUR_MS
from tables.windows import WindowRow, result_of, window_key, windows

_RETENTION_MS: Final = app.platform.settings.aggregate_retention_hours * HOUR_MS

aggregates = app.topic(AGGREGATES, key_serializer="raw", value_serializer="raw")

_newest_start: dict[int, int] = {}
"""The newest window start seen by each partition; expired windows are looked for when it moves on."""


@app.agent(aggregates, name="agents.windows")
async def fold_windows(stream: StreamT[bytes]) -> None:
    """Upsert each result; a lower revision of a window never replaces a higher one."""
    # Acknowledged by us, at the end: Faust would acknowledge what is in hand when the worker stops, done or not.
    unacknowledged = cast("faust.Stream[bytes]", stream).noack()
    async for event in unacknowledged.events():
        record = received(event)
        # The topic is compacted: a tombstone says nothing about a window that has closed.
        if record.value is not None:
            await see_to(app.platform, record, partial(apply, record))
        await unacknowledged.ack(event)


async def apply(record: Record) -> None:
    """Put the window result of a record into the table, and drop those past their retention."""
    value = record.value or b""
    result = await app.platform.loader.read(lambda: app.platform.codec.decode_aggregate(value))
    key = window_key(*result.identity)
    known = windows.get(key)
    if supersedes(result, None if known is None else result_of(known)):
        windows[key] = WindowRow(partition=record.partition, result=msgspec.structs.asdict(result))
    _expire(result, record.partition)


def _expire(result: AggregatedEvent, partition: int) -> None:
    newest = _newest_start.get(partition)
    if newest is not None and result.window_start <= newest:
        return
    _newest_start[partition] = result.window_start
    oldest = result.window_start - _RETENTION_MS
    expired = [
        key
        for key, row in list(windows.data.items())
        if row["partition"] == partition and result_of(row).window_start < oldest
    ]
    for key in expired:
        windows.pop(key)
