"""Back-pressure: which partitions may be fetched from now. No I/O and no clock.

A partition's gate is shut until its owner opens it, and whenever too much of it, or of all partitions together, is
in hand. What is in hand is counted in batches and bytes, from the fetch until the work on it has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from streams.kafka.batching.batch import Batch, Source

SHUT: Final = -1
"""The epoch of a partition whose gate is shut."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be in hand before fetching stops. One more fetch of each partition may come on top."""

    batches: int = 8
    """Of each partition."""
    bytes: int = 67_108_864
    """Of all partitions together: what records take in memory, roughly."""

    def __post_init__(self) -> None:
        if self.batches < 1 or self.bytes < 1:
            raise ValueError("limits must be 1 or more")


class _Gate:
    __slots__ = ("batches", "bytes", "epoch")

    def __init__(self) -> None:
        self.epoch = SHUT
        self.batches = 0
        self.bytes = 0


class Gates:
    """The gates of a worker's partitions, and what is in hand of each."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._gates: dict[Source, _Gate] = {}
        self.bytes = 0
        """In hand, of all partitions."""

    def open(self, source: Source, epoch: int) -> None:
        """Let the batches of this epoch through; what is in hand of earlier ones counts no more."""
        gate = self._gates.setdefault(source, _Gate())
        self._empty(gate)
        gate.epoch = epoch

    def shut(self, source: Source) -> None:
        """Let nothing of a partition through."""
        if (gate := self._gates.pop(source, None)) is not None:
            self._empty(gate)

    def admits(self, batch: Batch) -> bool:
        """Whether a fetched batch is one of the present epoch; it then counts as in hand until it is `done`."""
        gate = self._gates.get(batch.source)
        if gate is None or gate.epoch != batch.epoch:
            return False
        gate.batches += 1
        gate.bytes += batch.bytes
        self.bytes += batch.bytes
        return True

    def is_current(self, batch: Batch) -> bool:
        """Whether the batch belongs to the present epoch of its partition."""
        gate = self._gates.get(batch.source)
        return gate is not None and gate.epoch == batch.epoch

    def done(self, batch: Batch) -> None:
        """The work on an admitted batch has ended. One of an earlier epoch has been counted out already."""
        gate = self._gates.get(batch.source)
        if gate is not None and gate.epoch == batch.epoch:
            gate.batches -= 1
            gate.bytes -= batch.bytes
            self.bytes -= batch.bytes

    def in_hand(self, source: Source) -> tuple[int, int]:
        """Batches and bytes in hand of a partition."""
        gate = self._gates.get(source)
        return (0, 0) if gate is None else (gate.batches, gate.bytes)

    def fetchable(self, sources: Iterable[Source]) -> set[Source]:
        """Those whose gate is open and that may have more in hand."""
        # Where all of them together have too much, those that have nothing may still go on: one that is stuck must not
        # stop the others.
        most = 1 if self.bytes >= self._limits.bytes else self._limits.batches
        gates = self._gates
        return {
            source
            for source in sources
            if (gate := gates.get(source)) is not None and gate.epoch != SHUT and gate.batches < most
        }

    def _empty(self, gate: _Gate) -> None:
        self.bytes -= gate.bytes
        gate.batches = gate.bytes = 0
