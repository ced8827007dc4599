"""What was measured, and its medians. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of a subject, from its first record to the last committed."""

    events: int
    wall_s: float
    cpu_s: float
    """Of the measured processes, all of their threads, user and system."""
    rss_bytes: int = 0
    """The most that was resident, of all measured processes together."""

    @property
    def rate(self) -> float:
        """Events a second by the wall clock."""
        return self.events / self.wall_s

    @property
    def cpu_us(self) -> float:
        """CPU microseconds an event."""
        return self.cpu_s / self.events * 1e6


def together(samples: Sequence[Sample]) -> Sample:
    """What several processes did at the same time, as one."""
    return Sample(
        sum(sample.events for sample in samples),
        max(sample.wall_s for sample in samples),
        sum(sample.cpu_s for sample in samples),
        sum(sample.rss_bytes for sample in samples),
    )


@dataclass(frozen=True, slots=True)
class Median:
    """The median of each figure over some runs, and how far CPU was spread."""

    runs: int
    events: int
    wall_s: float
    rate: float
    cpu_us: float
    cpu_us_least: float
    cpu_us_most: float
    rss_bytes: float


def median(samples: Sequence[Sample]) -> Median:
    """The medians of one run or more."""
    cpu = [sample.cpu_us for sample in samples]
    return Median(
        len(samples),
        samples[0].events,
        statistics.median(sample.wall_s for sample in samples),
        statistics.median(sample.rate for sample in samples),
        statistics.median(cpu),
        min(cpu),
        max(cpu),
        statistics.median(sample.rss_bytes for sample in samples),
    )
