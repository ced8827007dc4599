"""Event-time windows: their bounds, when they close, and what is kept of the events in them.

This is the reference that the Flink job is tested against (Flink's manual, "Windows" and
"Generating Watermarks"). Times are milliseconds since the Unix epoch; windows are aligned to it
and are half open: start <= t < end. No clock: the watermark is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """One interval of event time, [start_ms, end_ms)."""

    start_ms: int
    end_ms: int

    def is_closed(self, watermark_ms: int, allowed_lateness_ms: int = 0) -> bool:
        """Whether an event for this window would come too late.

        Flink closes a window when the watermark reaches its last millisecond (end - 1).
        """
        return self.end_ms - 1 + allowed_lateness_ms <= watermark_ms


@dataclass(frozen=True, slots=True)
class WindowKind:
    """A family of windows: a new one starts every `slide_ms` and spans `size_ms`."""

    name: str
    size_ms: int
    slide_ms: int

    def __post_init__(self) -> None:
        if self.slide_ms <= 0 or self.size_ms <= 0 or self.size_ms % self.slide_ms:
            raise ValueError(f"{self.name}: the size must be a positive multiple of the slide")

    @property
    def is_tumbling(self) -> bool:
        """Whether each event falls into just one window."""
        return self.size_ms == self.slide_ms

    def windows(self, timestamp_ms: int) -> tuple[Window, ...]:
        """Every window that holds the timestamp, earliest first: size / slide of them."""
        last = timestamp_ms // self.slide_ms * self.slide_ms
        first = last - self.size_ms + self.slide_ms
        return tuple(Window(start, start + self.size_ms) for start in range(first, last + 1, self.slide_ms))


TUMBLING_1M: Final = WindowKind("tumbling-1m", MINUTE_MS, MINUTE_MS)
TUMBLING_5M: Final = WindowKind("tumbling-5m", 5 * MINUTE_MS, 5 * MINUTE_MS)
SLIDING_5M_1M: Final = WindowKind("sliding-5m-1m", 5 * MINUTE_MS, MINUTE_MS)

WINDOW_KINDS: Final = {kind.name: kind for kind in (TUMBLING_1M, TUMBLING_5M, SLIDING_5M_1M)}


@dataclass(frozen=True, slots=True)
class Accumulator:
    """What a window keeps of its events. `merge` is associative and commutative, `Accumulator()` its unit.

    An event without a value is counted, but takes no part in sum, avg, min and max, as in SQL.
    """

    count: int = 0
    values: int = 0
    total: float = 0.0
    min: float | None = None
    max: float | None = None
    users: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, value: float | None, user_id: str | None) -> Self:
        """The accumulator of a single event."""
        users = frozenset() if user_id is None else frozenset((user_id,))
        if value is None:
            return cls(count=1, users=users)
        return cls(1, 1, value, value, value, users)

    def merge(self, other: Accumulator) -> Accumulator:
        """What is known of the events of both."""
        return Accumulator(
            count=self.count + other.count,
            values=self.values + other.values,
            total=self.total + other.total,
            min=_present(min, self.min, other.min),
            max=_present(max, self.max, other.max),
            users=self.users | other.users,
        )

    @property
    def sum(self) -> float | None:
        """The sum of the values, None where no event had one."""
        return self.total if self.values else None

    @property
    def avg(self) -> float | None:
        """The mean of the values, None where no event had one."""
        return self.total / self.values if self.values else None

    @property
    def distinct_users(self) -> int:
        """How many different user ids were seen; events without one do not count."""
        return len(self.users)


def _present(choose: Callable[[float, float], float], a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return b if a is None else a
    return choose(a, b)
