"""A Kafka of memory for the batching engine, on an event loop without a clock: transactions, fencing, faults.

What is here is what the engine relies on: logs with holes, read_committed, epochs of transactional ids, the group's
offsets, a changelog. The engine itself, its producer and its restorer are the real ones; only aiokafka's two clients
below them are replaced. A worker can be killed, frozen and woken at any step, and any step can fail.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal, cast
from unittest import mock

import msgspec
from aiokafka.errors import (
    IllegalStateError,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
)
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streams.domain.envelope import Event
from streams.domain.state import KeyState, fold
from streams.kafka.batching import (
    Batch,
    Engine,
    Limits,
    MemoryStore,
    Outbox,
    Pace,
    Pipeline,
    Source,
    Store,
    Table,
    Transaction,
    restoring,
    transactions,
)
from streams.kafka.batching.partition import PartitionWork
from streams.kafka.batching.tables import parse_changelog_key

GROUP = "group"
Step = Literal["start", "begin", "send", "offsets", "commit", "committed", "abort", "read", "seek", "ensure"]
"""Where a fault may strike; `committed` is a commit that has happened and whose answer is lost."""


class Clockless(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer when nothing else is to be done."""

    class _Selector(selectors.DefaultSelector):
        passed = 0.0

        def select(self, timeout: float | None = None) -> Any:
            if timeout is None:
                raise RuntimeError("everything waits for something that will never happen")
            self.passed += timeout
            return super().select(0)

    def __init__(self) -> None:
        self._own = self._Selector()
        super().__init__(self._own)

    def time(self) -> float:
        return self._own.passed


def run(work: Awaitable[Any]) -> Any:
    """What comes of some work on a loop without a clock; what is left of it is ended."""
    with asyncio.Runner(loop_factory=Clockless) as runner:

        async def whole() -> Any:
            return await work

        return runner.run(whole())


@dataclass
class Entry:
    """What a log has at an offset; a hole is a marker, or a record that compaction has removed."""

    offset: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    status: Literal["open", "committed", "aborted", "hole"] = "committed"
    topic: str = ""
    partition: int = 0
    timestamp: int = 0

    @property
    def serialized_key_size(self) -> int:
        return len(self.key or b"")

    @property
    def serialized_value_size(self) -> int:
        return len(self.value or b"")


class Log(list[Entry]):
    """A partition."""

    start = 0
    """The first offset that retention has left."""

    def add(self, where: tuple[str, int], **what: Any) -> Entry:
        entry = Entry(len(self), topic=where[0], partition=where[1], **what)
        self.append(entry)
        return entry

    @property
    def stable(self) -> int:
        """The last stable offset: nothing from an open transaction on is read."""
        return next((entry.offset for entry in self if entry.status == "open"), len(self))

    def committed(self, start: int = 0, end: int | None = None) -> list[Entry]:
        return [entry for entry in self[start : self.stable if end is None else end] if entry.status == "committed"]

    def fetch(self, position: int, most: int, *, committed: bool = True) -> tuple[list[Entry], int]:
        """Records from a position on, and the position behind them: it steps over holes."""
        position = max(position, self.start)
        end = self.stable if committed else len(self)
        found: list[Entry] = []
        while position < end and len(found) < most:
            entry = self[position]
            if entry.status == "committed" or (not committed and entry.status != "hole"):
                found.append(entry)
            position += 1
        return found, position


@dataclass
class _Id:
    epoch: int = 0
    entries: list[Entry] = field(default_factory=list)
    where: set[tuple[str, int]] = field(default_factory=set)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)


class Kafka:
    """The broker."""

    def __init__(self, partitions: Mapping[str, int] | None = None) -> None:
        self.logs: dict[tuple[str, int], Log] = defaultdict(Log)
        self.partitions: dict[str, int] = defaultdict(lambda: 2, partitions or {})
        self.offsets: dict[tuple[str, int], int] = {}
        self.ids: dict[str, _Id] = defaultdict(_Id)
        self.faults: dict[str, list[Exception]] = defaultdict(list)
        self.steps: list[str] = []
        """Every step that was reached, for tests that ask how often."""

    def fail(self, step: Step, *errors: Exception) -> None:
        """The next calls of this kind fail so."""
        self.faults[step].extend(errors)

    def strike(self, step: Step) -> None:
        self.steps.append(step)
        if self.faults[step]:
            raise self.faults[step].pop(0)

    def put(self, source: Source, key: bytes, value: bytes, headers: tuple[tuple[str, bytes], ...] = ()) -> Entry:
        return self.logs[source].add(source, key=key, value=value, headers=headers)

    def holes(self, source: Source, number: int = 1) -> None:
        for _ in range(number):
            self.logs[source].add(source, status="hole")

    def abort_foreign(self, source: Source, value: bytes) -> None:
        """Somebody else's transaction in an input topic, aborted: a record that nobody sees, and a marker."""
        self.logs[source].add(source, key=b"k", value=value, status="aborted")
        self.holes(source)

    def init(self, transactional_id: str) -> int:
        """KIP-98: end the open transaction of this id, and fence whoever had it."""
        self.finish(transactional_id, commit=False)
        self.ids[transactional_id].epoch += 1
        return self.ids[transactional_id].epoch

    def check(self, transactional_id: str, epoch: int) -> _Id:
        found = self.ids[transactional_id]
        if found.epoch != epoch:
            raise ProducerFenced(f"{transactional_id}: epoch {epoch} is not {found.epoch}")
        return found

    def finish(self, transactional_id: str, *, commit: bool) -> None:
        found = self.ids[transactional_id]
        for entry in found.entries:
            entry.status = "committed" if commit else "aborted"
        for where in sorted(found.where):
            self.logs[where].add(where, status="hole")
        if commit:
            self.offsets |= found.offsets
        found.entries, found.where, found.offsets = [], set(), {}

    def expire(self) -> None:
        """Open transactions have become too old: the coordinator ends them, and fences who began them."""
        for transactional_id, found in self.ids.items():
            if found.where or found.offsets:
                self.init(transactional_id)


class Process:
    """What of a worker can be frozen or killed: its calls reach Kafka only while it runs."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.runs = asyncio.Event()
        self.runs.set()

    async def reach(self, step: Step) -> None:
        await self.runs.wait()
        await asyncio.sleep(0.001)
        await self.runs.wait()
        self.kafka.strike(step)


class Builder:
    """A batch that takes so many bytes; the first record fits always, as with aiokafka's."""

    def __init__(self, most: int = 10_000) -> None:
        self.most = most
        self.size = 0
        self.records: list[tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...], int | None]] = []

    def append(self, *, timestamp: int | None, key: bytes | None, value: bytes | None, headers: Any) -> object | None:
        size = len(key or b"") + len(value or b"")
        if self.records and self.size + size > self.most:
            return None
        self.size += size
        self.records.append((key, value, tuple(headers), timestamp))
        return object()

    def record_count(self) -> int:
        return len(self.records)


def begun(
    source: Source, stores: Mapping[Table[Any], Store[Any]] | None = None, *, attempt: int = 1, partitions: int = 4
) -> tuple[Transaction, Outbox]:
    """A transaction of no engine, and where what it sends can be seen."""
    outbox = Outbox(Builder)

    async def partitions_of(topic: str) -> int:
        return partitions

    return Transaction(source, outbox, stores or {}, partitions_of, attempt), outbox


def sent(outbox: Outbox) -> list[tuple[str, int, bytes | None, bytes | None, dict[str, bytes]]]:
    """Topic, partition, key, value and headers of what a transaction sends."""
    return [
        (topic, partition, key, value, dict(headers))
        for (topic, partition), builders in outbox.batches().items()
        for builder in builders
        for key, value, headers, _ in builder.records
    ]


REFUSED = b"refused"
"""Kafka takes no record that has this in its value."""


class FakeProducer:
    """In place of AIOKafkaProducer, below the engine's own TransactionalProducer."""

    def __init__(self, process: Process, transactional_id: str, **_: Any) -> None:
        self._process = process
        self._kafka = process.kafka
        self._id = transactional_id
        self._epoch = 0
        self._out_of_order = False

    async def start(self) -> None:
        await self._process.reach("start")
        self._epoch = self._kafka.init(self._id)

    async def stop(self) -> None:
        self._epoch = -1

    def create_batch(self) -> Builder:
        return Builder()

    async def partitions_for(self, topic: str) -> set[int]:
        return set(range(self._kafka.partitions[topic]))

    async def begin_transaction(self) -> None:
        await self._process.reach("begin")

    async def send_batch(self, builder: Builder, topic: str, *, partition: int) -> asyncio.Future[Any]:
        await self._process.reach("send")
        found = self._kafka.check(self._id, self._epoch)
        acknowledged: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._out_of_order:
            raise OutOfOrderSequenceNumber
        if any(REFUSED in (value or b"") for _, value, _, _ in builder.records):
            self._out_of_order = True
            acknowledged.set_exception(MessageSizeTooLargeError())
            return acknowledged
        where = (topic, partition)
        log = self._kafka.logs[where]
        first = len(log)
        found.where.add(where)
        for key, value, headers, timestamp in builder.records:
            entry = log.add(where, key=key, value=value, headers=headers, status="open", timestamp=timestamp or 0)
            found.entries.append(entry)
        acknowledged.set_result(SimpleNamespace(offset=first))
        return acknowledged

    async def send_offsets_to_transaction(self, offsets: Mapping[Any, int], group_id: str) -> None:
        assert group_id == GROUP
        await self._process.reach("offsets")
        found = self._kafka.check(self._id, self._epoch)
        found.offsets |= {tuple(tp): offset for tp, offset in offsets.items()}

    async def commit_transaction(self) -> None:
        await self._process.reach("commit")
        self._kafka.check(self._id, self._epoch)
        self._kafka.finish(self._id, commit=True)
        await self._process.reach("committed")

    async def abort_transaction(self) -> None:
        await self._process.reach("abort")
        self._kafka.check(self._id, self._epoch)
        self._kafka.finish(self._id, commit=False)


class FakeLogConsumer:
    """In place of AIOKafkaConsumer, below the engine's own Restorer."""

    def __init__(self, process: Process, isolation_level: str, max_poll_records: int = 500, **_: Any) -> None:
        self._process = process
        self._logs = process.kafka.logs
        self._committed = isolation_level == "read_committed"
        self._most = min(max_poll_records, 7)
        self._positions: dict[Any, int] = {}
        self._paused: set[Any] = set()

    async def start(self) -> None:
        await self._process.reach("read")

    async def stop(self) -> None:
        await asyncio.sleep(0)

    async def end_offsets(self, tps: Iterable[Any]) -> dict[Any, int]:
        await self._process.reach("read")
        return {tp: len(self._logs[tuple(tp)]) if not self._committed else self._logs[tuple(tp)].stable for tp in tps}

    def assign(self, tps: Iterable[Any]) -> None:
        self._positions = dict.fromkeys(tps, 0)

    def seek(self, tp: Any, offset: int) -> None:
        self._positions[tp] = offset

    async def seek_to_beginning(self, tp: Any) -> None:
        self._positions[tp] = 0

    async def position(self, tp: Any) -> int:
        await asyncio.sleep(0)
        return self._positions[tp]

    def pause(self, tp: Any) -> None:
        self._paused.add(tp)

    async def getmany(self, timeout_ms: int) -> dict[Any, list[Entry]]:
        await self._process.reach("read")
        found = {}
        for tp in self._positions.keys() - self._paused:
            records, self._positions[tp] = self._logs[tuple(tp)].fetch(
                self._positions[tp], self._most, committed=self._committed
            )
            if records:
                found[tp] = records
        if not found:
            await asyncio.sleep(timeout_ms / 1000)
        return found


class FakeConsumer:
    """In place of the engine's BatchConsumer: the group's view of the input, with positions and epochs."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._kafka = process.kafka
        self.assigned: set[Source] = set()
        self.positions: dict[Source, int] = {}
        self.epochs: dict[Source, int] = {}
        self.seeks: list[tuple[Source, int]] = []
        self._number = 0

    async def committed(self, source: Source) -> int | None:
        await self._process.reach("read")
        return self._kafka.offsets.get(source)

    async def beginning(self, source: Source) -> int:
        await self._process.reach("read")
        return self._kafka.logs[source].start

    async def ending(self, source: Source) -> int:
        await self._process.reach("read")
        return len(self._kafka.logs[source])

    async def rollback(self, source: Source, offset: int) -> int:
        await self._process.reach("seek")
        if source not in self.assigned:
            raise IllegalStateError(f"{source} is not assigned")
        self._number += 1
        self.seeks.append((source, offset))
        self.positions[source] = offset
        self.epochs[source] = self._number
        return self._number

    async def commit_positions(self, offsets: Mapping[Source, int]) -> None:
        if not offsets:
            raise ValueError(offsets)  # as aiokafka
        await self._process.reach("offsets")
        for source, offset in offsets.items():
            self._kafka.offsets[source] = offset

    def readable_end_of(self, source: Source) -> int | None:
        return self.end_of(source)

    def end_of(self, source: Source) -> int | None:
        return len(self._kafka.logs[source]) if source in self.assigned else None

    def fetch(self, source: Source, most: int) -> Batch | None:
        """As the transport's thread would: the records, and the position behind them, in one step."""
        before = self.positions.get(source)
        if before is None:
            return None
        records, end = self._kafka.logs[source].fetch(before, most)
        self.positions[source] = end
        if not records and end <= before:
            return None
        size = sum(record.serialized_key_size + record.serialized_value_size for record in records)
        received = cast("Sequence[Any]", records)
        return Batch(source, received, start=before, end=end, epoch=self.epochs[source], size=size)


class TransientError(Exception):
    """May pass."""


class BadRecordError(Exception):
    """Will not."""


class Folding(Pipeline):
    """Writes one record for each that it reads, and folds it into a row: with every kind of mishap, on request.

    A value may be `poison` (its work fails for good), `refused` (Kafka does not take what comes of it), `cursed` (it
    can neither be worked on nor buried while `cursed` is true), or anything else.
    """

    name = "folding"

    def __init__(self) -> None:
        self.table = Table("rows", KeyState)
        self.tables = (self.table,)
        self.errors: list[Exception] = []
        self.cursed = True
        self.attempts: list[tuple[int, ...]] = []

    def takes(self, topic: str) -> bool:
        return topic.startswith("in")

    async def handle(self, transaction: Transaction, records: Sequence[Any]) -> None:
        self.attempts.append(tuple(record.offset for record in records))
        rows = transaction.rows(self.table)
        for record in records:
            await asyncio.sleep(0)
            if record.value in (b"poison", b"cursed"):
                raise BadRecordError(record.value)
            key = record.key.decode()
            if (row := fold(rows.get(key), event_of(record), record.topic, key, record.offset)) is not None:
                rows.put(key, row)
            transaction.send("out", len(record.value) % 2, record.key, record.value, origin(record))
        if self.errors:
            raise self.errors.pop(0)

    async def bury(self, transaction: Transaction, record: Any, error: Exception) -> None:
        if record.value == b"cursed" and self.cursed:
            raise BadRecordError("no grave")
        transaction.send("dlq", 0, record.key, b"buried", origin(record))

    def may_pass(self, error: Exception) -> bool:
        return isinstance(error, TransientError) or (
            isinstance(error, KafkaError) and not isinstance(error, MessageSizeTooLargeError)
        )


def origin(record: Any) -> tuple[tuple[str, bytes], ...]:
    return (("origin", f"{record.topic}/{record.partition}/{record.offset}".encode()),)


def event_of(record: Any) -> Event:
    number = sum(record.value)
    return Event(f"{record.partition}-{record.offset}", "t", number, record.key.decode(), None, float(number))


def folded(log: Log, end: int) -> dict[str, KeyState]:
    """The model of the table: the fold of what a partition has below an offset, in one go."""
    rows: dict[str, KeyState] = {}
    for entry in log.committed(0, end):
        if entry.value in (b"poison", b"cursed") or REFUSED in (entry.value or b""):
            continue
        key = (entry.key or b"").decode()
        row = fold(rows.get(key), event_of(entry), entry.topic, key, entry.offset)
        assert row is not None
        rows[key] = row
    return rows


PACE = Pace(linger_s=0.05, records=40, fenced_pause_s=1.0, park_s=2.0)


class Worker:
    """A worker: the real engine, on clients of memory."""

    def __init__(
        self,
        kafka: Kafka,
        pipeline: Pipeline | None = None,
        *,
        limits: Limits | None = None,
        new_store: Callable[[Table[Any], Source], Store[Any]] = lambda _table, _source: MemoryStore(),
        most: int = 5,
        by_agent: Callable[[Worker, Batch], None] | None = None,
    ) -> None:
        self.process = Process(kafka)
        self.kafka = kafka
        self.consumer = FakeConsumer(self.process)
        self.pipeline = pipeline or Folding()
        self.limits = limits or Limits(batches=4, bytes=200)
        self.most = most
        """Records of a fetch."""
        self.losses: list[bool] = []
        """Whether each of the next batches is lost on its way through Faust."""
        self.by_agent = by_agent
        """Takes the batches of topics that begin with `plain`, which no pipeline takes."""

        async def ensure_partitions(topic: str, partitions: int) -> None:
            await self.process.reach("ensure")

        self.engine = Engine(
            GROUP,
            lambda: {"process": self.process},
            new_store=new_store,
            ensure_partitions=ensure_partitions,
            backoff_s=lambda failures: min(0.1 * 2**failures, 2.0),
            limits=self.limits,
            pace=PACE,
            also_batched=lambda topic: topic.startswith("plain"),
        )
        self.engine.add(self.pipeline)
        self.engine._transport = cast("Any", SimpleNamespace(app=SimpleNamespace(consumer=self.consumer)))
        self._fetching = asyncio.get_running_loop().create_task(self._fetch())

    @property
    def rows(self) -> Table[KeyState]:
        return cast("Folding", self.pipeline).table

    @property
    def works(self) -> dict[Source, PartitionWork]:
        return self.engine._works

    @property
    def is_frozen(self) -> bool:
        return not self.process.runs.is_set()

    async def _fetch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self.process.runs.wait()
            for source in sorted(self.engine.gates.fetchable(self.consumer.assigned)):
                batch = self.consumer.fetch(source, self.most)
                if batch is not None and self.engine.gates.admits(batch):
                    # Faust takes a moment to bring it to the agent.
                    loop.call_later(0.01, self._put, batch)
            await asyncio.sleep(0.03)

    def _put(self, batch: Batch) -> None:
        if self.is_frozen or (self.losses and self.losses.pop(0)):
            return
        if self.by_agent is not None and batch.source.topic.startswith("plain"):
            self.by_agent(self, batch)
        else:
            self.engine.put(batch)

    async def revoke(self) -> None:
        await self.engine.on_revoked(set(self.consumer.assigned))

    async def assign(self, *sources: Source) -> None:
        self.consumer.assigned = set(sources)
        for source in set(self.consumer.positions) - set(sources):
            del self.consumer.positions[source]
        await self.engine.on_assigned(set(sources))

    def freeze(self) -> None:
        self.process.runs.clear()

    def wake(self) -> None:
        self.process.runs.set()

    async def kill(self) -> None:
        """As kill -9: nothing of it reaches Kafka any more."""
        self.freeze()
        tasks: list[asyncio.Task[Any] | None] = [self._fetching, *self.engine._watching]
        if self.engine._around is not None:
            tasks += self.engine._around.restorer._passes
        tasks += [task for work in self.works.values() for task in (work._task, work._commit)]
        alive = [task for task in tasks if task is not None]
        for task in alive:
            task.cancel()
        await asyncio.gather(*alive, return_exceptions=True)

    async def stop(self) -> None:
        """As SIGTERM."""
        await self.engine.stop()
        await self.kill()

    def snapshot(self, source: Source) -> dict[str, KeyState]:
        part = self.rows.parts.get(source)
        return {} if part is None else dict(part.items())


def outputs(kafka: Kafka) -> dict[tuple[str, int], list[int]]:
    """For each input partition, the offsets of whose records something was committed, sooner or later visible."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    for (topic, _), log in list(kafka.logs.items()):
        if topic in ("out", "dlq"):
            for entry in log.committed(0, len(log)):
                name, partition, offset = dict(entry.headers)["origin"].decode().split("/")
                found[name, int(partition)].append(int(offset))
    return found


def check(kafka: Kafka, sources: Iterable[Source], workers: Iterable[Worker] = ()) -> None:
    """What must be true at any moment, whatever has happened."""
    seen = outputs(kafka)
    for source in sources:
        committed = kafka.offsets.get(source, 0)
        log = kafka.logs[source]
        # Each record once, and none that is not behind the committed offset: nothing lost, nothing doubled.
        assert sorted(seen[source]) == [entry.offset for entry in log.committed(0, committed)], source
        assert changelog_rows(kafka, source) == folded(log, committed), source
    check_order(kafka)
    for worker in workers:
        check_gates(worker)
        for source, work in worker.works.items():
            if work.is_complete and work._commit is None and work._last is None and source in worker.rows.parts:
                # Who was fenced while it restored may have read what its successor wrote, and cannot add to it.
                at = work.committed or 0
                newest = at if is_owner(kafka, source, work) else max(at, kafka.offsets.get(source, 0))
                held = worker.snapshot(source)
                assert any(held == folded(kafka.logs[source], offset) for offset in range(at, newest + 1)), source


def is_owner(kafka: Kafka, source: Source, work: PartitionWork) -> bool:
    """Whether nobody has fenced it."""
    client: Any = work._producer._client
    return client is not None and client._epoch == kafka.ids[work._producer.transactional_id].epoch


def check_order(kafka: Kafka) -> None:
    for (topic, _), log in list(kafka.logs.items()):
        if topic == "out":
            last: dict[str, int] = {}
            for entry in log.committed(0, len(log)):
                place, _, offset = dict(entry.headers)["origin"].decode().rpartition("/")
                assert last.get(place, -1) < int(offset), (topic, place)
                last[place] = int(offset)


def check_gates(worker: Worker) -> None:
    """What is counted as in hand is never more than the limits and one fetch of each partition, and adds up."""
    gates = worker.engine.gates
    hands = {source: gates.in_hand(source) for source in worker.consumer.assigned}
    assert gates.bytes == sum(size for _, size in hands.values())
    for source, (batches, size) in hands.items():
        assert 0 <= batches <= worker.limits.batches, source
        assert size >= 0
    largest = 12 * worker.most
    assert gates.bytes <= worker.limits.bytes + largest * len(hands)


def changelog_rows(kafka: Kafka, source: Source) -> dict[str, KeyState]:
    """What anybody would restore now."""
    rows: dict[str, KeyState] = {}
    log = kafka.logs[f"{GROUP}-rows-changelog", source.partition]
    for entry in log.committed(0, len(log)):
        topic, key = parse_changelog_key(entry.key or b"")
        if topic == source.topic:
            if entry.value is None:
                rows.pop(key, None)
            else:
                rows[key] = msgspec.json.decode(entry.value, type=KeyState)
    return rows


def use(monkeypatch: Any) -> None:
    """Let the engine's producers and restorers use clients of memory."""
    monkeypatch.setattr(transactions, "AIOKafkaProducer", FakeProducer)
    monkeypatch.setattr(restoring, "AIOKafkaConsumer", FakeLogConsumer)


def away() -> KafkaConnectionError:
    """What a client says while a broker is away."""
    return KafkaConnectionError("away")


async def until(condition: Callable[[], Any], within_s: float = 60) -> None:
    """Wait for a condition, on the loop's time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  # an engine tells nobody how it stands; it is asked
            await asyncio.sleep(0.01)


SOURCES = (Source("in-a", 0), Source("in-a", 1), Source("in-b", 0))
GOOD = (b"0", b"1", b"22", b"333")
BAD = (b"poison", b"refused", b"cursed")
a_source = st.sampled_from(SOURCES)
some = st.lists(st.integers(0, 99), min_size=1, max_size=20)
moments = st.integers(1, 150) | st.sampled_from([500, 2_500, 8_000])
"""Milliseconds: as fine as the steps of a transaction, or long enough for whole ones."""


class Machine(RuleBasedStateMachine):
    """Kafka and some workers, driven step by step; time passes only when a rule says so."""

    sources: tuple[Source, ...] = SOURCES
    values: tuple[bytes, ...] = GOOD

    def __init__(self) -> None:
        super().__init__()
        self._patches: list[Any] = [
            mock.patch.object(transactions, "AIOKafkaProducer", FakeProducer),
            mock.patch.object(restoring, "AIOKafkaConsumer", FakeLogConsumer),
        ]
        for patch in self._patches:
            patch.start()
        self.loop = Clockless()
        self.kafka = Kafka()
        self.workers: list[Worker] = []
        """Those that live; a frozen one is a zombie as soon as others have its partitions."""

    def do(self, work: Awaitable[Any]) -> Any:
        """Run some work to its end."""

        async def whole() -> Any:
            return await work

        return self.loop.run_until_complete(whole())

    def new_worker(self) -> Worker:
        """One more, without partitions."""

        async def make() -> Worker:
            return Worker(self.kafka)

        worker: Worker = self.do(make())
        self.workers.append(worker)
        return worker

    @property
    def members(self) -> list[Worker]:
        """Those that answer the group's coordinator."""
        return [worker for worker in self.workers if not worker.is_frozen]

    def rebalance(self, owners: Sequence[int]) -> None:
        """Give the partitions to members; as the numbers say, one for each partition."""
        members = self.members

        async def all_of_it() -> None:
            await asyncio.gather(*(member.revoke() for member in members))
            shares: list[list[Source]] = [[] for _ in members]
            for source, owner in zip(self.sources, owners, strict=True):
                shares[owner % len(members)].append(source)
            await asyncio.gather(*(member.assign(*share) for member, share in zip(members, shares, strict=True)))

        if members:
            self.do(all_of_it())

    def fill(self, source: Source, key: bytes, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.kafka.put(source, key, self.values[number % len(self.values)])

    @rule(which=st.integers(0, 2), key=st.sampled_from([b"a", b"b", "é|/".encode()]), numbers=some)
    def produce(self, which: int, key: bytes, numbers: list[int]) -> None:
        self.fill(self.sources[which], key, numbers)

    @rule(which=st.integers(0, 2), number=st.integers(1, 3))
    def leave_holes(self, which: int, number: int) -> None:
        self.kafka.holes(self.sources[which], number)

    @rule(which=st.integers(0, 2))
    def abort_something(self, which: int) -> None:
        self.kafka.abort_foreign(self.sources[which], b"never")

    def in_the_midst(self, numbers: Sequence[int], ms: int) -> None:
        """Some milliseconds after records have come to every partition: somewhere within their transactions."""
        for source in self.sources:
            self.fill(source, b"a", numbers)
        self.wait(ms)

    @rule(ms=moments)
    def wait(self, ms: int) -> None:
        self.do(asyncio.sleep(ms / 1000))

    @invariant()
    def all_is_well(self) -> None:
        check(self.kafka, self.sources, self.workers)

    def heal(self) -> None:
        """No more faults, no zombies, one worker that has everything."""
        self.kafka.faults.clear()
        for worker in list(self.workers):
            if worker.is_frozen:
                self.do(worker.kill())
                self.workers.remove(worker)
        if not self.workers:
            self.new_worker()
        for worker in self.workers:
            cast("Folding", worker.pipeline).errors.clear()
            cast("Folding", worker.pipeline).cursed = False
        self.rebalance([0] * len(self.sources))

    def is_done(self) -> bool:
        """Whether everything was worked on."""
        return all(self.kafka.offsets.get(source, 0) == len(self.kafka.logs[source]) for source in self.sources)

    def teardown(self) -> None:
        try:
            self.heal()
            self.do(until(self.is_done, 120))
            self.do(asyncio.sleep(3))
            self.all_is_well()
            for worker in self.workers:
                self.do(worker.stop())
            self.all_is_well()
        finally:
            for patch in self._patches:
                patch.stop()
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
                self.loop.run_until_complete(asyncio.wait({task}))
            self.loop.close()
