"""The simpler way to work on a batched partition: at least once, by an agent's own body.

The agent says of each batch that it is `done`, in order; positions are committed now and then, and at a rebalance.
What was done after the last commit is read again when a worker is killed. For work that needs no more, as that of the
benchmark which only decodes; the platform's own agents are pipelines.
"""

from __future__ import annotations

import asyncio
import logging

from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from streams.kafka.batching.batch import Batch, Source
from streams.kafka.batching.gates import Gates
from streams.kafka.batching.transport import BatchConsumer

log = logging.getLogger(__name__)


class CommittedPartitions:
    """Positions of batched partitions that no pipeline takes."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self._done: dict[Source, int] = {}
        self._committed: dict[Source, int] = {}
        self._torn: set[Source] = set()

    async def open(self, consumer: BatchConsumer, source: Source) -> None:
        """Go on from the committed offset, or from the beginning. Raises aiokafka's KafkaError."""
        offset = await consumer.committed(source)
        if offset is None:
            offset = await consumer.beginning(source)
        self._done[source] = self._committed[source] = offset
        self._gates.open(source, await consumer.rollback(source, offset))

    def done(self, batch: Batch) -> None:
        """The work on a batch has ended: its position may be committed. One of a former epoch counts for nothing.

        Where one does not follow the last, a batch was lost on its way: nothing behind it is committed, and the next
        `commit` reads it again.
        """
        if not self._gates.is_current(batch):
            return
        if batch.start != self._done[batch.source]:
            self._torn.add(batch.source)
        elif batch.source not in self._torn:
            self._done[batch.source] = batch.end
        self._gates.done(batch)

    async def rollback(self, consumer: BatchConsumer, source: Source) -> None:
        """Read again from what was last committed; what is in hand belongs to the past."""
        offset = self._done[source] = self._committed[source]
        epoch = await consumer.rollback(source, offset)
        self._torn.discard(source)
        self._gates.open(source, epoch)

    async def commit(self, consumer: BatchConsumer) -> None:
        """Commit what is done. A rebalance that was faster is no error: what is done will be read again."""
        offsets = {s: offset for s, offset in self._done.items() if offset != self._committed.get(s)}
        if not offsets and not self._torn:
            return
        try:
            if offsets:  # aiokafka takes no empty ones
                await consumer.commit_positions(offsets)
                self._committed |= offsets
            for source in list(self._torn):
                log.warning("%s: a batch was lost on its way: reading again from %d", source, self._committed[source])
                await self.rollback(consumer, source)
        except (CommitFailedError, IllegalStateError) as exc:
            log.info("positions not committed: %s", exc)
        except KafkaError as exc:
            log.warning("positions not committed, trying again: %s", exc)

    async def close(self, consumer: BatchConsumer, sources: set[Source]) -> None:
        """Commit, and forget these partitions."""
        await self.commit(consumer)
        for source in sources:
            self._gates.shut(source)
            self._done.pop(source, None)
            self._committed.pop(source, None)
            self._torn.discard(source)


COMMIT_INTERVAL_S = 1.0


async def commit_regularly(partitions: CommittedPartitions, consumer: BatchConsumer) -> None:
    """Commit once in a second, until cancelled."""
    while True:
        await asyncio.sleep(COMMIT_INTERVAL_S)
        await partitions.commit(consumer)
