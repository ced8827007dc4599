"""Which key an event has: few keys are hot, most are rare, as in real traffic (Zipf's law)."""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate


class ZipfSampler:
    """Ranks 0 to n - 1, where rank k is drawn with a probability proportional to 1 / (k + 1)**exponent.

    An exponent of 0 makes every rank as likely. A draw takes O(log n), the table O(n) floats.
    """

    def __init__(self, n: int, exponent: float) -> None:
        if n < 1:
            raise ValueError(f"n must be 1 or more, not {n}")
        if exponent < 0:
            raise ValueError(f"exponent must be 0 or more, not {exponent}")
        self._bounds = tuple(accumulate(math.pow(k + 1, -exponent) for k in range(n)))

    def rank(self, uniform: float) -> int:
        """The rank that belongs to a uniform number in [0, 1)."""
        # A product that rounds up to the total would point past the last rank.
        return min(bisect_right(self._bounds, uniform * self._bounds[-1]), len(self._bounds) - 1)

    def probability(self, rank: int) -> float:
        """How likely a rank is."""
        below = self._bounds[rank - 1] if rank else 0.0
        return (self._bounds[rank] - below) / self._bounds[-1]
