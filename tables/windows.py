"""The closed windows, as the Flink job wrote them, for a bounded time; and the newest one of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from streams.domain.aggregates import AggregatedEvent
from streams.kafka.batching import Table


class WindowRow(msgspec.Struct, frozen=True, gc=False):
    """The result of a window."""

    result: AggregatedEvent
    offset: int
    """Where in its partition of `platform.aggregates` it was read."""


windows: Final = Table("windows", WindowRow, help="results of closed windows")
newest: Final = Table(
    "newest-windows",
    WindowRow,
    help="the newest closed window of each kind, topic and event type, by partition of platform.aggregates",
)


def window_key(topic: str, event_type: str, window: str, start_ms: int) -> str:
    """The key of a window. Neither topics, nor event types, nor kinds of window have a slash."""
    return f"{topic}/{event_type}/{window}/{start_ms}"


def newest_key(topic: str, event_type: str, window: str) -> str:
    """The key of the newest window of a kind."""
    return f"{topic}/{event_type}/{window}"


def query_windows(
    topic: str,
    *,
    window: str | None = None,
    event_type: str | None = None,
    from_ms: int | None = None,
    to_ms: int | None = None,
    limit: int = 100,
) -> list[AggregatedEvent]:
    """The results that this worker holds, newest window first; from_ms <= window_start < to_ms. For any thread."""
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
    for part in list(windows.parts.values()):
        for key in part.keys(prefix):
            if not key.startswith(prefix):
                if part.in_order:
                    break
                continue
            if (row := part.get(key)) is not None:
                yield row.result
