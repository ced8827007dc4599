"""Ids for events that came without one: UUIDs of version 7 (RFC 9562, section 5.7).

They begin with the time in ms, so that events of one time lie side by side wherever they are sorted by id; what
follows is 74 random bits. `uuid.uuid4` asks the kernel for each; here it is asked for many at a time.
"""

from __future__ import annotations

import os
import time
from typing import Final

_BLOCK: Final = 256
_BYTES: Final = 10

_tails: list[str] = []
"""What ids end with, ready made. A list's `pop` and `extend` are atomic, so threads may share it."""

# A child that went on with its parent's randomness would make its parent's ids.
os.register_at_fork(after_in_child=_tails.clear)


def new_event_id() -> str:
    """An id that nobody else has, made now."""
    try:
        tail = _tails.pop()
    except IndexError:
        tail = _more()
    head = f"{time.time_ns() // 1_000_000:012x}"
    return f"{head[:8]}-{head[8:]}{tail}"


def _more() -> str:
    """The ends of a block of ids: one to use, the others kept."""
    digits = os.urandom(_BLOCK * _BYTES).hex()
    tails = []
    for at in range(0, len(digits), 2 * _BYTES):
        random = digits[at : at + 2 * _BYTES]
        # The version is 7, the variant the two bits 10.
        tails.append(f"-7{random[:3]}-{'89ab'[int(random[3], 16) & 3]}{random[4:7]}-{random[7:19]}")
    last = tails.pop()
    _tails.extend(tails)
    return last
