"""The Flink job as a process, on a real broker and a real registry: every event is in one window, or in platform.late."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import struct
import subprocess
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from deploy.local.java import java_home
from deploy.local.paths import JARS, ROOT, VENV_FLINK
from deploy.local.readiness import job_runs
from flink.pipeline import LATE_EVENT
from streams import schemas
from streams.domain.windows import MINUTE_MS, TUMBLING_1M, Accumulator
from tests.stack import KafkaBroker, SchemaRegistry, free_ports, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PARTITIONS = 4
IDLE_S = 2
START_S = 90
TYPES = ("sensor.reading", "page.view", "payment")
ORIGIN_MS = 1_700_000_040_000
"""The first window's start, so long ago that only event time can matter."""

Key = tuple[str, str, int]
"""Topic, event type, window start in ms."""


@dataclass
class Kafka:
    """The topics as a client sees them."""

    bootstrap: str
    registry_url: str

    def __post_init__(self) -> None:
        self.producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5})
        self.schemas: dict[int, Any] = {}

    def create(self, *names: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for done in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names]).values():
            done.result()

    def register(self, subject: str, schema: str) -> int:
        return int(self._registry(f"/subjects/{subject}/versions", {"schema": schema})["id"])

    def versions(self, subject: str) -> Any:
        return self._registry(f"/subjects/{subject}/versions")

    def schema(self, schema_id: int) -> Any:
        if schema_id not in self.schemas:
            self.schemas[schema_id] = json.loads(self._registry(f"/schemas/ids/{schema_id}")["schema"])
        return self.schemas[schema_id]

    def _registry(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
        with urllib.request.urlopen(urllib.request.Request(self.registry_url + path, data, headers)) as response:
            return json.load(response)

    def committed(self, topic: str) -> Iterator[Any]:
        """Every record that a read_committed consumer can see now."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "test",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
            }
        )
        try:
            for partition in range(PARTITIONS):
                consumer.assign([TopicPartition(topic, partition, 0)])
                while True:
                    message = consumer.poll(10)
                    assert message is not None, f"no answer from {topic}"
                    if (error := message.error()) is not None:
                        assert error.code() == KafkaError._PARTITION_EOF, error
                        break
                    yield message
        finally:
            consumer.close()

    def decoded(self, topic: str, reader: str) -> list[tuple[Any, dict[str, Any]]]:
        """Key and value of each record, read with our schema."""
        ours = fastavro.parse_schema(json.loads(reader))
        records = []
        for message in self.committed(topic):
            magic, schema_id = struct.unpack(">bI", message.value()[:5])
            assert magic == 0
            writer = self.schema(schema_id)
            assert writer == json.loads(reader), f"{topic} is not written with our schema"
            data = io.BytesIO(message.value()[5:])
            value: Any = fastavro.schemaless_reader(data, fastavro.parse_schema(writer), ours)
            records.append((message.key(), value))
        return records


class Events:
    """What the test has sent, and where Kafka has put it."""

    def __init__(self, kafka: Kafka, seed: int) -> None:
        self.kafka = kafka
        self.random = random.Random(seed)
        self.schema = fastavro.parse_schema(json.loads(schemas.EVENT))
        self.schema_id = kafka.register("events.iot-value", schemas.EVENT)
        self.sent: dict[tuple[str, int, int], dict[str, Any]] = {}

    def send(self, topic: str, timestamp: int, partition: int, event_type: str | None = None) -> None:
        user = f"u{self.random.randrange(40)}" if self.random.random() < 0.9 else None
        event = {
            "event_id": str(uuid.UUID(int=self.random.getrandbits(128), version=4)),
            "event_type": event_type or self.random.choice(TYPES),
            "timestamp": timestamp,
            "user_id": user,
            "device_id": f"d{self.random.randrange(9)}",
            # Some without a value: counted, but no part of sum and mean.
            "value": round(self.random.uniform(-50, 50), 3) if self.random.random() < 0.9 else None,
            "source": "test",
            "payload": '{"a": [1, {"b": null}]}',
        }
        data = io.BytesIO(struct.pack(">bI", 0, self.schema_id))
        data.seek(5)
        fastavro.schemaless_writer(data, self.schema, event)

        def delivered(error: Any, message: Any) -> None:
            assert error is None, error
            self.sent[topic, message.partition(), message.offset()] = event

        key = str(event["user_id"] or event["device_id"])
        self.kafka.producer.produce(f"events.{topic}", data.getvalue(), key, partition=partition, on_delivery=delivered)
        self.kafka.producer.poll(0)

    def send_minutes(self, topics: tuple[str, ...], first: int, last: int, late_ratio: float, a_minute: int) -> None:
        """Events of these minutes (counted from the origin), up to 9 s out of order; some of them much later."""
        step = MINUTE_MS // a_minute
        for at in range(first * MINUTE_MS, last * MINUTE_MS, step):
            for topic in topics:
                timestamp = ORIGIN_MS + at + self.random.randrange(-9_000, 1)
                if self.random.random() < late_ratio:
                    timestamp -= self.random.randrange(MINUTE_MS, 3 * MINUTE_MS)
                self.send(topic, timestamp, self.random.randrange(PARTITIONS))
        self.kafka.producer.flush()

    def counts(self) -> Counter[Key]:
        return Counter(self.key(position) for position in self.sent)

    def key(self, position: tuple[str, int, int]) -> Key:
        event = self.sent[position]
        (window,) = TUMBLING_1M.windows(event["timestamp"])
        return position[0], event["event_type"], window.start_ms


class JobProcess:
    """The job, started as anyone would."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self.directory = directory
        (self.port,) = free_ports(1)
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("STREAMS_")},
            "JAVA_HOME": str(java_home()),
            "STREAMS_FLINK_DIR": str(directory / "flink"),
            "STREAMS_FLINK_JARS_DIR": str(JARS / "flink"),
            "STREAMS_FLINK_UI_PORT": str(self.port),
            "STREAMS_FLINK_IDLE_TIMEOUT_S": str(IDLE_S),
            "STREAMS_FLINK_CHECKPOINT_INTERVAL_S": "1",
            **environ,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "job.log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [VENV_FLINK / "bin" / "python", "-m", "flink.job"],
                cwd=ROOT,
                env=self.environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def jvms(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process is None or self.process.poll() is None, f"the job ended:\n{self.text()}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{self.text()}"
            time.sleep(1)  # each look reads whole topics

    def until_running(self) -> None:
        self.until(lambda: job_runs(self.port), "job RUNNING", START_S)

    def send(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            left = [*self.jvms(), psutil.Process(self.process.pid)]
            for process in left:
                process.kill()
            self.process.wait()
            psutil.wait_procs(left)


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    """A broker of our own: the job reads every topic `events.*`, also those of other tests."""
    with running(KafkaBroker) as server:
        yield server


@pytest.fixture
def kafka(broker: KafkaBroker, schema_registry: SchemaRegistry) -> Kafka:
    return Kafka(broker.bootstrap_servers, schema_registry.url)


@pytest.fixture
def job(tmp_path: Path, kafka: Kafka) -> Iterator[JobProcess]:
    process = JobProcess(
        tmp_path,
        {"STREAMS_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "STREAMS_REGISTRY_URL": kafka.registry_url},
    )
    try:
        yield process
    finally:
        process.end()


def late_positions(kafka: Kafka) -> list[tuple[str, int, int]]:
    return [
        (value["topic"], value["partition"], value["offset"]) for _, value in kafka.decoded("platform.late", LATE_EVENT)
    ]


def results(kafka: Kafka) -> dict[Key, dict[str, Any]]:
    """Every window result, each there once."""
    found: dict[Key, dict[str, Any]] = {}
    for raw_key, value in kafka.decoded("platform.aggregates", schemas.AGGREGATED_EVENT):
        start = round(value["window_start"].timestamp() * 1000)
        assert json.loads(raw_key) == {
            "topic": value["topic"],
            "event_type": value["event_type"],
            "window": value["window"],
            "window_start": value["window_start"].strftime("%Y-%m-%dT%H:%M:%S"),
        }
        key = (value["topic"], value["event_type"], start)
        assert key not in found, f"a second result of {key}: {found[key]} and {value}"
        found[key] = value
    return found


def produce_phases(job: JobProcess, kafka: Kafka, events: Events) -> None:
    """Random late events, a partition that runs ahead of silent ones, and a topic that comes while the job runs."""
    events.send_minutes(("iot", "clickstream"), 0, 6, late_ratio=0.05, a_minute=200)
    job.until_running()
    job.until(lambda: bool(results(kafka)), "the first window")

    # What silent partitions bring when one has gone ahead is too late, and told so.
    events.send("iot", ORIGIN_MS + 8 * MINUTE_MS, 0)
    kafka.producer.flush()
    minute_5 = ORIGIN_MS + 5 * MINUTE_MS
    job.until(lambda: any(start >= minute_5 for _, _, start in results(kafka)), "silence overcome")
    before = set(events.sent)
    for partition in range(PARTITIONS):
        for topic in ("iot", "clickstream"):
            # Minute 6 is over for the one that is ahead only.
            for minute in (0, 3, 6):
                events.send(topic, ORIGIN_MS + minute * MINUTE_MS + 1_000, partition, "payment")
    kafka.producer.flush()
    surely_late = set(events.sent) - before
    job.until(lambda: surely_late <= set(late_positions(kafka)), "late events in platform.late")

    # A topic that is new is found, and read from its beginning.
    kafka.create("events.new")
    events.send_minutes(("new",), 9, 11, late_ratio=0, a_minute=200)
    job.until(lambda: any(topic == "new" for topic, _, _ in results(kafka)), "windows of the new topic")


def kill_and_restart(job: JobProcess, events: Events) -> None:
    """A crash between two checkpoints, with open windows and transactions; events go on meanwhile."""
    topics = ("iot", "clickstream", "new")
    events.send_minutes(topics, 11, 13, late_ratio=0, a_minute=200)
    jvms = job.jvms()
    assert job.send(signal.SIGKILL) == -signal.SIGKILL
    _, alive = psutil.wait_procs(jvms, timeout=15)
    assert not alive, "the JVM outlived its Python"
    events.send_minutes(topics, 13, 14, late_ratio=0, a_minute=200)
    job.start()
    job.until_running()
    assert "from checkpoint" in job.text()


def close_windows(job: JobProcess, kafka: Kafka, events: Events) -> int:
    """An event far ahead on each partition closes every window before it. Its time."""
    last = ORIGIN_MS + 20 * MINUTE_MS
    for topic in ("iot", "clickstream", "new"):
        for partition in range(PARTITIONS):
            events.send(topic, last, partition)
    kafka.producer.flush()
    expected = sum(count for key, count in events.counts().items() if key[2] < last)

    def accounted() -> bool:
        return sum(value["count"] for value in results(kafka).values()) + len(late_positions(kafka)) >= expected

    job.until(accounted, "all windows closed")
    return last


def assert_exact(kafka: Kafka, events: Events, last: int) -> None:
    """Each event before `last` is in its window's result or in platform.late, once; the results are the reference's."""
    late = late_positions(kafka)
    assert len(late) == len(set(late)), "a late event came twice"
    late_counts = Counter(events.key(position) for position in late)
    reference: dict[Key, Accumulator] = {}
    for position in events.sent.keys() - set(late):
        key, event = events.key(position), events.sent[position]
        if key[2] < last:
            one = Accumulator.of(event["value"], event["user_id"])
            reference[key] = reference.get(key, Accumulator()).merge(one)
    found = results(kafka)
    counts = {key: result["count"] for key, result in found.items()}
    assert counts == {
        key: count - late_counts[key]
        for key, count in events.counts().items()
        if key[2] < last and count > late_counts[key]
    }
    for key, result in found.items():
        wanted = reference[key]
        assert result["sum"] == pytest.approx(wanted.sum, abs=1e-6), key
        assert result["avg"] == pytest.approx(wanted.avg, abs=1e-9), key
        assert (result["min"], result["max"]) == (wanted.min, wanted.max), key
        assert (result["distinct_users"], result["revision"]) == (wanted.distinct_users, 0), key
        assert result["window"] == "tumbling-1m"
        assert round(result["window_end"].timestamp() * 1000) == key[2] + MINUTE_MS
        assert abs(result["emitted_at"].timestamp() - time.time()) < 600


def assert_late_records(kafka: Kafka, events: Events) -> None:
    """A late record says what the event was, where it is, and which windows miss it."""
    for raw_key, value in kafka.decoded("platform.late", LATE_EVENT):
        event = events.sent[value["topic"], value["partition"], value["offset"]]
        assert raw_key.decode() == (event["user_id"] or event["device_id"])
        for name in ("event_id", "event_type", "user_id", "device_id", "value", "source"):
            assert value[name] == event[name]
        assert round(value["timestamp"].timestamp() * 1000) == event["timestamp"]
        (window,) = TUMBLING_1M.windows(event["timestamp"])
        assert window.is_closed(round(value["watermark"].timestamp() * 1000))
        assert value["windows"] == ["tumbling-1m"]


def test_every_event_is_in_one_window_or_late_also_through_a_kill(job: JobProcess, kafka: Kafka) -> None:
    aggregates_id = kafka.register("platform.aggregates-value", schemas.AGGREGATED_EVENT)
    # It starts before what it needs, waits, and says for what.
    job.start()
    job.until(
        lambda: "waiting for the Kafka topics platform.aggregates, platform.late" in job.text(), "waiting", START_S
    )
    kafka.create("platform.aggregates", "platform.late", "events.iot", "events.clickstream")
    events = Events(kafka, seed=7)

    produce_phases(job, kafka, events)
    kill_and_restart(job, events)
    last = close_windows(job, kafka, events)

    assert_exact(kafka, events, last)
    assert_late_records(kafka, events)
    # The job and the worker register the very same schema.
    assert kafka.versions("platform.aggregates-value") == [1]
    assert kafka.register("platform.aggregates-value", schemas.AGGREGATED_EVENT) == aggregates_id

    jvms = job.jvms()
    began = time.monotonic()
    assert job.send(signal.SIGTERM) == 0
    assert time.monotonic() - began < 20
    assert not any(jvm.is_running() for jvm in jvms)
    assert "Traceback" not in job.text()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("STREAMS_FLINK_JARS_DIR", "/nowhere", "flink-sql-connector-kafka"),
        ("STREAMS_FLINK_PARALLELISM", "0", "STREAMS_FLINK_PARALLELISM"),
        ("JAVA_HOME", "", "JAVA_HOME"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_2(tmp_path: Path, variable: str, value: str, said: str) -> None:
    job = JobProcess(tmp_path, {variable: value})
    job.start()
    assert job.process is not None
    assert job.process.wait(20) == 2
    (line,) = job.text().splitlines()
    assert said in line
