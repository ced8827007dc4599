"""What an agent is given: the records of one fetch of one partition, as one value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol


class Source(NamedTuple):
    """A partition of an input topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class ReceivedRecord(Protocol):
    """A record as the consumer hands it over, read-only: aiokafka's own, since a copy costs as much as the fetch."""

    @property
    def topic(self) -> str:
        """The topic that it was read from."""
        ...

    @property
    def partition(self) -> int:
        """The partition that it was read from."""
        ...

    @property
    def offset(self) -> int:
        """Its offset there."""
        ...

    @property
    def timestamp(self) -> int:
        """Milliseconds since the Unix epoch: as the producer set it, or as the broker did."""
        ...

    @property
    def key(self) -> bytes | None:
        """The key."""
        ...

    @property
    def value(self) -> bytes | None:
        """The value; None for a tombstone."""
        ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """The headers, in their order."""
        ...


class Batch:
    """The records of one fetch.

    `start` and `end` are the fetch positions before and behind them, not offsets of records: compaction, transaction
    markers and aborted records make holes that only the position steps over. A batch without records moves the
    position alone. Within one `epoch` of a partition each batch starts where the last one ended, or something between
    fetch and receiver has lost one; a seek begins a new epoch.
    """

    __slots__ = ("__weakref__", "bytes", "end", "epoch", "records", "source", "start")

    def __init__(
        self, source: Source, records: Sequence[ReceivedRecord], *, start: int, end: int, epoch: int, size: int
    ) -> None:
        self.source = source
        self.records = records
        self.start = start
        self.end = end
        self.epoch = epoch
        self.bytes = size
        """What its records take in memory, roughly."""

    def __iter__(self) -> Iterator[ReceivedRecord]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __bool__(self) -> bool:
        # An empty batch is a batch: it moves the position.
        return True

    def __repr__(self) -> str:
        return f"<Batch {self.source} {len(self.records)} records, [{self.start}, {self.end}), epoch {self.epoch}>"
