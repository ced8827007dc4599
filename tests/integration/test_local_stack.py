"""The broker and the registry of the local stack, as tests get them: they work, and only this machine reaches them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.stack import KafkaBroker, SchemaRegistry, ServerDiedError

READING = {"type": "record", "name": "Reading", "fields": [{"name": "id", "type": "string"}]}


def with_field(**field: object) -> dict[str, object]:
    return {**READING, "fields": [*READING["fields"], {"name": "value", "type": "double", **field}]}


async def make_topic(broker: KafkaBroker, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def produce(broker: KafkaBroker, topic: str, *values: bytes) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers, enable_idempotence=True, acks="all"
    ) as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def consume(broker: KafkaBroker, topic: str, count: int) -> list[bytes]:
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest"
    ) as consumer:
        return [(await consumer.getone()).value for _ in range(count)]


async def test_a_produced_record_is_read_back(kafka_broker: KafkaBroker):
    await make_topic(kafka_broker, "local-stack")
    await produce(kafka_broker, "local-stack", b"one", b"two")
    assert await consume(kafka_broker, "local-stack", 2) == [b"one", b"two"]


async def test_a_transaction_commits(kafka_broker: KafkaBroker):
    await make_topic(kafka_broker, "local-stack-transactions")
    producer = AIOKafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers, transactional_id="local-stack")
    async with producer, producer.transaction():
        await producer.send("local-stack-transactions", b"committed")
    assert await consume(kafka_broker, "local-stack-transactions", 1) == [b"committed"]


async def test_a_topic_that_nobody_declared_is_not_made(kafka_broker: KafkaBroker):
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap_servers)
    await admin.start()
    try:
        await admin.describe_topics(["nobody-declared-this"])
        assert "nobody-declared-this" not in await admin.list_topics()
    finally:
        await admin.close()


async def test_records_survive_a_killed_broker(own_kafka_broker: KafkaBroker):
    await make_topic(own_kafka_broker, "kept")
    await produce(own_kafka_broker, "kept", b"before")
    first = own_kafka_broker.pid
    own_kafka_broker.kill()
    assert not psutil.pid_exists(first)
    own_kafka_broker.start()
    assert own_kafka_broker.pid != first
    await produce(own_kafka_broker, "kept", b"after")
    assert await consume(own_kafka_broker, "kept", 2) == [b"before", b"after"]


def register(registry: SchemaRegistry, subject: str, schema: object) -> httpx.Response:
    return httpx.post(f"{registry.url}/subjects/{subject}/versions", json={"schema": json.dumps(schema)}, timeout=30)


def test_an_incompatible_schema_is_refused_without_anyone_setting_the_rule(schema_registry: SchemaRegistry):
    assert httpx.get(f"{schema_registry.url}/config").json() == {"compatibilityLevel": "BACKWARD"}
    first = register(schema_registry, "readings-value", READING)
    assert first.status_code == 200
    assert register(schema_registry, "readings-value", READING).json() == first.json()
    # BACKWARD: a new reader must read old records, and this one has nothing to put into the new field.
    refused = register(schema_registry, "readings-value", with_field())
    assert refused.status_code == 409
    assert register(schema_registry, "readings-value", with_field(default=0.0)).status_code == 200


def test_the_rule_can_be_set_again_to_what_it_is(schema_registry: SchemaRegistry):
    answer = httpx.put(f"{schema_registry.url}/config", json={"compatibility": "BACKWARD"})
    assert answer.status_code == 200
    assert httpx.get(f"{schema_registry.url}/config").json() == {"compatibilityLevel": "BACKWARD"}


def test_schemas_survive_a_restart(own_schema_registry: SchemaRegistry):
    registered = register(own_schema_registry, "kept-value", READING).json()["id"]
    own_schema_registry.restart()
    found = httpx.get(f"{own_schema_registry.url}/schemas/ids/{registered}")
    assert json.loads(found.json()["schema"]) == READING


def test_only_this_machine_can_reach_them(kafka_broker: KafkaBroker, schema_registry: SchemaRegistry):
    for server in (kafka_broker, schema_registry):
        listening = [
            connection.laddr
            for connection in psutil.Process(server.pid).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert {address.port for address in listening} == server.ports
        # A JVM may write an IPv4 address in IPv6's way.
        assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_a_server_that_dies_at_start_says_why(
    kafka_broker: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    second = KafkaBroker(tmp_path)
    second._broker = replace(second._broker, port=kafka_broker._broker.port)
    # The first answers on that port, so the second must not be taken for ready.
    monkeypatch.setattr(second, "is_ready", lambda: False)
    with pytest.raises(ServerDiedError, match=r"(?s)ended at start.*in use"):
        second.start()
