"""Our producer, reader and admin on a real broker."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer

from streams.domain.errors import (
    KafkaUnavailableError,
    OverloadedError,
    RecordRejectedError,
    UnknownTopicError,
)
from streams.domain.partitioning import partition_for
from streams.hub import Hub
from streams.kafka import producer as producer_module
from streams.kafka.admin import TopicAdmin, TopicSpec
from streams.kafka.consumer import LogReader, Record, Span
from streams.kafka.producer import EventProducer, OutgoingRecord, Receipt
from streams.settings import Settings
from streams.topics import topic_specs

PARTITIONS = 4


def settings_for(broker, **overrides) -> Settings:
    return Settings(kafka_bootstrap_servers=broker.bootstrap_servers, **overrides)


@asynccontextmanager
async def started(service) -> AsyncIterator:
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def new_topic(settings: Settings) -> str:
    name = f"events.t{uuid.uuid4().hex}"
    await TopicAdmin(settings).create([TopicSpec(name, PARTITIONS, 1)])
    return name


async def read_all(settings: Settings, topic: str) -> list[Record]:
    async with started(LogReader(settings, client_id="test")) as reader:
        spans = await reader.spans(await reader.partitions([topic]))
        return [record async for records in reader.read(spans) for record in records]


async def test_a_receipt_says_where_the_record_is(kafka_broker):
    settings = settings_for(kafka_broker)
    topic = await new_topic(settings)
    sent = [OutgoingRecord(topic, b"k%d" % (i % 7), b"v%d" % i, (("event-id", b"%d" % i),)) for i in range(300)]
    async with started(EventProducer(settings)) as producer:
        receipts = await asyncio.gather(*[producer.send(record, 10) for record in sent])
        assert producer.in_flight == 0
    stored = {(r.partition, r.offset): r for r in await read_all(settings, topic)}
    assert len(stored) == len(sent)
    for record, receipt in zip(sent, receipts, strict=True):
        found = stored[receipt.partition, receipt.offset]
        assert (found.key, found.value, found.headers) == (record.key, record.value, tuple(record.headers))
        assert found.timestamp_ms == receipt.timestamp_ms
        assert receipt.partition == partition_for(record.key, PARTITIONS)


async def test_librdkafka_puts_equal_keys_where_we_do(kafka_broker):
    """Property 4 on the wire: a C client with Kafka's default partitioner, keys of every length and alphabet."""
    settings = settings_for(kafka_broker)
    topic = await new_topic(settings)
    keys = [f"{'ü€k'[i % 3]}{i}".encode() * (i % 5 + 1) for i in range(500)]
    client = Producer({"bootstrap.servers": kafka_broker.bootstrap_servers, "partitioner": "murmur2_random"})
    for key in keys:
        client.produce(topic, b"v", key=key)
    assert client.flush(20) == 0
    stored = await read_all(settings, topic)
    assert len(stored) == len(keys)
    assert all(record.partition == partition_for(record.key or b"", PARTITIONS) for record in stored)


async def test_a_record_too_large_is_refused_and_the_next_one_is_written(kafka_broker):
    settings = settings_for(kafka_broker)
    topic = await new_topic(settings)
    async with started(EventProducer(settings)) as producer:
        with pytest.raises(RecordRejectedError):
            await producer.send(OutgoingRecord(topic, b"k", b"x" * 2_000_000), 5)
        receipt = await producer.send(OutgoingRecord(topic, b"k", b"small"), 5)
    assert receipt.offset == 0


async def test_a_record_that_only_the_broker_refuses_costs_nobody_else_theirs(kafka_broker):
    """The refused batch used up sequence numbers; without a new session all that follows would be refused too."""
    settings = settings_for(kafka_broker)
    topic = f"events.t{uuid.uuid4().hex}"
    await TopicAdmin(settings).create([TopicSpec(topic, 1, 1, {"max.message.bytes": "1000"})])
    async with started(EventProducer(settings)) as producer:
        with pytest.raises(RecordRejectedError):
            await producer.send(OutgoingRecord(topic, b"k", b"x" * 5_000), 5)
        deadline = time.monotonic() + 10
        while True:
            try:
                receipt = await producer.send(OutgoingRecord(topic, b"k", b"small"), 5)
                break
            except KafkaUnavailableError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
    assert receipt.offset == 0
    assert [record.value for record in await read_all(settings, topic)] == [b"small"]


async def test_while_kafka_is_away_a_send_ends_at_its_deadline_and_memory_is_bounded(own_kafka_broker):
    settings = settings_for(own_kafka_broker, max_in_flight_events=3)
    topic = await new_topic(settings)
    async with started(EventProducer(settings)) as producer:
        await producer.send(OutgoingRecord(topic, b"k", b"before"), 5)
        own_kafka_broker.kill()
        began = time.monotonic()
        for i in range(3):
            with pytest.raises(KafkaUnavailableError, match="within"):
                await producer.send(OutgoingRecord(topic, b"k", b"during %d" % i), 0.3)
        assert time.monotonic() - began < 3
        with pytest.raises(OverloadedError):
            await producer.send(OutgoingRecord(topic, b"k", b"one too many"), 0.3)
        own_kafka_broker.start()
        deadline = time.monotonic() + 30
        while producer.in_flight:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        await producer.send(OutgoingRecord(topic, b"k", b"after"), 10)
    values = [record.value for record in await read_all(settings, topic)]
    # What had left is written once: the caller was told that it may be. What had not is given up with its caller.
    assert values == [b"before", b"during 0", b"after"]


async def test_neighbours_of_a_record_that_the_broker_refuses_are_written(kafka_broker):
    settings = settings_for(kafka_broker)
    topic = f"events.t{uuid.uuid4().hex}"
    await TopicAdmin(settings).create([TopicSpec(topic, 1, 1, {"max.message.bytes": "2000"})])
    values = [b"x" * 5_000 if i in {3, 11} else b"%d" % i for i in range(20)]
    async with started(EventProducer(settings)) as producer:
        sending = await producer.begin([OutgoingRecord(topic, b"k", value) for value in values])
        assert await sending.settled(asyncio.get_running_loop().time() + 30)
        again = await producer.begin([OutgoingRecord(topic, b"k", b"x" * 6_000), OutgoingRecord(topic, b"k", b"small")])
        # What a topic has refused once is refused at once, and costs no new session.
        assert isinstance(again.outcomes[0], RecordRejectedError)
        assert await again.settled(asyncio.get_running_loop().time() + 10)
        assert producer.in_flight == producer.bytes_in_flight == 0
    refused = [i for i, outcome in enumerate(sending.outcomes) if isinstance(outcome, RecordRejectedError)]
    assert refused == [3, 11]
    stored = await read_all(settings, topic)
    assert [r.value for r in stored] == [v for i, v in enumerate(values) if i not in refused] + [b"small"]
    written = [outcome for outcome in sending.outcomes if isinstance(outcome, Receipt)]
    assert [r.offset for r in written] == [r.offset for r in stored[:-1]]


async def test_an_outbox_in_which_kafka_is_away_is_unavailable_and_not_overloaded(own_kafka_broker, monkeypatch):
    monkeypatch.setattr(producer_module, "_SILENT_S", 0.2)
    settings = settings_for(own_kafka_broker, max_in_flight_events=1)
    topic = await new_topic(settings)
    async with started(EventProducer(settings)) as producer:
        await producer.send(OutgoingRecord(topic, b"k", b"before"), 5)
        own_kafka_broker.kill()
        for _ in range(2):
            with pytest.raises(KafkaUnavailableError):
                await producer.send(OutgoingRecord(topic, b"k", b"during"), 0.3)
        own_kafka_broker.start()


async def test_what_waits_for_room_in_a_batch_is_bounded_too(own_kafka_broker):
    """Large records fill aiokafka's batches, and their callers wait inside it: they count as in flight."""
    settings = settings_for(own_kafka_broker, max_in_flight_bytes=4_000_000)
    topic = await new_topic(settings)
    async with started(EventProducer(settings)) as producer:
        await producer.send(OutgoingRecord(topic, b"k", b"before"), 5)
        own_kafka_broker.kill()
        record = OutgoingRecord(topic, b"k", b"x" * 900_000)
        outcomes = await asyncio.gather(*[producer.send(record, 1) for _ in range(50)], return_exceptions=True)
        assert sum(isinstance(outcome, OverloadedError) for outcome in outcomes) == 46
        assert sum(isinstance(outcome, KafkaUnavailableError) for outcome in outcomes) == 4
        assert producer.bytes_in_flight <= 4_000_000
        own_kafka_broker.start()


async def test_nothing_is_sent_before_the_producer_is_connected(kafka_broker):
    with pytest.raises(KafkaUnavailableError, match="not connected"):
        await EventProducer(settings_for(kafka_broker)).send(OutgoingRecord("t", b"k", b"v"), 1)


async def test_an_unknown_topic_is_unknown_to_the_reader(kafka_broker):
    async with started(LogReader(settings_for(kafka_broker), client_id="test")) as reader:
        with pytest.raises(UnknownTopicError):
            await reader.partitions(["events.none"])


async def test_only_committed_records_are_read_and_markers_end_no_span_early(kafka_broker):
    settings = settings_for(kafka_broker)
    topic = await new_topic(settings)
    client = AIOKafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers, transactional_id=uuid.uuid4().hex)
    await client.start()
    for outcome in ("commit", "abort", "commit", "abort"):
        await client.begin_transaction()
        for i in range(10):
            await client.send_and_wait(topic, f"{outcome} {i}".encode(), partition=i % 2)
        await (client.commit_transaction() if outcome == "commit" else client.abort_transaction())
    await client.stop()
    async with asyncio.timeout(20):
        records = await read_all(settings, topic)
    assert sorted(r.value or b"" for r in records) == sorted([b"commit %d" % i for i in range(10)] * 2)


async def test_a_span_is_read_from_its_start_to_before_its_end(kafka_broker):
    settings = settings_for(kafka_broker)
    topic = await new_topic(settings)
    async with started(EventProducer(settings)) as producer:
        for i in range(20):
            await producer.send(OutgoingRecord(topic, b"one key", b"%d" % i), 5)
    async with started(LogReader(settings, client_id="test")) as reader:
        spans = await reader.spans(await reader.partitions([topic]))
        [partition] = [p for p, span in spans.items() if span.end]
        assert spans[partition] == Span(0, 20)
        inner = [r.offset async for records in reader.read({partition: Span(5, 9)}) for r in records]
        assert inner == [5, 6, 7, 8]
        assert [r async for r in reader.read({partition: Span(20, 20)})] == []


async def test_topics_are_made_once_and_differences_are_told(kafka_broker):
    settings = settings_for(kafka_broker)
    admin = TopicAdmin(settings)
    name = f"events.t{uuid.uuid4().hex}"
    spec = TopicSpec(name, 3, 1, {"retention.ms": "1000"})
    made = await asyncio.gather(*[admin.create([spec]) for _ in range(5)])
    assert sorted(map(len, made)) == [0, 0, 0, 0, 1]
    assert (await admin.topics())[name] == 3
    assert await admin.differences([spec]) == []
    changed = TopicSpec(name, 4, 1, {"retention.ms": "2000", "cleanup.policy": "delete"})
    assert await admin.differences([changed, TopicSpec("events.absent", 1, 1)]) == [
        "events.absent does not exist",
        f"{name} has 3 partitions, not 4",
        f"{name} has retention.ms=1000, not 2000",
    ]


async def test_every_topic_of_the_platform_can_be_made_as_it_is_specified(kafka_broker):
    settings = settings_for(kafka_broker, app_id="made")
    admin = TopicAdmin(settings)
    specs = topic_specs(settings)
    await admin.create(specs)
    assert await admin.differences(specs) == []
    assert len({spec.name for spec in specs}) == len(specs)


async def test_the_admin_says_within_seconds_that_kafka_is_away():
    began = time.monotonic()
    with pytest.raises(KafkaUnavailableError):
        await TopicAdmin(Settings(kafka_bootstrap_servers="127.0.0.1:1")).ping()
    assert time.monotonic() - began < 5


async def test_a_watcher_sees_what_is_written_after_it_began_in_the_order_of_the_log(kafka_broker):
    settings = settings_for(kafka_broker)
    topic, other = await new_topic(settings), await new_topic(settings)
    async with started(EventProducer(settings)) as producer, started(Hub(settings)) as hub:
        following = asyncio.create_task(hub.follow())
        await producer.send(OutgoingRecord(topic, b"k", b"too early"), 5)
        async with hub.subscribe(topic) as first, hub.subscribe(topic) as second, hub.subscribe(other):
            for i in range(100):
                await producer.send(OutgoingRecord(topic, b"k%d" % (i % 5), b"%d" % i), 5)
            for subscription in (first, second):
                seen: list[Record] = []
                async with asyncio.timeout(20):
                    while len(seen) < 100:
                        entries = await subscription.take()
                        assert isinstance(entries, list), entries
                        seen += [entry.record for entry in entries]
                assert sorted(int(r.value or b"") for r in seen) == list(range(100))
                for partition in range(PARTITIONS):
                    offsets = [r.offset for r in seen if r.partition == partition]
                    assert offsets == sorted(offsets)
            assert hub.watchers == 3
        assert hub.watchers == 0
        following.cancel()
