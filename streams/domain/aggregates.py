"""The result of one window, as Flink writes it and the worker serves it."""

from __future__ import annotations

import msgspec


class AggregatedEvent(msgspec.Struct, frozen=True, gc=False):
    """What a window of one topic and event type held. Times are milliseconds since the Unix epoch."""

    topic: str
    """The API's topic name, without `events.`."""
    event_type: str
    window: str
    """The kind of window: a name in `streams.domain.windows.WINDOW_KINDS`."""
    window_start: int
    window_end: int
    count: int
    sum: float | None
    avg: float | None
    min: float | None
    max: float | None
    distinct_users: int
    revision: int
    """0 for the result on time, 1 more for each update by late events."""
    emitted_at: int

    @property
    def identity(self) -> tuple[str, str, str, int]:
        """Consumers upsert on this: (topic, event_type, window, window_start)."""
        return (self.topic, self.event_type, self.window, self.window_start)


def supersedes(new: AggregatedEvent, known: AggregatedEvent | None) -> bool:
    """Whether a result replaces the known one of the same window: never by a lower revision, or an older copy."""
    return known is None or (new.revision, new.emitted_at) >= (known.revision, known.emitted_at)
