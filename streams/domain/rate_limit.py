"""How fast one sender may go: a token bucket, with the clock given."""

from __future__ import annotations


class TokenBucket:
    """A bucket that holds `burst` and fills by `rate` a second; it is full at first. Times are seconds of one clock.

    An amount larger than the burst is taken when the bucket is full, and leaves a debt: a large batch is possible,
    and its sender waits for it afterwards. Over any span of t seconds, what is taken is less than
    burst + rate * t + the largest amount.
    """

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now

    def take(self, amount: float, now: float) -> float:
        """Take the amount and return 0; or take nothing and return how many seconds from now it could be taken."""
        level = self._level
        if now > self._at:
            self._level = level = min(self._burst, level + (now - self._at) * self._rate)
            self._at = now
        missing = min(self._burst, amount) - level
        if missing > 0:
            return missing / self._rate
        self._level = level - amount
        return 0.0
