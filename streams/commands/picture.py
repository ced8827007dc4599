"""The live picture of a running platform, as pure data: counts, rates and the newest closed windows."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from streams.domain.aggregates import AggregatedEvent, supersedes
from streams.domain.naming import DLQ, EVENTS_PREFIX, LATE, api_topic

_WINDOWS: Final = 8
_RATE_OVER_S: Final = 5.0
_KEPT: Final = 200


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
        for identity in sorted(self.windows, key=lambda i: i[3], reverse=True)[_KEPT:]:
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


def _clock(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%H:%M")
