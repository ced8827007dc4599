"""The work on one input partition: opened, done in transactions, parked at a rebalance, opened again.

A partition is worked on by a task of its own. Every error has one of four ends: it may pass, then the same records
are tried again with backoff; it does not, then the records are halved until the one at fault is alone, and that one
is buried; the producer is fenced or its outcome unknown, then the partition is opened anew, from what is committed;
or even burying fails, then the partition is held and says so, and nothing is dropped.

Four offsets say how far it has come, each at most the one before it: what the transport has fetched (`_Thread._ends`),
what has arrived here (`PartitionWork._next`), what is done and committed (`Chain.expected`), all three of the input; and
that of the changelog up to which a store holds it (`Store.position`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from aiokafka.errors import IllegalStateError, KafkaError

from streams.kafka.batching.batch import Batch, ReceivedRecord, Source
from streams.kafka.batching.chain import Chain, Resolution
from streams.kafka.batching.gates import Gates
from streams.kafka.batching.pipeline import Pipeline, Transaction
from streams.kafka.batching.restoring import Part, Restorer
from streams.kafka.batching.tables import Store, StoreFactory, Table, changelog_key, changelog_topic
from streams.kafka.batching.transactions import AbortedError, BrokenError, FencedError, TransactionalProducer
from streams.kafka.batching.transport import BatchConsumer

log = logging.getLogger(__name__)

_SLICE: Final = 256
"""Records worked on before others of the event loop have their turn: some 10 ms."""
_ROWS: Final = 2_000
"""Changed rows that are encoded before others have their turn: some 2 ms."""
_CANCEL_AGAIN_S: Final = 0.2
_IDLE_S: Final = 1.0
"""After so long without records, the position is committed although only markers moved it."""


class Phase(StrEnum):
    """What a partition's task is doing."""

    OPENING = "opening"
    RESTORING = "restoring"
    RUNNING = "running"
    RETRYING = "retrying"
    """The last attempt failed with an error that may pass."""
    FENCED = "fenced"
    """Another producer has this partition's transactional id; in a moment it is tried to take it back."""
    HELD = "held"
    """Nothing goes on, and nothing is dropped: a record can be neither worked on nor buried."""
    PARKED = "parked"
    """A rebalance is under way."""


TRUSTED: Final = frozenset({Phase.RUNNING, Phase.RETRYING, Phase.HELD})
"""In these, the parts of a partition are as of its committed offset, and nobody else changes them."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How records are gathered into transactions, and how long is waited for what."""

    linger_s: float = 0.1
    """How long the first record of a transaction waits for others."""
    records: int = 8_000
    """A transaction that has so many takes no further batch, and is begun at once."""
    bytes: int = 8_388_608
    """The same, of what they take in memory."""
    fenced_pause_s: float = 6.5
    """Longer than a session timeout: by then a worker that was cut off knows that the partition is no longer its own."""
    park_s: float = 6.0
    """How long a rebalance waits for a running commit."""
    stop_s: float = 3.0
    """How long the worker's end waits for one: what has no outcome by then is decided by the next owner."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the work on partitions stands on, the same for all of a worker."""

    group_id: str
    consumer: Callable[[], BatchConsumer]
    gates: Gates
    restorer: Restorer
    new_producer: Callable[[Source], TransactionalProducer]
    new_store: StoreFactory
    ensure_partitions: Callable[[str, int], Any]
    """Awaited before a changelog is used: makes sure that it has at least so many partitions."""
    backoff_s: Callable[[int], float]
    """The delay after so many failures, in seconds."""
    pace: Pace


class _UnburiedError(Exception):
    """A record can be neither worked on nor buried."""


class _BeyondEndError(Exception):
    """The group's offset lies where the log never was: it was cut, or made anew."""


class _LostBatchError(Exception):
    """A batch was fetched and did not arrive: read on from what is committed."""


_PASSING: Final = (BrokenError, KafkaError, OSError, TimeoutError)
"""What the clients raise while a partition is opened, or its outcome is asked for: it is opened again."""


class PartitionWork:
    """One input partition, as long as it is assigned to this worker."""

    def __init__(self, source: Source, pipeline: Pipeline, around: Surroundings) -> None:
        self.source = source
        self.pipeline = pipeline
        self.error: str | None = None
        """Why it does not go on, where it does not."""
        self._phase = Phase.PARKED
        self._is_held = False
        self._told: int | None = None
        """The offset of the last record of which the log says that it fails."""
        self.transactions = 0
        self.records = 0
        self.moved_at = asyncio.get_running_loop().time()
        """When it last made progress, or had nothing to do; on the event loop's clock."""
        self.restoring: list[Part] = []
        self._around = around
        self._producer = around.new_producer(source)
        self._chain = Chain()
        self._stores: dict[Table[Any], Store[Any]] = {}
        self._queue: deque[Batch] = deque()
        self._next = 0
        """Where the next batch of this epoch starts."""
        self._lost: str | None = None
        """Why batches must be read again."""
        self._working = False
        self._wake = asyncio.Event()
        self._restored = False
        self._last: Transaction | None = None
        self._task: asyncio.Task[None] | None = None
        self._commit: asyncio.Task[None] | None = None

    @property
    def phase(self) -> Phase:
        """What its task is doing. Held it stays, whatever is tried meanwhile, until it has got past the record."""
        return Phase.HELD if self._is_held and self._phase is not Phase.PARKED else self._phase

    @property
    def is_complete(self) -> bool:
        """Whether the parts of its tables are here, and as of the committed offset."""
        return self._restored and self._phase in TRUSTED

    @property
    def committed(self) -> int | None:
        """The offset up to which everything is done; None before that is known."""
        return self._chain.expected

    def start(self) -> None:
        """Begin, or go on after `park`."""
        if self._task is not None:
            raise RuntimeError(f"{self.source} is being worked on")
        self._phase = Phase.OPENING
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"{self.pipeline.name} {self.source}")

    async def park(self, patience_s: float | None = None) -> None:
        """Begin nothing more, and wait until what was begun has an outcome; `park_s` where no patience is given."""
        self._around.gates.shut(self.source)
        if (task := self._task) is not None:
            # Again and again: aiokafka loses a cancellation that meets it while it ends a task of its own.
            while not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_CANCEL_AGAIN_S)
            self._task = None
        if self._commit is not None:
            # Not cut off with the task: half a commit would cost a restore.
            done, _ = await asyncio.wait({self._commit}, timeout=patience_s or self._around.pace.park_s)
            if not done:
                self._commit.cancel()
                await asyncio.wait({self._commit})
            if self._commit.cancelled() or self._commit.exception() is not None:
                await self._producer.stop()
            self._commit = None
        self._queue.clear()
        self._phase = Phase.PARKED

    async def close(self, patience_s: float | None = None) -> None:
        """Park, and let go of everything."""
        await self.park(patience_s)
        await self._producer.stop()
        self._leave()

    def put(self, batch: Batch) -> None:
        """Take a batch in hand; one of a former epoch is left."""
        if not self._around.gates.is_current(batch):
            return
        if batch.start != self._next:
            self.read_again(f"a batch begins at {batch.start}, not at {self._next}")
            return
        self._next = batch.end
        self._queue.append(batch)
        self._wake.set()

    @property
    def waits(self) -> bool:
        """Whether it has nothing in hand, and waits for a batch."""
        return self._phase is Phase.RUNNING and not self._queue and not self._working

    def read_again(self, why: str) -> None:
        """Leave what is in hand, and read on from what is committed."""
        self._lost = why
        self._wake.set()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._open()
                while True:
                    batches = await self._take()
                    self._working = True
                    await self._work(batches)
                    self._working = False
                    failures = 0
            except _LostBatchError as exc:
                log.warning("%s: %s; reading again from %s", self.source, exc, self._chain.expected)
                await asyncio.sleep(self._around.backoff_s(1))
            except FencedError as exc:
                self._stopped(Phase.FENCED, exc)
                await self._producer.stop()
                await asyncio.sleep(self._around.pace.fenced_pause_s)
            except IllegalStateError as exc:
                # Not ours any more; the rebalance that says so is on its way.
                self._stopped(Phase.OPENING, exc)
                await asyncio.sleep(self._around.backoff_s(1))
            except Exception as exc:
                failures += 1
                # A pipeline's own kind of error that may pass comes from opening, too: from what prepares a changelog.
                may_pass = isinstance(exc, _PASSING) or self.pipeline.may_pass(exc)
                if not may_pass and not isinstance(exc, _UnburiedError | _BeyondEndError) and failures == 1:
                    log.exception("%s: an error that nobody expects", self.source)
                self._stopped(Phase.RETRYING if may_pass else Phase.HELD, exc, failures)
                await self._producer.stop()
                await asyncio.sleep(self._around.backoff_s(failures))
            finally:
                self._working = False

    async def _open(self) -> None:
        around, source = self._around, self.source
        around.gates.shut(source)
        self._queue.clear()
        self._phase = Phase.OPENING
        fresh = not self._producer.is_started
        if fresh:
            await self._producer.start()
        committed = await self._committed()
        resolution = self._chain.resolve(committed)
        if resolution is Resolution.FOREIGN:
            # Said at once: should anything fail before it is restored, the next resolution would not find it out.
            self._restored = False
        if not self._restored:
            if not fresh:
                # Others were here since this producer was started: fence them, and look again.
                await self._producer.stop()
                await self._producer.start()
                self._chain.resolve(await self._committed())
            await self._restore()
        elif resolution is Resolution.APPLIED and self._last is not None:
            self._restored = False  # unless the store takes them
            self._apply(self._last, {})
            self._restored = True
        self._last = None
        expected = self._chain.expected or 0
        consumer = around.consumer()
        first, end = await consumer.beginning(source), await consumer.ending(source)
        if expected > end:
            raise _BeyondEndError(
                f"the committed offset {expected} lies beyond the end of the log, {end}: it was cut, or made anew."
                f" Stop the workers, set the offsets of group {around.group_id} to where to go on, and start them again"
            )
        if any(store.newest >= end for store in self._stores.values()):
            await self._forget(end)
        if expected < first:
            log.error("%s: retention has removed offsets %d to %d before they were read", source, expected, first - 1)
        self._next, self._lost = max(expected, first), None
        epoch = await consumer.rollback(source, self._next)
        around.gates.open(source, epoch)
        self._phase = Phase.RUNNING
        if not self._is_held:
            self.error = None

    async def _committed(self) -> int:
        consumer = self._around.consumer()
        offset = await consumer.committed(self.source)
        return await consumer.beginning(self.source) if offset is None else offset

    async def _restore(self) -> None:
        self._phase = Phase.RESTORING
        self._restored = False
        self._leave()
        around, source = self._around, self.source
        try:
            for table in self.pipeline.tables:
                changelog = changelog_topic(around.group_id, table.name)
                await around.ensure_partitions(changelog, source.partition + 1)
                store = table.own_store() if table.own_store is not None else around.new_store(table, source)
                self._stores[table] = store
                self.restoring.append(Part(table, source, store, changelog))
            await around.restorer.restore(self.restoring)
        finally:
            self.restoring = []
        for table, store in self._stores.items():
            table.parts[source] = store
        self._restored = True

    async def _forget(self, end: int) -> None:
        """Remove the rows of a former log: its offsets say of the records of this one that they were folded already."""
        log.error(
            "%s ends at %d, and its tables have seen more: it was made anew, so they begin anew", self.source, end
        )
        for table, store in self._stores.items():
            keys = list(store.keys())
            for start in range(0, len(keys), self._around.pace.records):
                some = keys[start : start + self._around.pace.records]

                async def remove(transaction: Transaction, _: object, table: Any = table, some: Any = some) -> None:
                    for key in some:
                        transaction.rows(table).remove(key)

                if (refusal := await self._attempt((), self._chain.expected or 0, remove)) is not None:
                    raise refusal
            store.newest = -1

    def _leave(self) -> None:
        for table, store in self._stores.items():
            table.parts.pop(self.source, None)
            store.close()
        self._stores.clear()

    async def _take(self) -> list[Batch]:
        """The batches of the next transaction: what has come, and what comes soon."""
        pace, queue = self._around.pace, self._queue
        loop = asyncio.get_running_loop()
        while not queue:
            self._check_whole()
            self._wake.clear()
            await self._wake.wait()
        began = loop.time()
        seen = records = size = 0
        while True:
            for batch in list(queue)[seen:]:
                records += len(batch)
                size += batch.bytes
            seen = len(queue)
            self._check_whole()
            held_back = self.source not in self._around.gates.fetchable((self.source,))
            if records >= pace.records or size >= pace.bytes or (held_back and records):
                break
            rest = began + (pace.linger_s if records else _IDLE_S) - loop.time()
            if rest <= 0:
                break
            self._wake.clear()
            try:
                async with asyncio.timeout(rest):
                    await self._wake.wait()
            except TimeoutError:
                continue
        batches, records, size = [], 0, 0
        while queue and records < pace.records and size < pace.bytes:
            batch = queue.popleft()
            batches.append(batch)
            records += len(batch)
            size += batch.bytes
        return batches

    def _check_whole(self) -> None:
        if self._lost is not None:
            raise _LostBatchError(self._lost)

    async def _work(self, batches: Sequence[Batch]) -> None:
        records = [record for batch in batches for record in batch.records]
        expected = self._chain.expected or 0
        if records and records[0].offset < expected:
            # Read again from before: a fetch whose position was reset to the beginning by Kafka.
            records = [record for record in records if record.offset >= expected]
        end = batches[-1].end
        if end > expected:
            await self._through(records, end)
        for batch in batches:
            self._around.gates.done(batch)

    async def _through(self, records: Sequence[ReceivedRecord], end: int) -> None:
        """Bring the records to their end; those among which one is at fault in halves, until it is alone."""
        rest = [(records, end)]
        while rest:
            part, part_end = rest.pop()
            fault = await self._attempt(part, part_end, self._handle)
            if fault is None:
                continue
            if len(part) > 1:
                middle = len(part) // 2
                rest.append((part[middle:], part_end))
                rest.append((part[:middle], part[middle].offset))
                continue
            if not part:
                raise fault
            record = part[0]
            if record.offset != self._told:
                self._told = record.offset
                log.warning("%s@%d fails for good: %r", self.source, record.offset, fault)

            async def bury(transaction: Transaction, _: object, record: Any = record, fault: Any = fault) -> None:
                await self.pipeline.bury(transaction, record, fault)

            if (refusal := await self._attempt(part, part_end, bury)) is not None:
                reason = f"offset {record.offset} fails ({fault!r}), and cannot be buried ({refusal!r})"
                raise _UnburiedError(reason) from refusal

    async def _handle(self, transaction: Transaction, records: Sequence[ReceivedRecord]) -> None:
        for start in range(0, len(records), _SLICE):
            await self.pipeline.handle(transaction, records[start : start + _SLICE])
            await asyncio.sleep(0)

    async def _attempt(self, records: Sequence[ReceivedRecord], end: int, work: Any) -> Exception | None:
        """One transaction, tried again while its error may pass. Returns the error that does not."""
        failures = 0
        while True:
            outbox = self._producer.outbox()
            transaction = Transaction(self.source, outbox, self._stores, self._producer.partitions_of, failures + 1)
            error: BaseException
            try:
                await work(transaction, records)
                for table, changes in transaction.changes.items():
                    await self._log_changes(outbox, table, changes.changed)
            except (FencedError, BrokenError):
                raise
            except Exception as exc:  # noqa: BLE001  # whatever a pipeline raises has an end of its own
                error = exc
            else:
                try:
                    await self._write(transaction, outbox, end, len(records))
                except AbortedError as exc:
                    error = exc.__cause__ or exc
                else:
                    self._phase, self._is_held, self.error = Phase.RUNNING, False, None
                    return None
            if not isinstance(error, Exception) or not self.pipeline.may_pass(error):
                return error if isinstance(error, Exception) else RuntimeError(repr(error))
            failures += 1
            self._stopped(Phase.RETRYING, error, failures)
            await asyncio.sleep(self._around.backoff_s(failures))

    async def _log_changes(self, outbox: Any, table: Table[Any], changed: Mapping[str, Any]) -> None:
        changelog = changelog_topic(self._around.group_id, table.name)
        topic, partition = self.source
        for count, (key, row) in enumerate(changed.items(), 1):
            if count % _ROWS == 0:
                await asyncio.sleep(0)
            outbox.append(changelog, partition, changelog_key(topic, key), None if row is None else table.encode(row))

    async def _write(self, transaction: Transaction, outbox: Any, end: int, records: int) -> None:
        """Commit in a task of its own, which a rebalance waits for and does not cut off."""

        async def commit() -> None:
            self._chain.attempt(end)
            self._last = transaction
            try:
                ends = await self._producer.commit(outbox, {self.source: end}, self._around.group_id)
            except AbortedError:
                self._chain.drop()
                raise
            self._apply(transaction, ends)
            self._chain.settle()
            self._last = None
            self.transactions += 1
            self.records += records
            self.moved_at = asyncio.get_running_loop().time()

        self._commit = asyncio.get_running_loop().create_task(commit())
        try:
            await asyncio.shield(self._commit)
        except asyncio.CancelledError:
            raise  # park() waits for the task
        except Exception:
            self._commit = None
            raise
        self._commit = None

    def _apply(self, transaction: Transaction, ends: Mapping[tuple[str, int], int]) -> None:
        for table, changes in transaction.changes.items():
            changelog = changelog_topic(self._around.group_id, table.name)
            self._stores[table].apply(changes.changed, ends.get((changelog, self.source.partition)))

    def _stopped(self, phase: Phase, error: BaseException, failures: int = 1) -> None:
        self._phase = phase
        # Any other error is over once the partition is open again, with or without records to show it.
        self._is_held = self._is_held or isinstance(error, _UnburiedError | _BeyondEndError)
        self.error = str(error) or type(error).__name__
        # The first, and then fewer and fewer: Kafka may be away for hours.
        if failures & (failures - 1) == 0:
            log.warning("%s is %s, attempt %d failed: %s", self.source, phase, failures, self.error)
