"""How far the work on a partition has come, and what may be believed after a transaction of unknown outcome. Pure."""

from __future__ import annotations

from enum import Enum


class Resolution(Enum):
    """What the group's committed offset says about the state that this worker holds of a partition."""

    KEPT = "the state is as of the committed offset"
    APPLIED = "the last transaction was committed after all: its changes are to be applied"
    FOREIGN = "somebody else has been at work: the state is worthless"


class Chain:
    """The offsets of a partition as a chain of transactions, each of which begins where the last one ended.

    The offset behind the records of a transaction is committed in it, so that the committed offset names exactly the
    transactions that have happened. Whatever was not heard of one, the offset tells.
    """

    def __init__(self) -> None:
        self.expected: int | None = None
        """The offset that comes next, and as of which the state holds; None before the first `resolve`."""
        self._attempted: int | None = None

    def attempt(self, end: int) -> None:
        """A transaction that ends at this offset is about to be committed."""
        if self.expected is None or end < self.expected:
            raise ValueError(f"a transaction from {self.expected} cannot end at {end}")
        if self._attempted is not None:
            raise ValueError(f"the transaction that ends at {self._attempted} is not settled")
        self._attempted = end

    def settle(self) -> None:
        """The attempted transaction was committed."""
        if self._attempted is None:
            raise ValueError("no transaction was attempted")
        self.expected, self._attempted = self._attempted, None

    def drop(self) -> None:
        """The attempted transaction was aborted: nothing of it happened."""
        self._attempted = None

    def resolve(self, committed: int) -> Resolution:
        """Go on from the committed offset, read after every former producer of the partition was fenced."""
        expected, attempted = self.expected, self._attempted
        self.expected, self._attempted = committed, None
        if committed == expected:
            return Resolution.KEPT
        if attempted is not None and committed == attempted:
            return Resolution.APPLIED
        return Resolution.FOREIGN
