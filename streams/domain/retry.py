"""When to try again: exponential backoff with full jitter, a cap and a deadline.

The rule is the "full jitter" of Amazon's Architecture Blog, "Exponential Backoff And Jitter":
the delay before attempt n is uniform between 0 and min(cap, base * 2**n). Clock and random
source belong to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait between attempts, and for how long at all. All in seconds."""

    base_s: float = 0.1
    cap_s: float = 5.0
    deadline_s: float = float("inf")

    def __post_init__(self) -> None:
        if not (0 < self.base_s <= self.cap_s):
            raise ValueError(f"base_s must be above 0 and at most cap_s, not {self.base_s} and {self.cap_s}")
        if self.deadline_s < 0:
            raise ValueError(f"deadline_s must not be negative, not {self.deadline_s}")

    def ceiling_s(self, failures: int) -> float:
        """The longest delay after so many failures (1 or more)."""
        if failures < 1:
            raise ValueError(f"failures must be 1 or more, not {failures}")
        # 2**1024 overflows a float; the cap is reached long before.
        return min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 1000))

    def delay_s(self, failures: int, elapsed_s: float, random: float) -> float | None:
        """The delay before the next attempt, or None where the deadline forbids one.

        `failures` counts the attempts so far, `elapsed_s` is the time since the first began,
        and `random` is uniform in [0, 1).
        """
        delay = self.ceiling_s(failures) * random
        if elapsed_s + delay >= self.deadline_s:
            return None
        return delay
