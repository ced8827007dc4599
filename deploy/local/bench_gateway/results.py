"""What was measured, and its medians. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of a subject, after it was warm."""

    events: int
    """Acknowledged, or delivered where it is delivery that is measured."""
    wall_s: float
    cpu_s: float
    """Of the measured process, all of its threads, user and system."""
    p50_ms: float | None = None
    """Latency as its client saw it: of a request, or from when an event was due to be posted to its delivery."""
    p99_ms: float | None = None
    lost: int = 0
    """Events that a client should have seen and has not, and those that it saw more than once."""
    client_p99_ms: float | None = None
    """How late the client's own timers were: latencies are not known better than this."""

    @property
    def rate(self) -> float:
        """Events a second by the wall clock."""
        return self.events / self.wall_s

    @property
    def cpu_us(self) -> float:
        """CPU microseconds an event."""
        return self.cpu_s / self.events * 1e6

    @property
    def busy(self) -> float:
        """How much of its one core it used: below 1, it waited for the broker or for its clients."""
        return self.cpu_s / self.wall_s

    def text(self) -> str:
        """For people."""
        latency = "" if self.p99_ms is None else f", p99 {self.p99_ms:.1f} ms"
        return f"{self.rate:,.0f} events/s, {self.cpu_us:.1f} µs CPU an event{latency}"


@dataclass(frozen=True, slots=True)
class Median:
    """The median of each figure over some runs, how far CPU was spread, and all that was lost."""

    runs: int
    rate: float
    cpu_us: float
    cpu_us_least: float
    cpu_us_most: float
    busy: float
    p50_ms: float | None
    p99_ms: float | None
    client_p99_ms: float | None
    lost: int
    """In all runs together: a median would hide it."""


def median(samples: Sequence[Sample]) -> Median:
    """The medians of one run or more."""
    cpu = [sample.cpu_us for sample in samples]
    return Median(
        len(samples),
        statistics.median(sample.rate for sample in samples),
        statistics.median(cpu),
        min(cpu),
        max(cpu),
        statistics.median(sample.busy for sample in samples),
        _median([sample.p50_ms for sample in samples]),
        _median([sample.p99_ms for sample in samples]),
        _median([sample.client_p99_ms for sample in samples]),
        sum(sample.lost for sample in samples),
    )


def _median(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.median(found) if found else None
