"""The partitions that a worker has, each with its pipeline; and how they stand."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import faust

from streams.kafka.batching.batch import Batch, Source
from streams.kafka.batching.committed import CommittedPartitions, commit_regularly
from streams.kafka.batching.gates import Gates, Limits
from streams.kafka.batching.partition import Pace, PartitionWork, Phase, Surroundings
from streams.kafka.batching.pipeline import Pipeline
from streams.kafka.batching.restoring import Restorer
from streams.kafka.batching.tables import StoreFactory, Table, changelog_topic
from streams.kafka.batching.transactions import TransactionalProducer
from streams.kafka.batching.transport import BatchConsumer, BatchTransport

log = logging.getLogger(__name__)

_WATCH_S = 1.0


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """How the work on one partition stands."""

    source: Source
    pipeline: str
    phase: Phase
    committed: int | None
    """The offset up to which everything is done."""
    end: int | None
    """The high watermark as of the last fetch."""
    readable: int | None
    """The last stable offset as of then: what comes after is held back by an open transaction, whoever's it is."""
    still_s: float
    """Seconds since it last moved, or had nothing to do."""
    restoring: int | None
    """Changelog offsets still to be read while it is restored, as far as known."""
    error: str | None
    """Why it does not go on, where it does not."""

    @property
    def lag(self) -> int | None:
        """Offsets between what is done and the end; None while either is unknown."""
        return None if self.committed is None or self.end is None else max(0, self.end - self.committed)

    @property
    def behind(self) -> int:
        """Those of them that could be read; 0 while that is unknown."""
        return 0 if self.committed is None or self.readable is None else max(0, self.readable - self.committed)


def complaint(status: PartitionStatus, stall_s: float) -> str | None:
    """What is wrong with a partition; None where nothing is.

    Fenced and held ones are reported at once; others when there is something to do, or an error is waited out, and
    nothing has moved for `stall_s` seconds.
    """
    if status.phase in (Phase.FENCED, Phase.HELD):
        return f"{status.source} is {status.phase}: {status.error}"
    if status.still_s < stall_s:
        return None
    if status.phase is not Phase.RUNNING:
        return f"{status.source} is {status.phase} for {status.still_s:.0f} s: {status.error or 'no error'}"
    if status.behind:
        return f"{status.source} stands still for {status.still_s:.0f} s, {status.behind} offsets behind"
    return None


class Engine:
    """Delivers batches to agents, and does the work of pipelines in transactions.

    One for each app: `transport_for` makes the transport that Faust is to use; a pipeline's agent hands each batch
    to `put`. `options` are keyword arguments of every aiokafka client; `also_batched` names topics that are delivered
    in batches to agents which say themselves when one is `done`.
    """

    def __init__(
        self,
        group_id: str,
        options: Callable[[], Mapping[str, Any]],
        *,
        new_store: StoreFactory,
        ensure_partitions: Callable[[str, int], Awaitable[None]],
        backoff_s: Callable[[int], float],
        limits: Limits | None = None,
        pace: Pace | None = None,
        also_batched: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.group_id = group_id
        self.gates = Gates(limits or Limits())
        self.positions = CommittedPartitions(self.gates)
        self._options = options
        self._new_store = new_store
        self._ensure_partitions = ensure_partitions
        self._backoff_s = backoff_s
        self._pace = pace or Pace()
        self._also_batched = also_batched
        self._pipelines: list[Pipeline] = []
        self._works: dict[Source, PartitionWork] = {}
        self._assigned = False
        self._around: Surroundings | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._transport: BatchTransport | None = None
        self._changing = asyncio.Lock()
        self._is_stopping = False

    def add(self, pipeline: Pipeline) -> None:
        """Give topics to a pipeline. Before the worker starts."""
        self._pipelines.append(pipeline)

    @property
    def tables(self) -> list[Table[Any]]:
        """The tables of all pipelines."""
        return [table for pipeline in self._pipelines for table in pipeline.tables]

    def changelog(self, table: Table[Any]) -> str:
        """The changelog topic of a table."""
        return changelog_topic(self.group_id, table.name)

    def transport_for(self, app: faust.App) -> BatchTransport:
        """The transport of the app's consumer."""
        self._transport = BatchTransport(
            app.conf.broker_consumer, app, is_batched=self.is_batched, gates=self.gates, listener=self
        )
        return self._transport

    def is_batched(self, topic: str) -> bool:
        """Whether a topic is delivered in batches."""
        return self._pipeline_of(topic) is not None or self._also_batched(topic)

    def put(self, batch: Batch) -> None:
        """Hand over a batch for its pipeline; it is done when the transaction is committed."""
        if (work := self._works.get(batch.source)) is not None:
            work.put(batch)

    async def on_revoked(self, sources: set[Source]) -> None:
        """Part of a rebalance: end what is begun, keep the state."""
        async with self._changing:
            await asyncio.gather(*(work.park() for source, work in self._works.items() if source in sources))
            await self.positions.close(self._consumer(), {s for s in sources if self._pipeline_of(s.topic) is None})

    async def on_assigned(self, sources: set[Source]) -> None:
        """Part of a rebalance: let go of what is gone, begin what is new, go on with the rest."""
        async with self._changing:
            if self._is_stopping:
                return
            await asyncio.gather(*(self._works.pop(s).close() for s in set(self._works) - sources))
            # aiokafka does not say that all was revoked when the subscription changes during a rebalance.
            await asyncio.gather(*(work.park() for work in self._works.values()))
            self._watch()
            for source in sorted(sources):
                pipeline = self._pipeline_of(source.topic)
                if pipeline is None:
                    await self.positions.open(self._consumer(), source)
                    continue
                if source not in self._works:
                    self._works[source] = PartitionWork(source, pipeline, self._surroundings())
                self._works[source].start()
            self._assigned = True

    async def stop(self) -> None:
        """Finish the transactions that run, begin no more, and let go. Safe to call again."""
        async with self._changing:
            self._is_stopping = True
            for task in self._watching:
                task.cancel()
            await asyncio.gather(*self._watching, return_exceptions=True)
            self._watching.clear()
            works, self._works = self._works, {}
            await asyncio.gather(*(work.close(self._pace.stop_s) for work in works.values()))
            if self._assigned:
                await self.positions.commit(self._consumer())
            if self._around is not None:
                await self._around.restorer.stop()

    def status(self) -> list[PartitionStatus]:
        """How each partition stands, in the order of topics."""
        if not self._works:
            return []
        now = asyncio.get_running_loop().time()
        consumer = self._consumer()
        return [
            PartitionStatus(
                source,
                work.pipeline.name,
                work.phase,
                work.committed,
                consumer.end_of(source),
                consumer.readable_end_of(source),
                now - work.moved_at,
                sum(part.remaining or 0 for part in work.restoring) if work.restoring else None,
                work.error,
            )
            for source, work in sorted(self._works.items())
        ]

    def complaints(self, stall_s: float) -> list[str]:
        """What is wrong, one line for each partition that does not go on."""
        return [text for status in self.status() if (text := complaint(status, stall_s)) is not None]

    def unready(self) -> str | None:
        """Why the tables cannot be trusted yet; None once every part that is ours is complete."""
        if self._is_stopping:
            return "the worker is stopping"
        if not self._assigned:
            return "no partitions are assigned yet"
        waiting = [f"{source} is {work.phase}" for source, work in sorted(self._works.items()) if not work.is_complete]
        return f"{waiting[0]}, and {len(waiting) - 1} more partitions are not open" if waiting else None

    def counts(self) -> Mapping[Source, tuple[int, int]]:
        """Transactions and records of each partition since it was assigned."""
        return {source: (work.transactions, work.records) for source, work in self._works.items()}

    def _pipeline_of(self, topic: str) -> Pipeline | None:
        return next((pipeline for pipeline in self._pipelines if pipeline.takes(topic)), None)

    def _consumer(self) -> BatchConsumer:
        if self._transport is None:
            raise RuntimeError("the app was not given the engine's transport")
        return cast("BatchConsumer", self._transport.app.consumer)

    def _surroundings(self) -> Surroundings:
        if self._around is None:
            options = self._options()
            self._around = Surroundings(
                group_id=self.group_id,
                consumer=self._consumer,
                gates=self.gates,
                restorer=Restorer(options, client_id=f"{self.group_id}-restore"),
                new_producer=lambda source: TransactionalProducer(
                    options, f"{self.group_id}-{source.topic}-{source.partition}"
                ),
                new_store=self._new_store,
                ensure_partitions=self._ensure_partitions,
                backoff_s=self._backoff_s,
                pace=self._pace,
            )
        return self._around

    def _watch(self) -> None:
        if not self._watching:
            loop = asyncio.get_running_loop()
            self._watching = [
                loop.create_task(commit_regularly(self.positions, self._consumer())),
                loop.create_task(self._note_idle()),
            ]

    async def _note_idle(self) -> None:
        """A partition with nothing to do is not still: let its stillness begin when there is something."""
        missing: set[Source] = set()
        while True:
            await asyncio.sleep(_WATCH_S)
            for source, work in list(self._works.items()):
                try:
                    self._look_at(source, work, missing)
                except Exception:  # this must go on: who stands still is told by it
                    log.exception("%s cannot be looked at", source)

    def _look_at(self, source: Source, work: PartitionWork, missing: set[Source]) -> None:
        if work.phase is Phase.RUNNING and (self._consumer().readable_end_of(source) or 0) <= (work.committed or 0):
            work.moved_at = asyncio.get_running_loop().time()
        # On its way from the fetch to us, or lost there: twice in a row is too long for a way of microseconds.
        if not work.waits or not self.gates.in_hand(source)[0]:
            missing.discard(source)
        elif source in missing:
            missing.discard(source)
            work.read_again("a batch was fetched and has not arrived")
        else:
            missing.add(source)
