"""The result of one window, as Flink writes it and the worker serves it."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

from streams.domain.windows import Window

WINDOW_CURSOR_PATTERN: Final = r"-?[0-9]{1,16}/[A-Za-z0-9._-]{1,256}/[a-z0-9-]{1,64}"
_CURSOR: Final = re.compile(WINDOW_CURSOR_PATTERN, re.ASCII)


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


def is_final(result: AggregatedEvent, newest_end_ms: int, allowed_lateness_ms: int) -> bool:
    """Whether no event can change the result any more, given the latest end of any window that has a result.

    A result is written when the watermark has reached the last millisecond of its window, and the watermark of all
    topics and kinds is one and never runs back: so the newest end tells how far it has come at least. A window is final
    once it has come further than the window's own last millisecond by the allowed lateness.
    """
    return Window(result.window_start, result.window_end).is_closed(newest_end_ms - 1, allowed_lateness_ms)


class WindowPlace(NamedTuple):
    """Where a result is in the order of pages: the newest window first, then by event type and kind."""

    before_start: int
    """The start of the window, negated, ms."""
    event_type: str
    window: str

    @classmethod
    def of(cls, result: AggregatedEvent) -> WindowPlace:
        """The place of a result among those of its topic."""
        return cls(-result.window_start, result.event_type, result.window)

    @classmethod
    def parse(cls, cursor: str) -> WindowPlace:
        """The place that `str` has told. Raises ValueError."""
        if _CURSOR.fullmatch(cursor) is None:
            raise ValueError("expected the cursor of another page, as it was")
        start, event_type, window = cursor.split("/")
        return cls(-int(start), event_type, window)

    def __str__(self) -> str:
        # Neither event types nor kinds of window have a slash.
        return f"{-self.before_start}/{self.event_type}/{self.window}"
