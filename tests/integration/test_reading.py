"""Reading from workers on a real broker: the log, the windows, and what they tell of themselves."""

from __future__ import annotations

import asyncio
import io
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any, cast

import aiohttp
import fastavro
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families

from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.aggregates import AggregatedEvent
from streams.domain.headers import header
from streams.domain.naming import AGGREGATES, INGRESS
from streams.kafka.admin import TopicAdmin, TopicSpec
from streams.kafka.consumer import Partition
from streams.kafka.lag import GroupLags
from streams.registry import SchemaRegistry
from streams.schemas import event_pb2
from streams.settings import Settings
from tests.platform import Worker, eventually, read_topic, running_worker, two_workers

EVENTS = 60
MINUTE = 60_000


@pytest.fixture(scope="module")
def workers(kafka_broker, schema_registry, tmp_path_factory) -> Iterator[tuple[Worker, Worker]]:
    """Two workers that the tests of this file share; each uses event types and keys of its own."""
    with two_workers(
        tmp_path_factory.mktemp("workers"),
        kafka_bootstrap_servers=kafka_broker.bootstrap_servers,
        registry_url=schema_registry.url,
        lag_interval_s=0.2,
        flink_allowed_lateness_s=60,
    ) as both:
        yield both


async def get(client: aiohttp.ClientSession, path: str, **headers: str):
    async with client.get(path, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def problem(client: aiohttp.ClientSession, path: str, **headers: str):
    async with client.get(path, headers=headers) as response:
        return response.status, await response.json(content_type=None)


def ids(answer) -> list[str]:
    return [one["event"]["event_id"] for one in answer["events"]]


async def test_both_workers_read_the_same_log_newest_first_by_pages_and_in_every_form(workers):
    kind = f"reading.{uuid.uuid4().hex[:8]}"
    path = f"/api/v1/events/clickstream/latest?event_type={kind}"
    async with workers[0].client() as one, workers[1].client() as two:
        receipts = []
        for i in range(EVENTS):
            body = {"event_type": kind, "timestamp": int(time.time() * 1000), "user_id": f"u{i % 5}", "value": float(i)}
            async with one.post("/api/v1/events/clickstream", json=body) as response:
                assert response.status == 201
                receipts.append(await response.json())

        answer = await get(one, path)
        assert answer == await get(two, path)
        assert len(answer["events"]) == EVENTS
        assert set(ids(answer)) == {receipt["event_id"] for receipt in receipts}
        times = [event["stored_at"] for event in answer["events"]]
        assert times == sorted(times, reverse=True)

        # Pages, from one worker and the other in turn, hold what the whole holds.
        found, query, turn = [], path + "&limit=7", 0
        while query:
            async with (one, two)[turn % 2].get(query) as response:
                found += ids(await response.json())
                query = response.links["next"]["url"].path_qs if "next" in response.links else ""
            turn += 1
        assert sorted(found) == sorted(ids(answer))

        of_key = await get(two, path + "&key=u3")
        assert {event["event"]["user_id"] for event in of_key["events"]} == {"u3"}
        assert len(of_key["events"]) == EVENTS // 5
        middle = answer["events"][EVENTS // 2]["stored_at"]
        since = await get(two, f"{path}&since={middle}")
        assert ids(since) == [event["event"]["event_id"] for event in answer["events"] if event["stored_at"] >= middle]
        assert ids(await get(one, f"{path}&since={int(time.time() * 1000) + 1_000}")) == []

        values = [event["event"]["value"] for event in answer["events"]]
        async with one.get(path, headers={"Accept": "application/x-ndjson"}) as response:
            lines = (await response.text()).splitlines()
            assert [json.loads(line)["event"]["value"] for line in lines] == values
        async with one.get(path, headers={"Accept": "application/avro"}) as response:
            assert [
                cast("dict[str, Any]", e)["value"] for e in fastavro.reader(io.BytesIO(await response.read()))
            ] == values
        async with one.get(path, headers={"Accept": "application/x-protobuf"}) as response:
            assert [event.value for event in event_pb2.EventList.FromString(await response.read()).events] == values


async def test_a_record_is_found_at_the_place_that_its_receipt_says(workers):
    settings = workers[0].settings
    body = {"event_type": "reading.one", "timestamp": int(time.time() * 1000), "user_id": "gerät", "value": 1.5}
    async with workers[0].client() as one, workers[1].client() as two:
        async with one.post(
            "/api/v1/events/transactions", json=body, headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
        ) as response:
            receipt = await response.json()
        base = f"/api/v1/events/transactions/{receipt['partition']}"
        path = f"{base}/{receipt['offset']}"
        record = await get(two, path)
        assert record == await get(one, path)
        assert record["event"]["event_id"] == receipt["event_id"]
        assert (record["stored_at"], record["key"]) == (receipt["stored_at"], {"text": "gerät"})
        assert (record["schema_id"], record["content_type"]) == (receipt["schema_id"], "application/json")
        assert {h["name"]: h["value"]["text"] for h in record["headers"]}["traceparent"].startswith("00-aaaa")
        [in_kafka] = [
            r
            for r in await read_topic(settings, "events.transactions")
            if (r.partition, r.offset) == (receipt["partition"], receipt["offset"])
        ]
        async with two.get(path, headers={"Accept": "application/avro"}) as response:
            assert await response.read() == in_kafka.value
        status, answer = await problem(two, f"{base}/{receipt['offset'] + 1}")
        assert (status, answer["code"]) == (404, "unknown_offset")
        assert f"to {receipt['offset']}, not {receipt['offset'] + 1}" in answer["detail"]


async def test_the_mark_of_a_transaction_is_no_event(workers):
    settings = workers[0].settings
    event_id = str(uuid.uuid4())
    body = {"event_id": event_id, "event_type": "reading.mark", "timestamp": int(time.time() * 1000), "user_id": "m"}
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, acks="all")
    await producer.start()
    await producer.send_and_wait(INGRESS, json.dumps(body).encode(), key=b"m", headers=[("event-topic", b"iot")])
    await producer.stop()

    async def stored():
        return [r for r in await read_topic(settings, "events.iot") if header(r.headers, "event-id") == event_id]

    # Ingest writes in transactions: behind their last record is their mark.
    [record] = await eventually(stored)
    async with workers[0].client() as client:
        assert (await get(client, f"/api/v1/events/iot/{record.partition}/{record.offset}"))["offset"] == record.offset
        status, answer = await problem(client, f"/api/v1/events/iot/{record.partition}/{record.offset + 1}")
        assert (status, answer["code"]) == (404, "unknown_offset")
        assert "holds no event" in answer["detail"]


async def test_windows_are_those_of_all_workers_whoever_is_asked(workers):
    settings, kind = workers[0].settings, f"windows.{uuid.uuid4().hex[:8]}"
    codec = AvroCodec()
    schema_id = await SchemaRegistry(settings).register(f"{AGGREGATES}-value", schemas.AGGREGATED_EVENT)
    results = [
        AggregatedEvent("iot", kind, "tumbling-1m", n * MINUTE, (n + 1) * MINUTE, n, 1.0, 1.0, 1.0, 1.0, 1, 0, n)
        for n in range(1, 31)
    ]
    late = AggregatedEvent("iot", kind, "tumbling-1m", MINUTE, 2 * MINUTE, 99, 1.0, 1.0, 1.0, 1.0, 1, 1, 50)
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, acks="all")
    await producer.start()
    for result in [*results, late]:
        # As Flink keys them: so they are spread over all partitions.
        key = json.dumps(result.identity).encode()
        await producer.send_and_wait(AGGREGATES, codec.encode_aggregate(result, schema_id), key=key)
    await producer.stop()
    path = f"/api/v1/aggregates/iot?event_type={kind}&limit=30"
    async with workers[0].client() as one, workers[1].client() as two:

        async def folded():
            status, answer = await problem(one, path)
            counts = [window["count"] for window in answer["aggregates"]] if status == 200 else []
            return answer if counts == [*range(30, 1, -1), 99] else None

        answer = await eventually(folded)
        assert answer == await get(two, path)
        assert [window["revision"] for window in answer["aggregates"]] == [0] * 29 + [1]
        # Late events of the last minute may still come.
        assert [window["final"] for window in answer["aggregates"]] == [False, *[True] * 29]
        # Neither worker has them all: the answer is of both.
        own = [await get(client, path, **{"X-Streams-Routed": "1"}) for client in (one, two)]
        assert [len(part["results"]) < 30 for part in own] == [True, True]
        first = await get(two, f"/api/v1/aggregates/iot?event_type={kind}&limit=20")
        rest = await get(one, f"/api/v1/aggregates/iot?event_type={kind}&limit=20&before={first['before']}")
        assert first["aggregates"] + rest["aggregates"] == answer["aggregates"]
        assert rest["before"] is None


async def metrics(worker: Worker):
    async with aiohttp.ClientSession(worker.url) as client, client.get("/metrics") as response:
        return {family.name: family for family in text_string_to_metric_families(await response.text())}


async def test_the_producer_counts_what_kafka_has_acknowledged(workers):
    async def written() -> tuple[float, float, float]:
        found = await metrics(workers[0])
        by_suffix = {s.name.rpartition("_")[2]: s.value for s in found["streams_producer_batch_records"].samples}
        [records] = found["streams_producer_records"].samples
        [size] = found["streams_producer_bytes"].samples
        assert records.value == by_suffix["sum"]
        return records.value, by_suffix["count"], size.value

    before = await written()
    body = {"event_type": "counted", "timestamp": int(time.time() * 1000), "user_id": "u", "source": "x" * 100}
    async with workers[0].client() as client:
        for _ in range(5):
            async with client.post("/api/v1/events/iot", json=body) as response:
                assert response.status == 201
    records, batches, size = (after - earlier for after, earlier in zip(await written(), before, strict=True))
    assert (records, batches) == (5, 5)
    assert 500 < size < 5_000
    [sessions] = (await metrics(workers[0]))["streams_producer_sessions"].samples
    assert sessions.value == 1


async def test_one_worker_tells_the_lag_of_groups_and_every_page_can_be_parsed(workers):
    group = workers[0].settings.app_id

    async def told():
        pages = [(await metrics(worker))["kafka_consumergroup_lag"].samples for worker in workers]
        return pages if any(pages) else None

    pages = await eventually(told)
    assert sorted(map(bool, pages)) == [False, True]
    [samples] = filter(None, pages)
    assert {sample.labels["consumergroup"] for sample in samples} == {group}
    assert {sample.labels["topic"] for sample in samples} >= {INGRESS}
    assert all(sample.value >= 0 for sample in samples)


async def test_the_lag_of_a_group_is_what_it_has_still_to_read_of_the_topics_that_there_are(kafka_broker):
    settings = Settings(kafka_bootstrap_servers=kafka_broker.bootstrap_servers)
    group, kept, deleted = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("group", "kept", "deleted"))
    await TopicAdmin(settings).create([TopicSpec(name, 2, 1) for name in (kept, deleted)])
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, acks="all")
    await producer.start()
    for _ in range(7):
        await producer.send_and_wait(kept, b"x", partition=1)
    await producer.stop()
    lags = GroupLags(settings)
    assert await lags.of(group) == {}
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": group})
    offsets = [TopicPartition(kept, 1, 3), TopicPartition(deleted, 0, 0)]
    await asyncio.to_thread(consumer.commit, offsets=offsets, asynchronous=False)
    consumer.close()
    assert await lags.of(group) == {Partition(kept, 1): 4, Partition(deleted, 0): 0}
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    await asyncio.wrap_future(admin.delete_topics([deleted])[deleted])

    async def without_it():
        return await lags.of(group) == {Partition(kept, 1): 4}

    await eventually(without_it)


@pytest.mark.slow
async def test_readiness_follows_kafka_and_the_registry_and_an_agent_that_waits_for_it(
    own_kafka_broker, own_schema_registry
):
    settings = {
        "kafka_bootstrap_servers": own_kafka_broker.bootstrap_servers,
        "registry_url": own_schema_registry.url,
        "agent_stall_s": 1,
    }
    with running_worker(**settings) as worker:
        async with worker.client() as client:

            async def failing():
                status, report = await problem(client, "/health/ready")
                assert status == (200 if report["status"] == "ok" else 503)
                return {name for name, check in report["checks"].items() if not check["ok"]}, report["checks"]

            async def ready():
                return not (await failing())[0]

            await eventually(ready)
            own_schema_registry.kill()
            # A record whose schema only the registry knows: the agent cannot go on, nor may it drop it.
            producer = AIOKafkaProducer(bootstrap_servers=own_kafka_broker.bootstrap_servers, acks="all")
            await producer.start()
            headers = [("event-topic", b"iot"), ("content-type", b"application/avro")]
            await producer.send_and_wait(INGRESS, b"\x00\x00\x00\xff\xffunknown", partition=2, headers=headers)
            await producer.stop()

            async def stalled():
                names, checks = await failing()
                return checks if names >= {"registry", "agents"} else None

            checks = await eventually(stalled)
            assert checks["agents"]["detail"] == f"{INGRESS}[2] is retrying"
            own_schema_registry.start()
            await eventually(ready)

            own_kafka_broker.kill()
            began = time.monotonic()

            async def noticed():
                return "kafka" in (await failing())[0]

            await eventually(noticed, within_s=3)
            assert time.monotonic() - began < 3
            status, answer = await problem(client, "/api/v1/events/iot/latest")
            assert (status, answer["retriable"]) == (503, True)
            own_kafka_broker.start()
            await eventually(ready)
            assert (await get(client, "/api/v1/events/iot/latest"))["events"] == []
