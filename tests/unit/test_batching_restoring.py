"""Parts are restored together from one reading of a changelog, each from where its store is, and each its own rows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.state import TypeTotal
from streams.kafka.batching import MemoryStore, Source, Table
from streams.kafka.batching.restoring import Part, Restorer, _apply
from streams.kafka.batching.tables import changelog_key
from tests.batching_kafka import Entry, FakeLogConsumer, Kafka, Process, away, run, until, use

TABLE = Table("totals", TypeTotal)
LOG = "changelog"
A, B, A1 = Source("a", 0), Source("b", 0), Source("a", 1)
pytestmark = pytest.mark.usefixtures("_memory")


@pytest.fixture
def _memory(monkeypatch):
    use(monkeypatch)


class CountingStore(MemoryStore[TypeTotal]):
    """Refuses what comes after it was closed, as RocksDB does."""

    def __init__(self, position: int | None = None) -> None:
        super().__init__()
        self.position = position
        self.applied = 0
        self.is_closed = False

    def apply(self, changes: Mapping[str, TypeTotal | None], position: int | None) -> None:
        assert not self.is_closed, "a closed store is written to"
        self.applied += len(changes)
        super().apply(changes, position)

    def close(self) -> None:
        self.is_closed = True


def row(count: int) -> TypeTotal:
    return TypeTotal("iot", "a", count, 0, count)


def write(kafka: Kafka, source: Source, key: str, count: int | None) -> None:
    value = None if count is None else msgspec.json.encode(row(count))
    kafka.logs[LOG, source.partition].add((LOG, source.partition), key=changelog_key(source.topic, key), value=value)


def rows(store: MemoryStore[TypeTotal]) -> dict[str, int]:
    return {key: value.count for key, value in store.items()}


async def restored(kafka: Kafka, stores: Mapping[Source, CountingStore], restorer: Restorer | None = None) -> None:
    restorer = restorer or Restorer({"process": Process(kafka)}, client_id="test")
    await restorer.restore([Part(TABLE, source, store, LOG) for source, store in stores.items()])


def test_each_part_gets_its_own_rows_and_what_was_removed_is_gone():
    async def go() -> None:
        kafka = Kafka()
        for n in range(20):
            write(kafka, A, f"k{n % 5}", n)
            write(kafka, B, f"k{n % 3}", 100 + n)
            write(kafka, A1, "other", n)
        write(kafka, A, "k0", None)
        kafka.holes((LOG, 0), 4)  # type: ignore[arg-type]
        stores = {A: CountingStore(), B: CountingStore(), A1: CountingStore()}
        await restored(kafka, stores)
        assert rows(stores[A]) == {f"k{n % 5}": n for n in range(16, 20)}
        assert rows(stores[B]) == {f"k{n % 3}": 100 + n for n in range(17, 20)}
        assert rows(stores[A1]) == {"other": 19}
        assert stores[A].position == stores[B].position == 45
        assert stores[A1].position == 20

    run(go())


def test_a_store_reads_from_its_position_on_whoever_else_reads_from_before():
    async def go() -> None:
        kafka = Kafka()
        for n in range(30):
            write(kafka, A, f"k{n}", n)
            write(kafka, B, f"k{n}", n)
        late, fresh = CountingStore(50), CountingStore()
        await restored(kafka, {A: late, B: fresh})
        assert sorted(rows(late).values()) == [25, 26, 27, 28, 29]
        assert late.applied == 5
        assert len(rows(fresh)) == 30

    run(go())


def test_a_store_that_is_ahead_of_its_changelog_is_read_anew(caplog):
    async def go() -> None:
        kafka = Kafka()
        write(kafka, A, "k", 1)
        store = CountingStore(99)
        store._rows["stale"] = row(7)
        await restored(kafka, {A: store})
        assert (rows(store), store.position) == ({"k": 1}, 1)

    run(go())
    assert "shorter than what is stored" in caplog.text


def test_a_consumer_that_ends_with_a_cancellation_of_its_own_ends_nobody_else(monkeypatch):
    """aiokafka's stop() lets out that of a fetch which waits after an error."""
    closed = []

    class Connections:
        async def close(self) -> None:
            closed.append(1)

    async def stop(self: FakeLogConsumer) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(FakeLogConsumer, "stop", stop)
    monkeypatch.setattr(FakeLogConsumer, "_client", Connections(), raising=False)

    async def go() -> None:
        kafka = Kafka()
        write(kafka, A, "k", 1)
        store = CountingStore()
        await restored(kafka, {A: store})
        assert rows(store) == {"k": 1}
        assert closed

    run(go())


def test_an_empty_changelog_is_complete_at_once():
    async def go() -> None:
        store = CountingStore()
        await restored(Kafka(), {A: store})
        assert (rows(store), store.position) == ({}, 0)

    run(go())


def test_an_open_transaction_of_another_part_is_waited_for_and_an_aborted_one_is_not_seen():
    async def go() -> None:
        kafka = Kafka()
        write(kafka, A, "k", 1)
        entry = kafka.logs[LOG, 0].add((LOG, 0), key=changelog_key("b", "k"), value=b"x", status="open")
        write(kafka, A, "k", 2)
        store = CountingStore()
        part = Part(TABLE, A, store, LOG)
        waiting = asyncio.create_task(Restorer({"process": Process(kafka)}, client_id="test").restore([part]))
        await asyncio.sleep(30)
        assert not waiting.done()
        assert part.remaining == 2
        entry.status = "aborted"
        await waiting
        assert rows(store) == {"k": 2}

    run(go())


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_when_kafka_goes_away_every_part_is_told(failures):
    async def go() -> None:
        kafka = Kafka()
        write(kafka, A, "k", 1)
        process = Process(kafka)
        restorer = Restorer({"process": process}, client_id="test")
        for step in range(failures):
            kafka.fail("read", *[away()] * (step + 1))
            outcomes = await asyncio.gather(
                *(restored(kafka, {source: CountingStore()}, restorer) for source in (A, B)), return_exceptions=True
            )
            assert [type(outcome) for outcome in outcomes] == [type(away())] * 2
            kafka.faults.clear()
        store = CountingStore()
        await restored(kafka, {A: store}, restorer)
        assert rows(store) == {"k": 1}

    run(go())


@pytest.mark.parametrize("delay_ms", [0, 10, 50.5, 51.5, 52.5, 53.5, 60, 60.5, 80.5, 100.5, 300])
def test_a_part_that_is_given_up_meanwhile_is_left_alone_and_the_others_go_on(delay_ms):
    """A rebalance: its store is closed, and the same part may be opened again at once, with a store of its own."""

    async def go() -> None:
        kafka = Kafka()
        for n in range(200):
            write(kafka, A, f"k{n}", n)
            write(kafka, B, f"k{n}", n)
        restorer = Restorer({"process": Process(kafka)}, client_id="test")
        given_up, kept, again = CountingStore(), CountingStore(), CountingStore()
        first = asyncio.create_task(restored(kafka, {A: given_up}, restorer))
        second = asyncio.create_task(restored(kafka, {B: kept}, restorer))
        await asyncio.sleep(delay_ms / 1000)
        first.cancel()
        await asyncio.wait({first})
        given_up.close()
        third = asyncio.create_task(restored(kafka, {A: again}, restorer))
        await asyncio.gather(second, third)
        assert len(rows(kept)) == len(rows(again)) == 200
        await restorer.stop()

    run(go())


def test_for_parts_that_nobody_waits_for_any_more_nothing_is_read():
    async def go() -> None:
        kafka = Kafka()
        restorer = Restorer({"process": Process(kafka)}, client_id="test")
        waiting = asyncio.create_task(restored(kafka, {A: CountingStore()}, restorer))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.sleep(1)
        assert kafka.steps == []

    run(go())


def test_a_part_that_was_given_up_is_not_emptied_though_its_changelog_is_shorter():
    """Its directory may be somebody else's by now."""

    async def go() -> None:
        kafka = Kafka()
        write(kafka, B, "k", 1)
        restorer = Restorer({"process": Process(kafka)}, client_id="test")
        given_up, kept = CountingStore(99), CountingStore()
        given_up._rows["theirs"] = row(7)
        first = asyncio.create_task(restored(kafka, {A: given_up}, restorer))
        second = asyncio.create_task(restored(kafka, {B: kept}, restorer))
        await asyncio.sleep(0.0515)
        first.cancel()
        await second
        assert (rows(given_up), rows(kept)) == ({"theirs": 7}, {"k": 1})

    run(go())


def test_a_restore_that_is_stopped_ends_those_who_wait():
    async def go() -> None:
        kafka = Kafka()
        kafka.logs[LOG, 0].add((LOG, 0), key=changelog_key("b", "k"), value=b"x", status="open")
        restorer = Restorer({"process": Process(kafka)}, client_id="test")
        waiting = asyncio.create_task(restored(kafka, {A: CountingStore()}, restorer))
        await asyncio.sleep(1)
        await restorer.stop()
        await until(waiting.done, 1)
        assert waiting.cancelled()

    run(go())


@given(
    st.lists(
        st.tuples(st.sampled_from([A, B, Source("gone", 0)]), st.sampled_from("ab"), st.none() | st.integers(0, 9))
    ),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(1, 5),
)
def test_a_slice_changes_what_is_behind_each_parts_position_and_nothing_else(log, at_a, at_b, size):
    def fold(source: Source, start: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for offset, (of, key, count) in enumerate(log):
            if of == source and offset >= start:
                if count is None:
                    found.pop(key, None)
                else:
                    found[key] = count
        return found

    async def go() -> None:
        kafka = Kafka()
        for source, key, count in log:
            write(kafka, source, key, count)
        stores = {A: CountingStore(at_a), B: CountingStore(at_b)}
        parts = [Part(TABLE, source, store, LOG) for source, store in stores.items()]
        entries: Sequence[Any] = kafka.logs[LOG, 0]
        for start in range(0, len(entries), size):
            _apply(parts, entries[start : start + size])
        for source, at in ((A, at_a), (B, at_b)):
            assert rows(stores[source]) == fold(source, at)
            assert (stores[source].position or 0) == max(at, len(log))

    run(go())


def test_what_is_no_row_of_ours_is_refused_and_not_passed_over():
    async def go() -> None:
        kafka = Kafka()
        kafka.logs[LOG, 0].append(Entry(0, b"no separator", b"{}"))
        with pytest.raises(ValueError, match="no key"):
            await restored(kafka, {A: CountingStore()})

    run(go())
