"""A worker process on a real broker and registry: events in over HTTP and ingress, state and live streams out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer
from websockets.asyncio.client import connect

from deploy.local.paths import ROOT
from streams import schemas
from streams.codecs import AvroCodec, Format, write_event
from streams.domain.envelope import Event
from streams.domain.headers import header
from streams.domain.naming import DLQ, INGRESS
from streams.kafka.batching import changelog_topic
from streams.kafka.consumer import Record
from streams.registry import SchemaLoader, SchemaRegistry
from streams.settings import Settings
from tests.platform import BIN, Worker, environment, eventually, read_topic, running_worker


@pytest.fixture(scope="module")
def worker(kafka_broker, schema_registry) -> Iterator[Worker]:
    """A worker that the tests of this file share; each uses event ids and keys of its own."""
    with running_worker(kafka_bootstrap_servers=kafka_broker.bootstrap_servers, registry_url=schema_registry.url) as it:
        yield it


def document(**fields: object) -> dict[str, object]:
    return {"event_type": "test.event", "timestamp": int(time.time() * 1000), "user_id": "someone", **fields}


async def to_ingress(settings: Settings, *records: tuple[bytes, list[tuple[str, bytes]]]) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers, acks="all", max_request_size=2_000_000
    )
    await producer.start()
    for value, headers in records:
        await producer.send(INGRESS, value, key=b"k", headers=headers)
    await producer.stop()


async def with_ids(settings: Settings, topic: str, ids: set[str]) -> list[Record]:
    """The records of these events, once all of them are there."""

    async def found() -> list[Record]:
        records = [r for r in await read_topic(settings, topic) if header(r.headers, "event-id") in ids]
        return records if {header(r.headers, "event-id") for r in records} == ids else []

    return await eventually(found)


async def test_a_posted_event_is_on_disk_where_the_answer_says(worker):
    async with worker.client("events:write:iot") as client:
        sent = document(value=2.5, payload={"deep": [1, {"er": None}]})
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        async with client.post("/api/v1/events/iot", json=sent, headers={"traceparent": trace}) as response:
            assert response.status == 201
            receipt = await response.json()
    [record] = [
        r
        for r in await read_topic(worker.settings, "events.iot")
        if (r.partition, r.offset) == (receipt["partition"], receipt["offset"])
    ]
    codec = AvroCodec()
    value = record.value or b""
    event = await SchemaLoader(SchemaRegistry(worker.settings), codec).read(lambda: codec.decode_event(value))
    assert (event.event_id, event.value, json.loads(event.payload)) == (receipt["event_id"], 2.5, sent["payload"])
    assert record.key == b"someone"
    assert header(record.headers, "event-id") == receipt["event_id"]
    assert header(record.headers, "content-type") == "application/json"
    assert header(record.headers, "traceparent") == trace


async def test_an_invalid_event_gets_every_path_and_nothing_is_stored(worker):
    before = len(await read_topic(worker.settings, "events.clickstream"))
    async with worker.client() as client:
        wrong = document(value="1", event_id="x", extra=1)
        async with client.post("/api/v1/events/clickstream", json=wrong) as response:
            assert response.status == 422
            assert response.content_type == "application/problem+json"
            problem = await response.json()
    assert {error["path"] for error in problem["errors"]} == {"/value", "/event_id", "/extra"}
    assert len(await read_topic(worker.settings, "events.clickstream")) == before


@pytest.mark.parametrize("format_", Format)
async def test_ingress_takes_every_format_and_stores_one(worker, format_):
    codec = AvroCodec()
    event = Event(str(uuid.uuid4()), "test.event", int(time.time() * 1000), "u", None, 1.5, "test", '{"a": 1}')
    schema_id = await SchemaRegistry(worker.settings).register("events.iot-value", schemas.EVENT)
    body = write_event(event, format_, codec, schema_id)
    await to_ingress(worker.settings, (body, [("event-topic", b"iot"), ("content-type", format_.value.encode())]))
    [record] = await with_ids(worker.settings, "events.iot", {event.event_id})
    codec.add_schema(schema_id, schemas.EVENT)
    assert codec.decode_event(record.value or b"") == event
    assert header(record.headers, "content-type") == format_.value


async def test_what_ingress_cannot_take_is_in_the_dead_letter_queue_byte_for_byte(worker):
    iot = ("event-topic", b"iot")
    marker = uuid.uuid4().bytes
    cases = [
        (b"\xff{" + marker, [iot], "malformed_event"),
        (b'{"event_type": 7}' + b" " * 3, [iot, ("m", marker)], "invalid_event"),
        (b"{}", [("m", marker)], "unknown_topic"),
        (b"{}", [("event-topic", b"no-such-topic"), ("m", marker)], "unknown_topic"),
        (b"{}", [("event-topic", b"platform.dlq/../x"), ("m", marker)], "unknown_topic"),
        (b"{}", [iot, ("content-type", b"text/plain"), ("m", marker)], "unsupported_format"),
        (b"\x00\x00\x0f\xff\xff" + marker, [iot, ("content-type", b"application/avro")], "unknown_schema"),
        # As large as ingress takes, and with more faults than a header could tell.
        (b"x" * 1_040_000, [iot, ("m", marker)], "malformed_event"),
        (json.dumps({f"field {i}": i for i in range(20_000)}).encode(), [iot, ("m", marker)], "invalid_event"),
    ]
    await to_ingress(worker.settings, *[(value, headers) for value, headers, _ in cases])
    codec = AvroCodec()
    loader = SchemaLoader(SchemaRegistry(worker.settings), codec)

    async def buried() -> list:
        found = []
        for record in await read_topic(worker.settings, DLQ):
            value = record.value or b""
            letter = await loader.read(partial(codec.decode_dead_letter, value))
            if marker in (letter.value or b"") or ("m", marker) in letter.headers:
                found.append((record, letter))
        return found if len(found) >= len(cases) else []

    letters = await eventually(buried)
    expected = sorted((value, tuple(headers), reason) for value, headers, reason in cases)
    assert sorted((letter.value, letter.headers, letter.reason) for _, letter in letters) == expected
    for record, letter in letters:
        assert letter.source_topic == INGRESS
        assert header(record.headers, "dlq-reason") == letter.reason
        assert header(record.headers, "dlq-source-offset") == str(letter.source_offset)


async def test_a_header_without_a_value_is_no_reason_to_lose_a_record(worker):
    marker = uuid.uuid4().hex
    confluent = Producer({"bootstrap.servers": worker.settings.kafka_bootstrap_servers})
    confluent.produce(INGRESS, json.dumps(document(source=marker)), headers=[("event-topic", "iot"), ("empty", None)])
    confluent.produce(INGRESS, b"not json " + marker.encode(), headers=[("event-topic", "iot"), ("empty", None)])
    assert confluent.flush(20) == 0

    async def both() -> bool:
        stored = [r for r in await read_topic(worker.settings, "events.iot") if marker.encode() in (r.value or b"")]
        buried = [r for r in await read_topic(worker.settings, DLQ) if marker.encode() in (r.value or b"")]
        return (len(stored), len(buried)) == (1, 1)

    await eventually(both)


async def test_a_record_without_an_id_gets_one_that_a_second_reading_would_give_it_too(worker):
    await to_ingress(worker.settings, (json.dumps(document(source="no id")).encode(), [("event-topic", b"iot")]))

    async def stored() -> list[Record]:
        records = await read_topic(worker.settings, "events.iot")
        return [r for r in records if b"no id" in (r.value or b"")]

    [record] = await eventually(stored)
    assert uuid.UUID(header(record.headers, "event-id") or "").version == 5


async def test_the_state_of_a_key_counts_its_events_and_survives_a_restart(worker):
    key = f"counted-{uuid.uuid4()}"

    async def post(count: int) -> None:
        async with worker.client() as client:
            for i in range(count):
                async with client.post("/api/v1/events/iot", json=document(user_id=key, value=float(i))) as response:
                    assert response.status == 201

    async def state_is(count: int) -> bool:
        records = await read_topic(worker.settings, changelog_topic(worker.settings.app_id, "state"))
        states = [json.loads(r.value or b"null") for r in records if r.key == f"events.iot|iot/{key}".encode()]
        return bool(states) and states[-1]["count"] == count

    await post(7)
    await eventually(lambda: state_is(7))
    worker.restart()
    await post(3)
    await eventually(lambda: state_is(10))


async def test_a_stream_shows_what_is_posted_to_a_client_that_we_did_not_write(worker):
    """The `websockets` library, with its token in the handshake's headers."""
    headers = {"Authorization": f"Bearer {worker.token('events:read:iot')}"}
    url = f"ws://127.0.0.1:{worker.port}/api/v1/stream/iot?key=watched"
    async with connect(url, additional_headers=headers) as stream, worker.client() as client:
        for i in range(20):
            body = document(user_id="watched" if i % 2 else "other", value=float(i))
            async with client.post("/api/v1/events/iot", json=body) as response:
                assert response.status == 201
        async with asyncio.timeout(20):
            assert json.loads(await stream.recv())["type"] == "position"
            values = [json.loads(await stream.recv())["event"]["value"] for _ in range(10)]
    assert values == [float(i) for i in range(1, 20, 2)]


async def test_the_newest_events_are_read_back_newest_first(worker):
    key = f"latest-{uuid.uuid4()}"
    async with worker.client() as client:
        for i in range(5):
            body = document(user_id=key, value=float(i))
            async with client.post("/api/v1/events/transactions", json=body) as response:
                assert response.status == 201
        async with client.get("/api/v1/events/transactions/latest", params={"key": key, "limit": "3"}) as response:
            assert response.status == 200
            answer = await response.json()
    assert [entry["event"]["value"] for entry in answer["events"]] == [4.0, 3.0, 2.0]


async def test_metrics_and_health_are_open_and_everything_else_is_not(worker):
    async with aiohttp.ClientSession(worker.url) as client:
        async with client.get("/metrics") as response:
            assert response.status == 200
            assert "# TYPE" in await response.text()
        for path in ("/", "/table/state/", "/router/", "/graph", "/api/v1/events/iot/latest", "/nowhere"):
            async with client.get(path) as response:
                assert response.status == 401, path
                assert response.headers["WWW-Authenticate"].startswith("Bearer")


async def test_while_kafka_is_away_a_post_is_refused_in_time_and_none_is_falsely_confirmed(
    own_kafka_broker, schema_registry
):
    with running_worker(
        kafka_bootstrap_servers=own_kafka_broker.bootstrap_servers,
        registry_url=schema_registry.url,
        request_deadline_s=2,
    ) as own:
        async with own.client() as client:
            confirmed: list[str] = []

            async def post() -> int:
                began = time.monotonic()
                async with client.post("/api/v1/events/iot", json=document()) as response:
                    assert time.monotonic() - began < 4
                    answer = await response.json()
                    if response.status == 201:
                        confirmed.append(answer["event_id"])
                    else:
                        assert response.status == 503
                        assert int(response.headers["Retry-After"]) >= 1
                    return response.status

            assert await post() == 201
            own_kafka_broker.kill()
            assert [await post() for _ in range(2)] == [503, 503]
            async with client.get("/api/v1/health/ready") as response:
                assert response.status == 503
            async with client.get("/api/v1/health/live") as response:
                assert response.status == 200
            own_kafka_broker.start()

            async def back() -> bool:
                return await post() == 201

            await eventually(back)
        stored = Counter(header(r.headers, "event-id") for r in await read_topic(own.settings, "events.iot"))
        assert all(stored[event_id] == 1 for event_id in confirmed)


def test_a_worker_that_starts_first_waits_says_so_and_can_be_stopped(tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{probe.getsockname()[1]}"
    own = Worker(tmp_path, kafka_bootstrap_servers=nobody)
    own.launch()
    try:
        deadline = time.monotonic() + 30
        while "waiting for Kafka" not in own.tail():
            assert time.monotonic() < deadline, own.tail()
            assert not own.died, own.tail()
            time.sleep(0.1)
        began = time.monotonic()
    finally:
        own.stop()
    assert time.monotonic() - began < 10
    assert "Traceback" not in own.log.read_text()


async def test_a_worker_goes_on_when_what_it_waits_for_comes(own_kafka_broker, own_schema_registry, tmp_path: Path):
    own_kafka_broker.stop()
    own_schema_registry.stop()
    own = Worker(
        tmp_path, kafka_bootstrap_servers=own_kafka_broker.bootstrap_servers, registry_url=own_schema_registry.url
    )
    own.launch()
    try:
        own_kafka_broker.start()
        await eventually(lambda: _in_log(own, "waiting for the schema registry"))
        own_schema_registry.start()
        own.wait()
    finally:
        own.stop()


async def _in_log(worker: Worker, text: str) -> bool:
    return text in worker.log.read_text()


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"kafka_partitions": "many"}, "STREAMS_KAFKA_PARTITIONS"), ({"web_port": "0"}, "STREAMS_WEB_PORT")],
)
def test_a_wrong_setting_ends_the_worker_with_its_name(settings, named):
    done = subprocess.run(
        [str(BIN / "faust"), "-A", "streams", "worker"],
        cwd=ROOT, env=environment(settings), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_the_commands_end_cleanly_on_ctrl_c(kafka_broker, schema_registry, tmp_path):
    """`watch` shows a line every few seconds where there is no terminal, and leaves no traceback."""
    settings = {
        "kafka_bootstrap_servers": kafka_broker.bootstrap_servers,
        "registry_url": schema_registry.url,
        "app_id": "ctrl-c",
    }
    with (tmp_path / "out").open("w") as out:
        watch = subprocess.Popen(
            [str(BIN / "faust"), "-A", "streams", "watch"], cwd=ROOT, env=environment(settings), stdout=out, stderr=out
        )
        try:
            deadline = time.monotonic() + 30
            while not (tmp_path / "out").read_text():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            os.kill(watch.pid, signal.SIGINT)
            watch.wait(15)
        finally:
            watch.kill()
    assert watch.returncode == 0
    assert "Traceback" not in (tmp_path / "out").read_text()
    assert "Unclosed" not in (tmp_path / "out").read_text()


def command(worker: Worker, *arguments: str) -> str:
    """What a command prints on standard output; it must succeed."""
    done = subprocess.run(
        [str(BIN / "faust"), "-A", "streams", *arguments],
        cwd=ROOT, env=worker.environment, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("via", ["http", "ingress"])
async def test_the_generator_command_says_what_it_sent_and_that_is_what_is_there(worker, via):
    async def held() -> tuple[int, int]:
        return len(await read_topic(worker.settings, "events.iot")), len(await read_topic(worker.settings, DLQ))

    events, letters = await held()
    options = ["--kind", "iot", "--count", "300", "--rate", "2000", "--invalid-ratio", "0.1", "--seed", "7"]
    totals = json.loads(command(worker, "generate", *options, "--via", via, "--json"))
    sent = totals["topics"]["iot"]
    assert (sent["emitted"], sent["failed"], sent["surprises"]) == (300, 0, 0)
    assert sent["rejected"] > 0

    async def counted() -> bool:
        buried = sent["rejected"] if via == "ingress" else 0
        return await held() == (events + sent["accepted"], letters + buried)

    await eventually(counted)
    [iot] = [row for row in json.loads(command(worker, "topics", "--json")) if row["topic"] == "events.iot"]
    # The markers of transactions are offsets too.
    assert iot["offsets"] >= events + sent["accepted"]


async def test_a_token_of_the_command_opens_what_its_scope_says(worker):
    token = command(worker, "token", "--scope", "events:write:iot", "--ttl", "5m").strip()
    async with aiohttp.ClientSession(worker.url, headers={"Authorization": f"Bearer {token}"}) as client:
        async with client.post("/api/v1/events/iot", json=document()) as response:
            assert response.status == 201
        async with client.post("/api/v1/events/clickstream", json=document()) as response:
            assert response.status == 403


@pytest.mark.parametrize("name", ["audit", "dlq", "generate", "token", "topics", "watch"])
def test_every_command_explains_itself(worker, name):
    assert "--help" in command(worker, name, "--help")
