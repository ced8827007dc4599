"""The newest closed windows, as the Flink job wrote them, for a bounded time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypedDict

import msgspec
from faust.types import TableT

from streams.domain.aggregates import AggregatedEvent
from streams.faust_app import app


class WindowRow(TypedDict):
    """A row: the window result, and the partition it came by, since only that partition's agent may drop it."""

    partition: int
    result: dict[str, object]


windows: Final[TableT[str, WindowRow]] = app.Table(
    "windows", partitions=app.platform.settings.kafka_partitions, help="results of closed windows"
)


def window_key(topic: str, event_type: str, window: str, start_ms: int) -> str:
    """The key in the table. Neither topics, nor event types, nor kinds of window have a slash."""
    return f"{topic}/{event_type}/{window}/{start_ms}"


def result_of(row: WindowRow) -> AggregatedEvent:
    """The window result of a row."""
    return msgspec.convert(row["result"], AggregatedEvent)


def query_windows(
    topic: str,
    *,
    window: str | None = None,
    event_type: str | None = None,
    from_ms: int | None = None,
    to_ms: int | None = None,
    limit: int = 100,
) -> list[AggregatedEvent]:
    """The results that this worker holds, newest window first; from_ms <= window_start < to_ms."""
    found = [
        result
        for result in _results(topic)
        if (window is None or result.window == window)
        and (event_type is None or result.event_type == event_type)
        and (from_ms is None or result.window_start >= from_ms)
        and (to_ms is None or result.window_start < to_ms)
    ]
    found.sort(key=lambda result: (-result.window_start, result.event_type, result.window))
    return found[:limit]


def _results(topic: str) -> Iterator[AggregatedEvent]:
    prefix = f"{topic}/"
    # A copy of the matching rows: agents may change the table between two steps of the caller.
    for key, row in list(windows.data.items()):
        if key.startswith(prefix):
            yield result_of(row)
