"""The event store and the producer under it, on a Kafka of memory: what is waited for, and what is left behind."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder

from streams.codecs import HEADER_BYTES, AvroCodec
from streams.domain.errors import KafkaUnavailableError, RecordRejectedError, UnknownTopicError
from streams.domain.partitioning import partition_for
from streams.kafka import session
from streams.kafka.lanes import Lane, Queued
from streams.kafka.sending import OutgoingRecord, Sending
from streams.settings import Settings
from streams.storing import EventStore, Offer, Stored
from tests.producer_kafka import PARTITIONS, MemoryBroker, MemoryClient, MemoryKafkaProducer

TOPIC = "events.iot"
KEYS = [next(k for k in (b"%d" % n for n in range(99)) if partition_for(k, PARTITIONS) == p) for p in range(PARTITIONS)]


def record(name, key=KEYS[0]):
    return OutgoingRecord(TOPIC, key, b"\x00" * HEADER_BYTES + name.encode())


def offer(name, key=KEYS[0]):
    return Offer(record(name, key), ((TOPIC, name),))


def in_s(seconds):
    return asyncio.get_running_loop().time() + seconds


@asynccontextmanager
async def running(broker, producer=None):
    producer = producer or MemoryKafkaProducer(Settings(), broker)
    await producer.start()
    try:
        yield producer, EventStore(Settings(), producer, AvroCodec(), lambda: 9)
    finally:
        await producer.stop()


async def test_a_new_event_is_sent_while_another_of_its_batch_is_still_on_its_way():
    broker = MemoryBroker(holding=True)
    async with running(broker) as (_, store):
        first = asyncio.create_task(store.store([offer("a")], in_s(5)))
        await asyncio.sleep(0.05)
        batch = asyncio.create_task(store.store([offer("a"), offer("b", KEYS[1])], in_s(5)))
        await asyncio.sleep(0.05)
        broker.holding = False
        broker.release()
        [a] = await first
        [again, b] = await batch
        assert isinstance(a, Stored)
        assert (again.receipt, again.duplicate) == (a.receipt, True)
        assert isinstance(b, Stored)


async def test_what_is_waited_for_twice_outlives_the_first_one_who_waits():
    broker = MemoryBroker(holding=True, max_batch_records=1)
    async with running(broker) as (_, store):
        # In front of it, so that it has not left yet when its own caller gives up.
        front = asyncio.create_task(store.store([offer("front")], in_s(5)))
        await asyncio.sleep(0.05)
        impatient = asyncio.create_task(store.store([offer("a")], in_s(0.1)))
        await asyncio.sleep(0.05)
        # Its own event comes first, the other's second.
        patient = asyncio.create_task(store.store([offer("b", KEYS[1]), offer("a")], in_s(5)))
        [given_up] = await impatient
        assert isinstance(given_up, KafkaUnavailableError)
        broker.holding = False
        broker.release()
        await front
        assert all(isinstance(outcome, Stored) for outcome in await patient)


async def test_a_producer_that_has_stopped_takes_nothing():
    producer = MemoryKafkaProducer(Settings(), MemoryBroker())
    async with running(None, producer):
        await producer.prepare({TOPIC})
    with pytest.raises(KafkaUnavailableError):
        producer.submit([record("a")])
    assert producer.in_flight == 0


async def test_who_asks_for_a_topic_while_the_producer_stops_is_told_so(monkeypatch):
    async def partitions_for(self, topic):
        await asyncio.Event().wait()

    monkeypatch.setattr(MemoryClient, "partitions_for", partitions_for)
    async with running(MemoryBroker()) as (producer, _):
        asking = asyncio.create_task(producer.send(record("a"), 5))
        await asyncio.sleep(0.05)
    # And not cancelled: nobody has cancelled who asks.
    with pytest.raises(KafkaUnavailableError):
        await asking


async def test_a_record_that_cannot_be_encoded_spoils_none_of_its_batch():
    lane = Lane(TOPIC, 0)
    sending = Sending(3)
    sending.then(lambda: None)
    for index, headers in enumerate([(), (("\udcff", b""),), ()]):
        lane.waiting.append(Queued(OutgoingRecord(TOPIC, b"k", b"v", headers), 2, 0, sending, index))
    packed, dropped = lane.pack(BatchBuilder(131_072, 0))
    assert [queued.index for queued in packed] == [0, 2]
    assert [queued.index for queued in dropped] == [1]
    assert isinstance(sending.outcomes[1], RecordRejectedError)
    assert not lane.waiting


async def test_a_batch_whose_place_the_broker_has_forgotten_has_no_receipt(monkeypatch):
    def arrive(self, records, where, future):
        future.set_result(SimpleNamespace(offset=-1))

    monkeypatch.setattr(MemoryClient, "_arrive", arrive)
    async with running(MemoryBroker()) as (producer, store):
        [outcome] = await store.store([offer("a")], in_s(5))
        assert isinstance(outcome, KafkaUnavailableError)
        assert (producer.in_flight, producer.bytes_in_flight) == (0, 0)


@pytest.mark.parametrize("left", [1, 0])
async def test_a_topic_that_has_lost_partitions_ends_no_session(monkeypatch, left):
    async def partitions_for(self, topic):
        if not left:
            raise UnknownTopicOrPartitionError
        return set(range(left))

    def assert_known(self, builder, topic, *, partition):
        # As aiokafka does.
        assert partition < left, "Unrecognized partition"
        return send_batch(self, builder, topic, partition=partition)

    send_batch = MemoryClient.send_batch
    broker = MemoryBroker()
    async with running(broker) as (producer, store):
        await producer.prepare({TOPIC})
        monkeypatch.setattr(MemoryClient, "partitions_for", partitions_for)
        monkeypatch.setattr(MemoryClient, "send_batch", assert_known)
        [outcome] = await store.store([offer("a", KEYS[1])], in_s(5))
        assert type(outcome) is (KafkaUnavailableError if left else UnknownTopicError)
        # And now it is known.
        if left:
            [outcome] = await store.store([offer("a", KEYS[1])], in_s(5))
            assert isinstance(outcome, Stored)
        else:
            with pytest.raises(UnknownTopicError):
                await store.store([offer("a", KEYS[1])], in_s(5))
        assert broker.sessions == 1
        assert (producer.in_flight, producer.bytes_in_flight) == (0, 0)


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_question_to_a_client_that_is_closed_meanwhile_is_asked_again(monkeypatch, is_known):
    """aiokafka never answers it."""
    monkeypatch.setattr(session, "_ANSWER_S", 0.05)
    silent = not is_known

    async def partitions_for(self, topic):
        if silent:
            await asyncio.Event().wait()
        return set(range(PARTITIONS))

    monkeypatch.setattr(MemoryClient, "partitions_for", partitions_for)
    async with running(MemoryBroker()) as (producer, _):
        if is_known:
            await producer.prepare({TOPIC})
            silent = True
        with pytest.raises(KafkaUnavailableError):
            await producer.send(record("a"), 1)
        silent = False
        assert (await producer.send(record("b"), 1)).offset == 0
        assert (producer.in_flight, producer.bytes_in_flight) == (0, 0)


async def test_a_client_that_closes_slowly_is_closed_in_the_end(monkeypatch):
    monkeypatch.setattr(session, "CLOSE_S", 0.05)
    broker = MemoryBroker(faults=["lost"])
    kafka_is_back = asyncio.Event()
    closed = []

    class SlowClient(MemoryClient):
        async def stop(self):
            await kafka_is_back.wait()
            await super().stop()
            closed.append(self)

    async with running(broker, MemoryKafkaProducer(Settings(), broker, SlowClient)) as (producer, _):
        with pytest.raises(KafkaUnavailableError):
            await producer.send(record("a"), 5)
        # By a new session, though the old one is not closed yet.
        await producer.send(record("b"), 5)
        assert (broker.sessions, closed) == (2, [])
        kafka_is_back.set()
        await asyncio.sleep(0.05)
        assert len(closed) == 1
    assert len(closed) == 2


async def test_a_bug_of_one_who_waits_costs_nobody_else_their_outcome(caplog):
    sending = Sending(1)
    seen = []

    def fail() -> None:
        raise ValueError("a bug")

    sending.then(fail)
    sending.then(lambda: seen.append(1))
    sending.settle(0, KafkaUnavailableError("away"))
    assert seen == [1]
    assert "a bug" in caplog.text
