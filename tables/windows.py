"""The closed windows, as the Flink job wrote them, for a bounded time; and the newest one of each kind."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from streams.domain.aggregates import AggregatedEvent, WindowPlace
from streams.kafka.batching import Store, Table


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


@dataclass(frozen=True, slots=True)
class WindowQuery:
    """Which results: those of a topic, and of all that is not None; from_ms <= window start < to_ms."""

    topic: str
    window: str | None = None
    event_type: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    before: WindowPlace | None = None
    """Only what comes behind this place in the order of pages."""

    def wants(self, result: AggregatedEvent) -> bool:
        """Whether a result of the topic is one of those."""
        return (
            (self.window is None or result.window == self.window)
            and (self.event_type is None or result.event_type == self.event_type)
            and (self.from_ms is None or result.window_start >= self.from_ms)
            and (self.to_ms is None or result.window_start < self.to_ms)
            and (self.before is None or WindowPlace.of(result) > self.before)
        )


def query_windows(parts: Iterable[Store[WindowRow]], query: WindowQuery, limit: int) -> list[AggregatedEvent]:
    """The first results of these parts in the order of pages, newest window first. For any thread.

    It looks at every window of the topic: a tenth of a second for a hundred thousand of them.
    """
    return first_results((result for part in parts for result in _results(part, query) if query.wants(result)), limit)


def first_results(results: Iterable[AggregatedEvent], limit: int) -> list[AggregatedEvent]:
    """The first of these in the order of pages."""
    return heapq.nsmallest(limit, results, key=WindowPlace.of)


def newest_end_ms(parts: Iterable[Store[WindowRow]]) -> int | None:
    """The latest end of any window that has a result, over all topics; None where there is none. For any thread."""
    rows = (row for part in parts for key in part.keys("") if (row := part.get(key)) is not None)
    return max((row.result.window_end for row in rows), default=None)


def _results(part: Store[WindowRow], query: WindowQuery) -> Iterator[AggregatedEvent]:
    # As much of the key as is known: the words of it come in this order.
    words = [query.topic]
    if query.event_type is not None:
        words.append(query.event_type)
        if query.window is not None:
            words.append(query.window)
    prefix = "/".join(words) + "/"
    for key in part.keys(prefix):
        if not key.startswith(prefix):
            if part.in_order:
                break
            continue
        if (row := part.get(key)) is not None:
            yield row.result
