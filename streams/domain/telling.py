"""How much is told of what is wrong with the records of a batch: a small body must not get a huge answer."""

from __future__ import annotations

from typing import Final

from streams.domain.errors import InvalidEventError

MAX_BATCH_ERRORS: Final = 1_000
"""How many errors of a batch's records are told in all; past them, of each record the first."""


class Telling:
    """Counts what was told of one batch."""

    __slots__ = ("_left",)

    def __init__(self, limit: int = MAX_BATCH_ERRORS) -> None:
        self._left = limit

    def of(self, error: InvalidEventError) -> InvalidEventError:
        """What is told of a record: all of it, or the first of its errors."""
        count = len(error.errors)
        if count > max(1, self._left):
            return InvalidEventError(error.errors[:1])
        self._left -= count
        return error
