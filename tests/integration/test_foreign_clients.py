"""Clients that we did not write: what they read is what was posted, and what they post is what we store."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from websockets.asyncio.client import connect

from streams.codecs import AvroCodec
from streams.domain.envelope import Event
from streams.registry import SchemaLoader, SchemaRegistry
from tests.platform import Worker, read_topic, running_worker

TOPIC = "events.iot"
FIELDS = {
    "event_type": "sensor.reading",
    "user_id": "Zoë",
    "device_id": "thermo-1",
    "value": -21.5,
    "source": "urn:test:hall-7",
    "payload": {"deep": [1, {"er": None}], "large": 9_007_199_254_740_993},
}


@pytest.fixture(scope="module")
def worker(kafka_broker, schema_registry) -> Iterator[Worker]:
    with running_worker(kafka_bootstrap_servers=kafka_broker.bootstrap_servers, registry_url=schema_registry.url) as it:
        yield it


async def post(worker: Worker, body: bytes, headers: dict[str, str], path: str = "") -> dict[str, Any]:
    async with (
        worker.client("events:write:iot") as client,
        client.post(f"/api/v1/events/iot{path}", data=body, headers=headers) as response,
    ):
        assert response.status in (200, 201), await response.text()
        return await response.json()


async def stored(worker: Worker, event_id: str) -> Event:
    """The one event of this id in the log."""
    codec = AvroCodec()
    loader = SchemaLoader(SchemaRegistry(worker.settings), codec)
    found = []
    for record in await read_topic(worker.settings, TOPIC):
        event = await loader.read(partial(codec.decode_event, record.value or b""))
        if event.event_id == event_id:
            found.append(event)
    [event] = found
    return event


def read_by_confluent(worker: Worker, partition: int, offset: int) -> tuple[bytes | None, Any]:
    """The key and the value of a record, by librdkafka and Confluent's own deserialiser."""
    registry = SchemaRegistryClient({"url": worker.settings.registry_url, "timeout": 10, "max.retries": 1})
    deserialize = AvroDeserializer(registry)
    consumer = Consumer(
        {
            "bootstrap.servers": worker.settings.kafka_bootstrap_servers,
            "group.id": f"test-{uuid.uuid4()}",
            "enable.auto.commit": False,
        }
    )
    try:
        consumer.assign([TopicPartition(TOPIC, partition, offset)])
        message = consumer.poll(20)
        assert message is not None
        assert message.error() is None
        assert (message.partition(), message.offset()) == (partition, offset)
        return message.key(), deserialize(message.value(), SerializationContext(TOPIC, MessageField.VALUE))
    finally:
        consumer.close()


async def test_confluent_s_deserializer_reads_every_field_of_what_was_posted(worker):
    at_ms = int(time.time() * 1000)
    sent = FIELDS | {"event_id": str(uuid.uuid4()), "timestamp": at_ms}
    receipt = await post(worker, json.dumps(sent).encode(), {"Content-Type": "application/json"})
    key, found = await asyncio.to_thread(read_by_confluent, worker, receipt["partition"], receipt["offset"])
    found["payload"] = json.loads(found["payload"])
    # Its logical types are read as what they are.
    at = datetime.fromtimestamp(at_ms // 1000, UTC) + timedelta(milliseconds=at_ms % 1000)
    assert found == sent | {"event_id": uuid.UUID(str(sent["event_id"])), "timestamp": at}
    assert key == "Zoë".encode()


async def test_confluent_s_deserializer_reads_the_nulls_of_an_event_of_few_fields(worker):
    sent = {"event_id": str(uuid.uuid4()), "event_type": "ping", "timestamp": 0, "device_id": "d"}
    receipt = await post(worker, json.dumps(sent).encode(), {"Content-Type": "application/json"})
    _, found = await asyncio.to_thread(read_by_confluent, worker, receipt["partition"], receipt["offset"])
    assert found == {
        "event_id": uuid.UUID(str(sent["event_id"])),
        "event_type": "ping",
        "timestamp": datetime(1970, 1, 1, tzinfo=UTC),
        "user_id": None,
        "device_id": "d",
        "value": None,
        "source": None,
        "payload": "{}",
    }


def cloud_event(**attributes: str) -> CloudEvent:
    return CloudEvent(
        {
            "id": str(uuid.uuid4()),
            "source": FIELDS["source"],
            "type": FIELDS["event_type"],
            "time": datetime(2026, 11, 25, 12, 30, 0, 125_000, tzinfo=UTC),
            "datacontenttype": "application/json",
            "userid": FIELDS["user_id"],
            "deviceid": FIELDS["device_id"],
            "value": "-21.5",
            **attributes,
        },
        dict(FIELDS["payload"]),  # type: ignore[call-overload]
    )


def assert_is(event: Event, sent: CloudEvent) -> None:
    """Every field of the event is what the CloudEvent says."""
    expected = {name: value for name, value in FIELDS.items() if name != "payload"}
    assert {name: getattr(event, name) for name in expected} == expected
    assert event.event_id == sent.get_id()
    assert event.timestamp == 1_795_609_800_125
    assert json.loads(event.payload) == FIELDS["payload"]


@pytest.mark.parametrize("mode", [http.to_structured_event, http.to_binary_event], ids=["structured", "binary"])
async def test_the_cloudevents_sdk_posts_to_us(worker, mode):
    sent = cloud_event()
    message = mode(sent)
    receipt = await post(worker, message.body, dict(message.headers))
    assert receipt["event_id"] == sent.get_id()
    assert_is(await stored(worker, receipt["event_id"]), sent)


async def test_a_batch_of_what_the_cloudevents_sdk_writes(worker):
    # The SDK has no batch of its own: its documents in an array are one (JSON format, section 4).
    sent = [cloud_event() for _ in range(3)]
    body = b"[" + b",".join(JSONFormat().write(event) for event in sent) + b"]"
    answer = await post(worker, body, {"Content-Type": "application/cloudevents-batch+json"}, "/batch")
    assert [(result["ok"], result["event_id"]) for result in answer["results"]] == [(True, e.get_id()) for e in sent]
    for event in sent:
        assert_is(await stored(worker, event.get_id()), event)


async def test_a_websocket_client_other_than_aiohttp_s_reads_the_stream(worker):
    stream = f"ws://127.0.0.1:{worker.port}/api/v1/stream/iot?key=a%20key%20of%20its%20own"
    bearer = {"Authorization": f"Bearer {worker.token('events:read:iot')}"}
    async with connect(stream, additional_headers=bearer) as socket:
        sent = FIELDS | {"event_id": str(uuid.uuid4()), "timestamp": 1_795_609_800_125, "user_id": "a key of its own"}
        receipt = await post(worker, json.dumps(sent).encode(), {"Content-Type": "application/json"})
        async with asyncio.timeout(20):
            while (message := json.loads(await socket.recv()))["type"] != "event":
                pass
    assert (message["partition"], message["offset"]) == (receipt["partition"], receipt["offset"])
    assert message["event"] == sent | {"timestamp": message["event"]["timestamp"]}
