"""Transactions by one writer at a time: who starts under a name ends whoever wrote under it before."""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka.errors import KafkaError

from streams.domain.partitioning import partition_for
from streams.kafka.batching.transactions import AbortedError, TransactionalProducer
from streams.kafka.errors import translate, translated
from streams.kafka.producer import OutgoingRecord
from streams.kafka.security import aiokafka_options
from streams.settings import Settings


class ExclusiveWriter:
    """Writes records, partitioned by key as every Kafka client does, all or nothing. Not for concurrent use."""

    def __init__(self, settings: Settings, transactional_id: str) -> None:
        self._servers = settings.kafka_bootstrap_servers
        self._producer = TransactionalProducer(aiokafka_options(settings), transactional_id)

    async def start(self) -> None:
        """Connect; from now on no earlier writer of this id can write, and what it had begun is decided.

        Raises KafkaUnavailableError or KafkaAccessError.
        """
        with translated(f"start a transactional producer at {self._servers}"):
            await self._producer.start()

    async def stop(self) -> None:
        """Close the connections."""
        await self._producer.stop()

    async def commit(self, records: Sequence[OutgoingRecord]) -> int:
        """Write the records in one transaction. Returns the offset after the last one, in that one's partition.

        Raises FencedError or BrokenError; or, where nothing was written, the platform's error that says why: then
        the writer can go on.
        """
        try:
            outbox = self._producer.outbox()
            where = ("", 0)
            for record in records:
                with translated(f"ask for the partitions of {record.topic}"):
                    partitions = await self._producer.partitions_of(record.topic)
                where = (record.topic, partition_for(record.key or b"", partitions))
                outbox.append(*where, record.key, record.value, tuple(record.headers))
            ends = await self._producer.commit(outbox)
        except AbortedError as exc:
            cause = exc.__cause__
            if isinstance(cause, KafkaError | TimeoutError | OSError):
                raise translate(cause, f"write to {records[-1].topic}") from exc
            raise
        return ends[where]
