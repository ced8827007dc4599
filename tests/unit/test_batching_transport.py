"""Fetches become batches that follow each other without a gap, and plain topics stay as Faust has them."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.kafka.batching import Batch, Gates, Limits, Source, internals
from streams.kafka.batching.transport import BatchConsumer, _Fetched, _Thread

BATCHED, OTHER, PLAIN = TP("in", 0), TP("in", 1), TP("plain", 0)


def is_batched(topic: str) -> bool:
    return topic == "in"


def record(offset: int, size: int = 3) -> Any:
    return SimpleNamespace(
        offset=offset,
        timestamp=offset * 1000,
        serialized_key_size=1,
        serialized_value_size=size,
        headers=(("h", b"12"),),
    )


class Fetches:
    """Faust's own thread, and aiokafka's position, as a test says."""

    def __init__(self, monkeypatch: Any) -> None:
        self.next: dict[TP, list[Any]] = {}
        self.positions: dict[TP, int | None] = {}
        self.seeks: list[tuple[Any, int]] = []

        async def fetch_records(*_: Any, **__: Any) -> dict[TP, list[Any]]:
            return self.next

        monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", fetch_records)
        monkeypatch.setattr(internals, "position", lambda _, tp: self.positions.get(tp))
        self.thread = object.__new__(_Thread)
        thread = cast("Any", self.thread)
        thread._epochs, thread._ends, thread._numbers = {}, {}, count(1)
        thread.consumer = SimpleNamespace(is_batched=is_batched)
        thread._ensure_consumer = lambda: SimpleNamespace(seek=lambda tp, offset: self.seeks.append((tp, offset)))

    async def fetch(self, records: dict[TP, list[Any]], **positions: int) -> dict[TP, Any]:
        self.next = records
        self.positions[BATCHED] = positions.get("to", self.positions.get(BATCHED))
        return dict(await self.thread._fetch_records(cast("Any", None), {BATCHED, PLAIN}))


def spans(found: dict[TP, Any]) -> tuple[int, int, int]:
    return found[BATCHED].start, found[BATCHED].end, found[BATCHED].epoch


async def test_fetches_of_a_partition_follow_each_other_from_where_it_was_sought(monkeypatch):
    fetches = Fetches(monkeypatch)
    epoch = await fetches.thread.seek_batched(Source(*BATCHED), 5)
    assert fetches.seeks == [(BATCHED, 5)]
    assert spans(await fetches.fetch({BATCHED: [record(5)]}, to=6)) == (5, 6, epoch)
    # Holes: of what was aborted, and of markers.
    assert spans(await fetches.fetch({BATCHED: [record(9)]}, to=12)) == (6, 12, epoch)
    assert await fetches.fetch({}) == {}
    assert spans(await fetches.fetch({}, to=14)) == (12, 14, epoch)
    again = await fetches.thread.seek_batched(Source(*BATCHED), 5)
    assert again != epoch
    assert spans(await fetches.fetch({BATCHED: [record(5)]}, to=6)) == (5, 6, again)


async def test_before_it_was_sought_nothing_of_a_batched_partition_comes(monkeypatch):
    fetches = Fetches(monkeypatch)
    plain = [record(0)]
    assert await fetches.fetch({BATCHED: [record(0)], PLAIN: plain}, to=1) == {PLAIN: plain}


async def test_a_partition_that_is_not_assigned_any_more_is_left(monkeypatch):
    fetches = Fetches(monkeypatch)
    await fetches.thread.seek_batched(Source(*BATCHED), 5)
    fetches.positions[BATCHED] = None
    assert await fetches.fetch({}) == {}


class Consumer:
    """The consumer of the main thread, without a thread."""

    def __init__(self, monkeypatch: Any, fetched: dict[TP, Any]) -> None:
        self.asked: list[tuple[set[TP], float]] = []

        async def getmany(_: Any, wanted: set[TP], timeout: float) -> dict[TP, Any]:  # noqa: ASYNC109
            self.asked.append((wanted, timeout))
            return {tp: value for tp, value in fetched.items() if tp in wanted}

        monkeypatch.setattr(faust_consumer.ThreadDelegateConsumer, "_getmany", getmany)
        self.gates = Gates(Limits(batches=1, bytes=10_000))
        self.consumer = object.__new__(BatchConsumer)
        made = cast("Any", self.consumer)
        made._sequence = count(1)
        made.transport = SimpleNamespace(gates=self.gates, is_batched=is_batched)
        made.app = SimpleNamespace(consumer_generation_id=7)

    async def getmany(self, *tps: TP) -> dict[TP, Any]:
        return dict(await self.consumer._getmany(set(tps), 5.0))


async def test_a_fetch_becomes_one_batch_and_is_in_hand_until_it_is_done(monkeypatch):
    plain = [record(0)]
    it = Consumer(monkeypatch, {BATCHED: _Fetched([record(5), record(6)], 5, 9, 1), PLAIN: plain})
    it.gates.open(Source(*BATCHED), 1)
    found = await it.getmany(BATCHED, PLAIN)
    assert found[PLAIN] is plain
    [batch] = found[BATCHED]
    assert (len(batch), batch.start, batch.end, batch.epoch, batch.bytes) == (2, 5, 9, 1, 2 * (512 + 4 + 3))
    assert it.gates.in_hand(Source(*BATCHED)) == (1, 1038)
    # Its gate is full now: it is not fetched, and the rest does not wait long for it.
    await it.getmany(BATCHED, PLAIN)
    assert it.asked == [({BATCHED, PLAIN}, 5.0), ({PLAIN}, 0.02)]
    it.gates.done(batch)
    await it.getmany(BATCHED)
    assert it.asked[-1] == ({BATCHED}, 5.0)


async def test_where_no_gate_is_open_nothing_is_fetched_not_everything(monkeypatch):
    it = Consumer(monkeypatch, {})
    assert await it.getmany(BATCHED, OTHER) == {}
    assert it.asked == []


async def test_a_fetch_of_a_former_epoch_is_thrown_away(monkeypatch):
    it = Consumer(monkeypatch, {BATCHED: _Fetched([record(5)], 5, 6, 1)})
    it.gates.open(Source(*BATCHED), 2)
    assert await it.getmany(BATCHED) == {}
    assert it.gates.bytes == 0


async def test_a_batch_travels_as_one_message_whose_number_always_grows(monkeypatch):
    """Faust drops what is not beyond the last one, as every batch after a rollback would be by its offsets."""
    it = Consumer(monkeypatch, {})
    batches = [
        Batch(Source(*BATCHED), [record(9)], start=9, end=10, epoch=1, size=4),
        Batch(Source(*BATCHED), [record(2)], start=2, end=3, epoch=2, size=4),
        Batch(Source(*BATCHED), [], start=3, end=4, epoch=2, size=0),
    ]
    messages = [it.consumer._to_message(BATCHED, batch) for batch in batches]
    assert [message.offset for message in messages] == [1, 2, 3]
    assert [message.value for message in messages] == batches
    assert [message.timestamp for message in messages] == [9.0, 2.0, 0.0]
    assert {message.generation_id for message in messages} == {7}


@pytest.mark.parametrize("topic", ["in", "plain"])
def test_an_empty_batch_is_a_batch(topic):
    assert Batch(Source(topic, 0), (), start=1, end=2, epoch=1, size=0)
