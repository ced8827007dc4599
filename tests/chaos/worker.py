"""A worker as it is in production, on Kafka clients that fail: `faust -A tests.chaos.worker worker`.

Nothing of the product knows of this. Faults strike below the engine, in the transactional producer's client, and above
it, in what the agents do with records; which, and after how many transactions, follows from a seed.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError, RequestTimedOutError

from streams.domain.errors import KafkaUnavailableError
from streams.domain.headers import EVENT_ID, header
from streams.kafka.batching import FencedError, Pipeline, ReceivedRecord, Source, Transaction, TransactionalProducer
from streams.kafka.batching import transactions as engine_transactions
from streams.kafka.batching.chain import Resolution
from streams.kafka.batching.partition import PartitionWork, Surroundings
from streams.kafka.batching.restoring import Part, Restorer
from streams.worker import app
from tests.chaos.events import INGEST_BUG_HEADER, STATE_BUG_PREFIX
from tests.chaos.worker_faults import EVERY, FAULTS, JOURNAL, SEED, Fault

__all__ = ["app"]

_SLOW_S: Final = (0.3, 1.5)
_EXPIRED_S: Final = 19.0
"""Longer than a transaction may last (15 s), and than the broker takes to look for such (2 s)."""


class Journal:
    """What happened in this process, a line each: it survives a kill."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, *words: object) -> None:
        """Write a line."""
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


class Injector:
    """Says which transactions are struck by what: every few by the next fault of a shuffled round of all."""

    def __init__(self, seed: str, faults: Sequence[Fault], every: int) -> None:
        self._draw = random.Random(seed)
        self._faults = list(faults)
        self._every = every
        self._round: list[Fault] = []
        self._rest = self._gap()

    def next(self) -> Fault | None:
        """The fault of the next transaction."""
        self._rest -= 1
        if self._rest > 0 or not self._faults:
            return None
        if not self._round:
            self._round = self._draw.sample(self._faults, len(self._faults))
        self._rest = self._gap()
        return self._round.pop()

    def delay_s(self) -> float:
        """How late a commit comes."""
        return self._draw.uniform(*_SLOW_S)

    def _gap(self) -> int:
        return self._draw.randint(1, 2 * self._every - 1)


_journal = Journal(Path(os.environ[JOURNAL]))
_before = Injector(os.environ[SEED] + "/before", [Fault.UNAVAILABLE], int(os.environ[EVERY]) * 8)
_within = Injector(
    os.environ[SEED] + "/within", [Fault(name) for name in os.environ[FAULTS].split(",")], int(os.environ[EVERY])
)


class FaultyClient(AIOKafkaProducer):  # type: ignore[misc]
    """aiokafka's producer, which fails as Kafka and networks do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._options = options
        self._fault: Fault | None = None

    async def begin_transaction(self) -> None:
        self._fault = _within.next()
        if self._fault is not None:
            _journal.note("fault", self._fault)
        await super().begin_transaction()

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        sent = await super().send_batch(batch, topic, partition=partition)
        if self._fault is Fault.SEND:
            self._fault = None
            await sent
            raise KafkaTimeoutError("injected")
        return sent

    async def send_offsets_to_transaction(self, offsets: Any, group_id: str) -> None:
        if self._fault in (Fault.OFFSETS, Fault.SEND):  # a transaction without records has nothing to send
            self._fault = None
            raise KafkaTimeoutError("injected")
        await super().send_offsets_to_transaction(offsets, group_id)

    async def commit_transaction(self) -> None:
        fault, self._fault = self._fault, None
        match fault:
            case Fault.LOST:
                raise RequestTimedOutError("injected")
            case Fault.ANSWER:
                await super().commit_transaction()
                raise RequestTimedOutError("injected")
            case Fault.RIVAL:
                rival = AIOKafkaProducer(**self._options)
                await rival.start()
                await rival.stop()
            case Fault.SLOW:
                await asyncio.sleep(_within.delay_s())
            case Fault.EXPIRED:
                await asyncio.sleep(_EXPIRED_S)
            case _:
                pass
        await super().commit_transaction()


class NotedProducer(TransactionalProducer):
    """The engine's producer, whose outcomes are in the journal."""

    async def commit(
        self, outbox: Any, offsets: Mapping[tuple[str, int], int] | None = None, group_id: str | None = None
    ) -> Mapping[tuple[str, int], int]:
        try:
            ends = await super().commit(outbox, offsets, group_id)
        except FencedError:
            _journal.note("fenced", self.transactional_id)
            raise
        _journal.note("committed", self.transactional_id)
        return ends


class NotedRestorer(Restorer):
    """The engine's restorer; what it has read is in the journal."""

    async def restore(self, parts: Sequence[Part]) -> None:
        await super().restore(parts)
        for part in parts:
            _journal.note("restored", part.table.name, part.source, part.records)


class NotedWork(PartitionWork):
    """The engine's work on a partition; what it finds out when it is opened again is in the journal."""

    def __init__(self, source: Source, pipeline: Pipeline, around: Surroundings) -> None:
        super().__init__(source, pipeline, around)
        resolve = self._chain.resolve

        def resolve_and_note(committed: int) -> Resolution:
            had_state = self._restored and bool(pipeline.tables)
            found = resolve(committed)
            if had_state:
                _journal.note("resolved", source, found.name.lower())
            return found

        setattr(self._chain, "resolve", resolve_and_note)  # noqa: B010


def _stumble(pipeline: Pipeline) -> None:
    """Let a pipeline fail, over some records always, and now and then without a reason."""
    handle = pipeline.handle

    async def handle_or_fail(transaction: Transaction, records: Sequence[ReceivedRecord]) -> None:
        for record in records:
            if _is_cursed(pipeline.name, record):
                raise RuntimeError(f"a bug in {pipeline.name}")
        if (fault := _before.next()) is not None:
            _journal.note("fault", fault)
            raise KafkaUnavailableError("injected")
        await handle(transaction, records)

    setattr(pipeline, "handle", handle_or_fail)  # noqa: B010  # mypy: a method is assigned


def _is_cursed(pipeline: str, record: ReceivedRecord) -> bool:
    if pipeline == "ingest":
        return any(name == INGEST_BUG_HEADER for name, _ in record.headers)
    return pipeline == "state" and (header(record.headers, EVENT_ID) or "").startswith(STATE_BUG_PREFIX)


def _install() -> None:
    from streams.kafka.batching import engine

    setattr(engine_transactions, "AIOKafkaProducer", FaultyClient)  # noqa: B010
    setattr(engine, "TransactionalProducer", NotedProducer)  # noqa: B010
    setattr(engine, "PartitionWork", NotedWork)  # noqa: B010
    setattr(engine, "Restorer", NotedRestorer)  # noqa: B010
    for pipeline in app.engine._pipelines:
        _stumble(pipeline)
    _journal.note("started", os.getpid())


_install()
