"""How many events a second, and so when each one is due.

A pattern is a shape over time: its height `at(t)` and the area under it from 0 to t, `area(t)`. Times are
seconds from the start. Shapes are periodic, and scaled so that the mean over the run is the rate asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import Final, Protocol

from streams.generators.draws import Draws

SPIKE_EVERY_S: Final = 60.0
SPIKE_STARTS_S: Final = 20.0
SPIKE_LASTS_S: Final = 5.0
SPIKE_HEIGHT: Final = 10.0
DIURNAL_SWING: Final = 0.8


class Pattern(StrEnum):
    """The patterns that a user can name."""

    STEADY = "steady"
    SPIKE = "spike"
    DIURNAL = "diurnal"


class Shape(Protocol):
    """A periodic, positive curve."""

    @property
    def period_s(self) -> float:
        """After how many seconds it repeats."""
        ...

    def at(self, t: float) -> float:
        """Its height at a time."""
        ...

    def area(self, t: float) -> float:
        """The area under it from 0 to a time; strictly rising."""
        ...


@dataclass(frozen=True, slots=True)
class Steady:
    """The same all the time."""

    period_s: float = 1.0

    def at(self, t: float) -> float:  # noqa: ARG002  (a Shape takes it)
        """See Shape."""
        return 1.0

    def area(self, t: float) -> float:
        """See Shape."""
        return t


@dataclass(frozen=True, slots=True)
class Spike:
    """A base, and every minute, from second 20, five seconds at ten times the base."""

    period_s: float = SPIKE_EVERY_S

    def at(self, t: float) -> float:
        """See Shape."""
        return SPIKE_HEIGHT if 0.0 <= t % SPIKE_EVERY_S - SPIKE_STARTS_S < SPIKE_LASTS_S else 1.0

    def area(self, t: float) -> float:
        """See Shape."""
        periods, within = divmod(t, SPIKE_EVERY_S)
        bursting = periods * SPIKE_LASTS_S + min(max(within - SPIKE_STARTS_S, 0.0), SPIKE_LASTS_S)
        return t + (SPIKE_HEIGHT - 1.0) * bursting


@dataclass(frozen=True, slots=True)
class Diurnal:
    """A day, compressed to `period_s` seconds: quietest at its start, busiest (nine times that) in its middle."""

    period_s: float

    def at(self, t: float) -> float:
        """See Shape."""
        return 1.0 - DIURNAL_SWING * math.cos(2.0 * math.pi * t / self.period_s)

    def area(self, t: float) -> float:
        """See Shape."""
        turn = 2.0 * math.pi / self.period_s
        return t - DIURNAL_SWING * math.sin(turn * t) / turn


@dataclass(frozen=True, slots=True)
class RateProfile:
    """A shape scaled to a mean of `rate` events a second over `duration_s`, or over a period where that is None."""

    shape: Shape
    rate: float
    duration_s: float | None = None

    @property
    def scale(self) -> float:
        """Events a second for a height of 1."""
        span = self.shape.period_s if self.duration_s is None else self.duration_s
        return self.rate * span / self.shape.area(span)

    def at(self, t: float) -> float:
        """Events a second at a time."""
        return self.scale * self.shape.at(t)

    def arrivals(self, draws: Draws) -> Iterator[float]:
        """When each event is due, in order: n is due where the integral of the rate is n plus a uniform jitter.

        So a run of `duration_s` has just rate * duration_s of them, rounded; without a duration they never end.
        """
        scale = self.scale
        total = None if self.duration_s is None else round(self.rate * self.duration_s)
        t = 0.0
        for n in count() if total is None else range(total):
            t = self._when((n + draws.uniform()) / scale, t)
            yield t

    def _when(self, area: float, earliest: float) -> float:
        """The time at which the shape has this area: Newton's steps, kept inside a bracket that bisection shrinks."""
        shape = self.shape
        low, high = earliest, earliest + shape.period_s
        while shape.area(high) < area:
            low, high = high, high + shape.period_s
        t = low
        for _ in range(60):
            miss = shape.area(t) - area
            # A tenth of a microsecond at the lowest height of any shape: far below a timestamp's millisecond.
            if abs(miss) < 2e-8:
                break
            if miss < 0.0:
                low = t
            else:
                high = t
            t -= miss / shape.at(t)
            if not low < t < high:
                t = (low + high) / 2.0
        return max(t, earliest)


def shape_of(pattern: Pattern, day_s: float) -> Shape:
    """The shape of a pattern; `day_s` is how many seconds a diurnal day takes."""
    if pattern is Pattern.STEADY:
        return Steady()
    if pattern is Pattern.SPIKE:
        return Spike()
    return Diurnal(day_s)
