"""Which events were taken lately, so that the same one again gets the first one's receipt.

Pure: what stands for an outcome that may not be known yet, the promise, is the caller's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from hashlib import blake2b
from typing import Final, Generic, TypeVar

import msgspec

P = TypeVar("P")

_FINGERPRINT_BYTES: Final = 16


def fingerprint(content: bytes) -> bytes:
    """What tells whether two events are the same: 16 bytes of their content."""
    return blake2b(content, digest_size=_FINGERPRINT_BYTES).digest()


class Taken(msgspec.Struct, Generic[P], frozen=True, gc=False):
    """An event that was taken."""

    fingerprint: bytes
    promise: P
    at: float
    """Seconds of any monotonic clock."""


class Receipts(Generic[P]):
    """What was taken within a window of time, bounded in number: past that the oldest are forgotten."""

    def __init__(self, window_s: float, max_ids: int) -> None:
        if window_s <= 0 or max_ids < 1:
            raise ValueError("window_s must be above 0, max_ids 1 or more")
        self._window_s = window_s
        self._max_ids = max_ids
        # In the order in which they were taken. A plain dict finds its first key by walking over all that were deleted.
        self._taken: OrderedDict[Hashable, Taken[P]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._taken)

    def find(self, identity: Hashable, now: float) -> Taken[P] | None:
        """What was taken under this identity within the window."""
        taken = self._taken.get(identity)
        return None if taken is None or now - taken.at >= self._window_s else taken

    def remember(self, identity: Hashable, content: bytes, promise: P, now: float) -> None:
        """An event was taken, and what stands for its outcome."""
        known = self._taken
        known[identity] = Taken(content, promise, now)
        known.move_to_end(identity)
        while len(known) > self._max_ids or now - known[next(iter(known))].at >= self._window_s:
            known.popitem(last=False)
