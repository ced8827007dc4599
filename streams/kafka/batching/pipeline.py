"""What somebody who uses this package writes: the work on the records of a batch, and how a bad one ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

from streams.kafka.batching.batch import ReceivedRecord, Source
from streams.kafka.batching.tables import Changes, Store, Table, V
from streams.kafka.batching.transactions import Headers, Outbox


class Transaction:
    """What comes of some records of one partition; it is written with the offset behind them, all or nothing."""

    __slots__ = ("_outbox", "_partitions_of", "_stores", "attempt", "changes", "scratch", "source")

    def __init__(
        self,
        source: Source,
        outbox: Outbox,
        stores: Mapping[Table[Any], Store[Any]],
        partitions_of: Callable[[str], Awaitable[int]],
        attempt: int = 1,
    ) -> None:
        self.source = source
        """The partition that the records are from."""
        self.attempt = attempt
        """1, and 1 more each time that the same work is tried again."""
        self.scratch: dict[str, Any] = {}
        """What a pipeline wants to find again when it is called for more records of this transaction."""
        self.changes: dict[Table[Any], Changes[Any]] = {}
        self._outbox = outbox
        self._stores = stores
        self._partitions_of = partitions_of

    def send(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
    ) -> None:
        """Add a record to the output; its timestamp is now where none is given."""
        self._outbox.append(topic, partition, key, value, headers, timestamp_ms)

    async def partitions_of(self, topic: str) -> int:
        """How many partitions a topic has. Raises aiokafka's KafkaError."""
        return await self._partitions_of(topic)

    def store(self, table: Table[V]) -> Store[V]:
        """The part of a table that belongs to this input partition, as it was before this transaction."""
        return cast("Store[V]", self._stores[table])

    def rows(self, table: Table[V]) -> Changes[V]:
        """The part of a table that belongs to this input partition, to read and change."""
        changes = self.changes.get(table)
        if changes is None:
            changes = self.changes[table] = Changes(self._stores[table])
        return cast("Changes[V]", changes)


class Pipeline(ABC):
    """The work on one kind of input topics. One object serves every partition; it keeps nothing of any."""

    name: ClassVar[str]
    tables: Sequence[Table[Any]] = ()
    """The tables whose parts belong to the input partitions."""

    @abstractmethod
    def takes(self, topic: str) -> bool:
        """Whether a topic is one of this pipeline's."""

    @abstractmethod
    async def handle(self, transaction: Transaction, records: Sequence[ReceivedRecord]) -> None:
        """Work on the next records, in order; called several times for a transaction.

        It may be called again with the same records: after an abort, with fewer of them, by another worker.
        """

    @abstractmethod
    async def bury(self, transaction: Transaction, record: ReceivedRecord, error: Exception) -> None:
        """End a record for which `handle`, or the write of what it made, failed for good, even alone."""

    @abstractmethod
    def may_pass(self, error: Exception) -> bool:
        """Whether the same work may succeed later: it is then tried again, for as long as it takes."""
