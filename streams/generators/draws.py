"""Random draws that are the same for a seed on every Python version."""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

T = TypeVar("T")


class Draws:
    """One independent stream of draws, named within a seed.

    Only `random.Random.random` is promised to give the same sequence in later Pythons (the manual of
    `random`, "Notes on Reproducibility"), so everything else is made from it here.
    """

    def __init__(self, seed: int, stream: str) -> None:
        digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=16).digest()
        self.uniform = random.Random(int.from_bytes(digest, "big")).random
        self._spare: float | None = None

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.uniform()

    def below(self, bound: int) -> int:
        """A whole number in [0, bound)."""
        return int(self.uniform() * bound)

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, each as likely."""
        return items[int(self.uniform() * len(items))]

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform() < probability

    def token(self) -> str:
        """Twelve hexadecimal digits."""
        return f"{int(self.uniform() * (1 << 48)):012x}"

    def normal(self) -> float:
        """Standard normal (Box and Muller, 1958)."""
        if self._spare is not None:
            spare, self._spare = self._spare, None
            return spare
        radius = math.sqrt(-2.0 * math.log(1.0 - self.uniform()))
        angle = 2.0 * math.pi * self.uniform()
        self._spare = radius * math.sin(angle)
        return radius * math.cos(angle)

    def log_normal(self, median: float, sigma: float) -> float:
        """Log-normal, given its median and the standard deviation of its logarithm."""
        return median * math.exp(sigma * self.normal())


class Weighted(Generic[T]):
    """A choice where some items are likelier than others."""

    def __init__(self, weights: Mapping[T, float]) -> None:
        self._items = tuple(weights)
        self._bounds = tuple(accumulate(weights.values()))

    def pick(self, draws: Draws) -> T:
        """One of the items, in proportion to its weight."""
        # A product that rounds up to the total would point past the last item.
        place = bisect_right(self._bounds, draws.uniform() * self._bounds[-1])
        return self._items[min(place, len(self._items) - 1)]
