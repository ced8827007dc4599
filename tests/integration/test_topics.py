"""Topics on a real Kafka and registry: created by many at once, with schemas of every kind, and read by everybody."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from confluent_kafka import Producer

from streams import schemas
from streams.codecs import AvroCodec, Format
from streams.domain.envelope_schema import SchemaKind
from streams.domain.errors import IncompatibleSchemaError, PlatformError, TopicExistsError
from streams.domain.naming import AGGREGATES
from streams.domain.validation import EventRules, event_from_fields
from streams.event_topics import EventTopics
from streams.kafka.admin import TopicAdmin, TopicSpec
from streams.publishing import Publisher
from streams.registry import SchemaLoader, SchemaRegistry
from streams.settings import Settings
from streams.topic_schemas.protobuf import ProtobufDefinition
from streams.topic_schemas.store import TopicSchemas
from streams.topics import topic_specs
from tests.platform import FlinkJob, eventually, read_topic, running_worker
from tests.topic_schemas import JSON_SCHEMA, PROTO, typed_avro

PARTITIONS = 3


@pytest.fixture(scope="module")
def values(kafka_broker, schema_registry):
    return {
        "kafka_bootstrap_servers": kafka_broker.bootstrap_servers,
        "registry_url": schema_registry.url,
        "kafka_partitions": PARTITIONS,
        "topic_creation": "auto",
    }


@pytest.fixture(scope="module")
def workers(values):
    """Two workers of one group."""
    shared = {"app_id": f"topics-{secrets.token_hex(4)}", "jwt_secret": secrets.token_hex(32), "request_deadline_s": 20}
    with ExitStack() as stack:
        found = [stack.enter_context(running_worker(**values, **shared)) for _ in range(2)]
        for worker in found:
            worker.secret = str(shared["jwt_secret"])
        yield found


def new_name() -> str:
    return f"t{secrets.token_hex(4)}"


def event(number: int = 0, **fields) -> dict:
    return {
        "event_type": "order.placed",
        "timestamp": time.time_ns() // 1_000_000,
        "user_id": f"u{number}",
        "event_id": f"00000000-0000-4000-8000-{number:012d}",
        **fields,
    }


async def test_first_events_to_two_workers_at_once_create_one_topic_and_lose_nothing(workers, values):
    name = new_name()
    async with workers[0].client() as one, workers[1].client() as other:

        async def post(number: int) -> int:
            async with (one, other)[number % 2].post(f"/api/v1/events/{name}", json=event(number)) as response:
                return response.status

        assert await asyncio.gather(*map(post, range(20))) == [201] * 20
    settings = Settings(**values)
    assert (await TopicAdmin(settings).topics())[f"events.{name}"] == PARTITIONS
    codec = AvroCodec()
    registry = SchemaRegistry(settings)
    loader = SchemaLoader(registry, codec)
    records = await read_topic(settings, f"events.{name}")
    found = [await loader.read(partial(codec.decode_event, record.value or b"")) for record in records]
    assert sorted(each.event_id for each in found) == [event(number)["event_id"] for number in range(20)]
    assert await registry.versions(f"events.{name}-value") == [1]


async def test_whoever_asks_for_a_topic_right_after_its_creation_is_told_of_it(workers):
    """Kafka answers the creation before its brokers know of the topic, and before its partitions have leaders."""
    async with workers[0].client("topics:*") as client, workers[1].client("topics:read") as other:
        for _ in range(5):
            name = new_name()
            async with client.post("/api/v1/topics", json={"name": name, "partitions": 8}) as response:
                assert response.status == 201
            async with client.get(f"/api/v1/topics/{name}") as response:
                assert response.status == 200, await response.text()
            for asking in (client, other):
                async with asking.get("/api/v1/topics?limit=1000") as response:
                    assert response.status == 200, await response.text()
                    assert name in {each["name"] for each in (await response.json())["topics"]}


async def test_a_topic_is_created_described_and_refused_the_second_time(workers):
    name = new_name()
    async with workers[0].client("topics:*", "events:write:*") as client:
        new = {"name": name, "partitions": 2, "retention_hours": 5}
        async with client.post("/api/v1/topics", json=new) as response:
            assert response.status == 201
            assert response.headers["Location"] == f"/api/v1/topics/{name}"
        async with client.post("/api/v1/topics", json=new) as response:
            assert (response.status, (await response.json())["code"]) == (409, "topic_exists")
        for number in range(10):
            async with client.post(f"/api/v1/events/{name}", json=event(number)) as response:
                assert response.status == 201
        async with client.get(f"/api/v1/topics/{name}") as response:
            described = await response.json()
        assert described["topic"] | {"events": 10} == {
            "name": name,
            "partitions": 2,
            "events": 10,
            "retention_ms": 5 * 3_600_000,
            "cleanup_policy": "delete",
            "schema_type": "AVRO",
        }
        assert sum(each["end_offset"] - each["begin_offset"] for each in described["partitions"]) == 10
        assert described["bytes"] == sum(each["bytes"] for each in described["partitions"]) > 500
        assert [each["version"] for each in described["schema_versions"]] == [1]
        async with client.get("/api/v1/topics", params={"limit": 1000}) as response:
            listed = {each["name"]: each for each in (await response.json())["topics"]}
        assert listed[name]["events"] == 10
        assert {"iot", "clickstream", "transactions"} <= listed.keys()


async def test_a_typed_payload_is_checked_stored_typed_and_read_as_json_everywhere(workers, values):
    name = new_name()
    schema = {"type": "AVRO", "schema": typed_avro()}
    async with workers[0].client() as one, workers[1].client() as other:
        async with one.post("/api/v1/topics", json={"name": name, "schema": schema}) as response:
            assert response.status == 201, await response.text()
        good = event(1, payload={"order": "o-1", "lines": [{"sku": "a", "count": 2}]})
        for client in (one, other):
            # The other worker knows neither the topic nor its schema yet.
            async with client.post(f"/api/v1/events/{name}", json=good | {"event_id": None}) as response:
                stored = await response.json()
                assert response.status == 201, stored
            bad = good | {"event_id": None, "payload": {"lines": [{"sku": 1, "count": 2**31}], "x": 0}}
            async with client.post(f"/api/v1/events/{name}", json=bad) as response:
                problem = await response.json()
                assert response.status == 422
                assert {each["path"] for each in problem["errors"]} == {
                    "/payload/order",
                    "/payload/lines/0/sku",
                    "/payload/lines/0/count",
                    "/payload/x",
                }
        async with other.get(f"/api/v1/events/{name}/latest") as response:
            latest = await response.json()
        assert all(each["event"] for each in latest["events"]), latest
        assert [each["event"]["payload"] for each in latest["events"]] == [good["payload"] | {"note": None}] * 2
        async with one.get(f"/api/v1/topics/{name}/schema") as response:
            [version] = (await response.json())["versions"]
        assert (version["version"], version["id"], version["type"]) == (1, stored["schema_id"], "AVRO")
        assert json.loads(version["schema"])["fields"][-1]["type"]["name"] == "Order"

        async def is_folded() -> bool:
            async with one.get(f"/api/v1/tables/state/{name}%2Fu1") as response:
                return response.status == 200 and (await response.json())["rows"][0]["value"]["count"] == 2

        # The agent that folds every event reads the typed ones too.
        await eventually(is_folded, 60)


async def test_a_schema_evolves_and_what_breaks_readers_is_refused_with_the_registry_s_reasons(workers):
    name = new_name()
    async with workers[0].client() as client:
        async with client.post("/api/v1/topics", json={"name": name, "schema": {"schema": typed_avro()}}) as response:
            assert response.status == 201
        more = {"name": "currency", "type": "string", "default": "EUR"}
        path = f"/api/v1/topics/{name}/schema"
        async with client.post(path, json={"schema": typed_avro(more)}) as response:
            answer = await response.json()
            assert (response.status, answer["version"]) == (201, 2), answer
        # The worker that has it uses it at once.
        payload = {"order": "o-1", "lines": [], "currency": "CHF"}
        async with client.post(f"/api/v1/events/{name}", json=event(payload=payload)) as response:
            assert (response.status, (await response.json())["schema_id"]) == (201, answer["id"])
        async with client.post(path, json={"schema": typed_avro({"name": "must", "type": "string"})}) as response:
            problem = await response.json()
        assert (response.status, problem["code"]) == (409, "incompatible_schema")
        assert any("must" in reason for reason in problem["reasons"]), problem
        async with client.post(path, json={"type": "PROTOBUF", "schema": PROTO}) as response:
            problem = await response.json()
        assert (response.status, problem["code"]) == (409, "incompatible_schema")
        assert problem["reasons"] == ["the topic has a schema in AVRO: so must be its next version"]
        async with client.get(path) as response:
            assert [each["version"] for each in (await response.json())["versions"]] == [2, 1]


async def test_json_schema_and_protobuf_topics_store_events_that_every_reader_knows(workers, values):
    by_json, by_protobuf = new_name(), new_name()
    async with workers[0].client() as client:
        for name, type_, text in ((by_json, "JSON", json.dumps(JSON_SCHEMA)), (by_protobuf, "PROTOBUF", PROTO)):
            new = {"name": name, "schema": {"type": type_, "schema": text}}
            async with client.post("/api/v1/topics", json=new) as response:
                assert response.status == 201, await response.text()
                assert (await response.json())["schema_type"] == type_
            async with client.post(f"/api/v1/events/{name}", json=event(payload={"order": "o-1"})) as response:
                assert response.status == 201, await response.text()
            async with client.post(f"/api/v1/events/{name}", json=event(1, payload={"order": 7})) as response:
                assert response.status == 422
                assert (await response.json())["errors"][0]["path"].startswith("/payload")
        message: Any = ProtobufDefinition(PROTO)._message()
        message.event_type, message.timestamp, message.device_id = "order.placed", 1_750_000_000_000, "d1"
        message.payload.order = "o-2"
        async with client.post(
            f"/api/v1/events/{by_protobuf}",
            data=message.SerializeToString(),
            headers={"Content-Type": "application/x-protobuf"},
        ) as response:
            assert response.status == 201, await response.text()
        async with client.get(f"/api/v1/events/{by_protobuf}/latest") as response:
            newest = (await response.json())["events"][0]["event"]
        assert (newest["device_id"], newest["payload"]) == ("d1", {"order": "o-2"})
    for name in (by_json, by_protobuf):
        subject = await SchemaRegistry(Settings(**values)).version(f"events.{name}-value")
        assert subject is not None
        assert json.loads(subject.text) == json.loads(schemas.EVENT)


async def test_reasons_of_the_real_registry_come_one_by_one_for_each_kind(values):
    settings = Settings(**values)
    registry = SchemaRegistry(settings)
    topics = TopicSchemas(registry, AvroCodec(), max_age_s=30)
    changed = json.loads(json.dumps(JSON_SCHEMA))
    changed["properties"]["payload"]["properties"]["order"] = {"type": "integer"}
    changed["required"] = ["value"]
    for kind, first, second, count in (
        (SchemaKind.JSON, json.dumps(JSON_SCHEMA), json.dumps(changed), 2),
        (SchemaKind.PROTOBUF, PROTO, PROTO.replace("string order = 1", "int64 order = 1"), 1),
    ):
        topic = f"events.{new_name()}"
        await topics.register(topic, kind, first)
        with pytest.raises(IncompatibleSchemaError) as refused:
            await topics.register(topic, kind, second)
        assert len(refused.value.reasons) >= count
        assert all(" at /" in reason and "io.apicurio" not in reason for reason in refused.value.reasons)
        # The same again is the same version.
        again = await topics.register(topic, kind, first)
        assert again.version == 1


async def test_names_that_kafka_cannot_tell_apart_are_refused_by_us_and_by_kafka(values):
    settings = Settings(**values)
    admin = TopicAdmin(settings)
    topics = EventTopics(settings, admin, TopicSchemas(SchemaRegistry(settings), AvroCodec(), max_age_s=30))
    name = new_name()
    await topics.create(f"{name}.a")
    for create in (topics.create, topics.create_for_event):
        with pytest.raises(TopicExistsError, match="does not tell"):
            await create(f"{name}_a")
    with pytest.raises(TopicExistsError, match="collides"):
        await admin.create([TopicSpec(f"events.{name}_a", 1, 1)])


async def test_beyond_the_limit_only_an_administrator_creates_topics(values):
    settings = Settings(**values | {"max_topics": 1})
    admin = TopicAdmin(settings)
    topics = EventTopics(settings, admin, TopicSchemas(SchemaRegistry(settings), AvroCodec(), max_age_s=30))
    first, second = new_name(), new_name()
    await topics.create(first)
    with pytest.raises(PlatformError) as refused:
        await topics.create_for_event(second)
    assert refused.value.code == "too_many_topics"
    # One that exists is as it was.
    await topics.create_for_event(first)
    assert f"events.{second}" not in await admin.topics()


@pytest.mark.slow
async def test_flink_reads_the_envelope_of_typed_records_and_skips_their_payload(values, own_kafka_broker):
    # Its own: the job reads every topic events.*, and event time of other tests' topics would hold its windows open.
    values = values | {"kafka_bootstrap_servers": own_kafka_broker.bootstrap_servers}
    settings = Settings(**values)
    registry, codec, admin = SchemaRegistry(settings), AvroCodec(), TopicAdmin(settings)
    topic_schemas = TopicSchemas(registry, codec, max_age_s=30)
    await admin.create(topic_specs(settings))
    await registry.register(f"{AGGREGATES}-value", schemas.AGGREGATED_EVENT)
    name = new_name()
    await EventTopics(settings, admin, topic_schemas).create(name, partitions=1, schema=(SchemaKind.AVRO, typed_avro()))
    publisher = Publisher(settings, codec, SchemaLoader(registry, codec), topic_schemas)
    minute = 1_750_000_020_000
    producer = Producer({"bootstrap.servers": values["kafka_bootstrap_servers"]})
    for number, at in enumerate((0, 1_000, 2_000, 300_000)):
        fields = event(
            number, timestamp=minute + at, value=1.5, payload={"order": "o", "lines": [{"sku": "a", "count": 1}]}
        )
        made = event_from_fields(
            fields | {"payload": json.dumps(fields["payload"])}, EventRules(), minute + at, lambda: ""
        )
        record = publisher.record(f"events.{name}", made, Format.JSON, None)
        producer.produce(record.topic, record.value, record.key)
    producer.flush()
    loader = SchemaLoader(registry, codec)
    with TemporaryDirectory(prefix="streams-test-") as directory:
        job = FlinkJob(Path(directory), **values, app_id=f"flink-{name}", flink_idle_timeout_s=1)
        try:
            job.start()

            async def closed() -> list[tuple[int, float | None]]:
                records = await read_topic(settings, AGGREGATES)
                found = [await loader.read(partial(codec.decode_aggregate, r.value or b"")) for r in records]
                return [(window.count, window.sum) for window in found if window.topic == name]

            assert (await eventually(closed, 60))[0] == (3, 4.5)
        finally:
            job.stop()
