"""How much each subject may send to this worker."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from streams.domain.rate_limit import TokenBucket
from streams.settings import Settings
from web.errors import RateLimitedError
from web.security.auth import Claims

MAX_SUBJECTS: Final = 10_000
"""Buckets that are kept; past them, the subject that was silent for longest begins anew, with a full one."""

_BURST_S: Final = 1.0
"""How many seconds' worth of requests may come at once."""


class RateLimits:
    """A bucket of requests and one of events for each subject, in this worker."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        rate = settings.subject_requests_per_s
        self._requests = _Buckets("requests", rate, max(1.0, rate * _BURST_S), clock) if rate else None
        rate = settings.subject_events_per_s
        self._events = _Buckets("events", rate, settings.subject_burst_events, clock) if rate else None

    def charge_request(self, claims: Claims) -> None:
        """Count one request. Raises RateLimitedError, and then nothing is counted."""
        if self._requests is not None:
            self._requests.charge(claims.charged_to, 1)

    def charge_events(self, claims: Claims, events: int) -> None:
        """Count so many events. Raises RateLimitedError, and then nothing is counted."""
        if self._events is not None:
            self._events.charge(claims.charged_to, events)


class _Buckets:
    """The buckets of one thing that is counted."""

    __slots__ = ("_buckets", "_burst", "_clock", "_rate", "_what")

    def __init__(self, what: str, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._what = what
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def charge(self, subject: str, amount: int) -> None:
        now = self._clock()
        buckets = self._buckets
        bucket = buckets.get(subject)
        if bucket is None:
            bucket = buckets[subject] = TokenBucket(self._rate, self._burst, now)
            if len(buckets) > MAX_SUBJECTS:
                buckets.popitem(last=False)
        else:
            buckets.move_to_end(subject)
        wait_s = bucket.take(amount, now)
        if wait_s > 0:
            raise RateLimitedError(
                f"the token's subject may send {self._rate:g} {self._what} a second to this worker",
                retry_after_s=wait_s,
            )
