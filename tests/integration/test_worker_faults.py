"""What a worker must not lose: it is stopped with records in hand, its dead letters are refused, its clients hang on."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.envelope import Event
from streams.domain.headers import header
from streams.domain.naming import DLQ, INGRESS
from streams.registry import SchemaRegistry
from streams.settings import Settings
from tests.platform import Worker, eventually, read_topic
from tests.stack import KafkaBroker, running

IOT = ("event-topic", b"iot")


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    """A broker for this file, whose topics it spoils."""
    with running(KafkaBroker) as server:
        yield server


async def to_ingress(settings: Settings, *values: bytes, content_type: bytes = b"application/json") -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, acks="all")
    await producer.start()
    for value in values:
        await producer.send_and_wait(INGRESS, value, key=b"k", headers=[IOT, ("content-type", content_type)])
    await producer.stop()


def document(**fields: object) -> bytes:
    return json.dumps(
        {"event_type": "test.event", "timestamp": int(time.time() * 1000), "user_id": "u", **fields}
    ).encode()


async def ids_in(settings: Settings, topic: str) -> list[str]:
    return [header(r.headers, "event-id") or "" for r in await read_topic(settings, topic)]


async def test_a_record_in_hand_when_the_worker_is_stopped_is_read_again(broker, own_schema_registry, tmp_path: Path):
    """The registry is away, so an Avro record waits; SIGTERM must not commit it."""
    worker = Worker(tmp_path, kafka_bootstrap_servers=broker.bootstrap_servers, registry_url=own_schema_registry.url)
    worker.start()
    try:
        other = json.loads(schemas.EVENT) | {"doc": "another writer's"}
        schema_id = await SchemaRegistry(worker.settings).register("elsewhere-value", json.dumps(other))
        own_schema_registry.kill()
        codec = AvroCodec()
        events = [Event(str(uuid.uuid4()), "a", int(time.time() * 1000), "u") for _ in range(5)]
        bodies = [codec.encode_event(event, schema_id) for event in events]
        await to_ingress(worker.settings, *bodies, content_type=b"application/avro")
        await eventually(lambda: _said(worker, "attempt 1 failed"))
        worker.stop()
        own_schema_registry.start()
        worker.start()

        async def all_there() -> bool:
            return {event.event_id for event in events} <= set(await ids_in(worker.settings, "events.iot"))

        await eventually(all_there)
    finally:
        worker.stop()


async def test_while_dead_letters_are_refused_the_partition_waits_and_nothing_is_lost(
    broker, schema_registry, tmp_path: Path
):
    worker = Worker(tmp_path, kafka_bootstrap_servers=broker.bootstrap_servers, registry_url=schema_registry.url)
    worker.start()
    try:
        behind = str(uuid.uuid4())
        bad = b"{ no json " + uuid.uuid4().hex.encode()
        set_config(broker, DLQ, "max.message.bytes", "200")
        await to_ingress(worker.settings, bad)
        await eventually(lambda: _said(worker, "is held"))
        await to_ingress(worker.settings, document(event_id=behind))
        set_config(broker, DLQ, "max.message.bytes", "2097152")

        async def both_there() -> bool:
            buried = [r for r in await read_topic(worker.settings, DLQ) if bad in (r.value or b"")]
            return len(buried) >= 1 and behind in await ids_in(worker.settings, "events.iot")

        await eventually(both_there, 60)
    finally:
        worker.stop()


async def test_an_aborted_transaction_leaves_no_event_and_no_dead_letter(broker, schema_registry, tmp_path: Path):
    worker = Worker(tmp_path, kafka_bootstrap_servers=broker.bootstrap_servers, registry_url=schema_registry.url)
    worker.start()
    try:
        aborted, committed = str(uuid.uuid4()), str(uuid.uuid4())
        client = AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers, transactional_id=uuid.uuid4().hex)
        await client.start()
        before = len(await read_topic(worker.settings, DLQ))
        for event_id, commit in ((aborted, False), (committed, True)):
            await client.begin_transaction()
            await client.send_and_wait(INGRESS, document(event_id=event_id), key=b"k", headers=[IOT])
            await client.send_and_wait(INGRESS, b"no json", key=b"k", headers=[IOT])
            await (client.commit_transaction() if commit else client.abort_transaction())
        await client.stop()

        async def second_there() -> bool:
            buried = len(await read_topic(worker.settings, DLQ)) - before
            return committed in await ids_in(worker.settings, "events.iot") and buried >= 1

        await eventually(second_there)
        # One key, one partition: what came before has been read when what came after is there.
        assert aborted not in await ids_in(worker.settings, "events.iot")
        assert len(await read_topic(worker.settings, DLQ)) - before == 1
    finally:
        worker.stop()


async def test_a_worker_stops_in_time_while_kafka_is_away_and_loses_nothing(
    own_kafka_broker, schema_registry, tmp_path: Path
):
    worker = Worker(
        tmp_path,
        kafka_bootstrap_servers=own_kafka_broker.bootstrap_servers,
        registry_url=schema_registry.url,
        shutdown_deadline_s=4,
    )
    worker.start()
    try:
        ids = {str(uuid.uuid4()) for _ in range(50)}
        await to_ingress(worker.settings, *[document(event_id=event_id) for event_id in ids])
        own_kafka_broker.kill()
        began = time.monotonic()
        await asyncio.to_thread(worker.stop)
        assert time.monotonic() - began < 12
        assert "not stopped within 4 s" in worker.log.read_text()
        own_kafka_broker.start()
        worker.start()

        async def all_there() -> bool:
            return ids <= set(await ids_in(worker.settings, "events.iot"))

        await eventually(all_there)
    finally:
        worker.stop()


async def test_a_worker_that_stops_says_goodbye_to_its_watchers(broker, schema_registry, tmp_path: Path):
    worker = Worker(tmp_path, kafka_bootstrap_servers=broker.bootstrap_servers, registry_url=schema_registry.url)
    worker.start()
    try:
        headers = {"Authorization": f"Bearer {worker.token('events:read:iot')}"}
        url = f"ws://127.0.0.1:{worker.port}/api/v1/stream/iot"
        async with connect(url, additional_headers=headers) as stream:
            await asyncio.to_thread(worker.stop)
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionClosed) as closed:
                    await read_on(stream)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    finally:
        worker.stop()
    assert worker.returncode == 0
    assert "Traceback" not in worker.log.read_text()


async def read_on(stream: ClientConnection) -> None:
    while True:
        await stream.recv()


def set_config(server: KafkaBroker, topic: str, name: str, value: str) -> None:
    admin = AdminClient({"bootstrap.servers": server.bootstrap_servers})
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    [done] = admin.incremental_alter_configs(
        [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])]
    ).values()
    done.result(10)


async def _said(worker: Worker, text: str) -> bool:
    return text in worker.log.read_text()
