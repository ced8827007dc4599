"""`faust -A streams audit` on a real broker: what is in the topics is written here, record by record."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncIterator

import fastavro
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from streams import schemas
from streams.codecs import AvroCodec, frame, parse
from streams.domain.aggregates import AggregatedEvent
from streams.domain.dead_letters import DeadLetter
from streams.domain.envelope import Event
from streams.domain.headers import DLQ_ORIGIN, EVENT_TOPIC, INGRESS_ORIGIN, event_headers
from streams.domain.naming import AGGREGATES, DLQ, INGRESS, INVALID, LATE, event_topic
from streams.domain.windows import MINUTE_MS, TUMBLING_1M
from streams.kafka.admin import TopicAdmin
from streams.registry import SchemaRegistry
from streams.settings import Settings
from streams.topics import topic_specs
from tests.platform import BIN, environment
from tests.stack import free_ports

pytestmark = pytest.mark.timeout(180)

NOON = int(time.time() * 1_000) // 3_600_000 * 3_600_000 - 3_600_000
"""A full hour: the first minute of event time here."""
LATE_EVENT = """{"type": "record", "name": "LateEvent", "namespace": "streams", "fields": [
    {"name": "event_id", "type": "string"}, {"name": "topic", "type": "string"},
    {"name": "partition", "type": "int"}, {"name": "offset", "type": "long"},
    {"name": "timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "watermark", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "windows", "type": {"type": "array", "items": "string"}}]}"""


class Platform:
    """The topics of a platform without its processes."""

    def __init__(self, broker, registry) -> None:
        self.values = {
            "kafka_bootstrap_servers": broker.bootstrap_servers,
            "registry_url": registry.url,
            "kafka_partitions": 2,
            "event_topics": "iot,clickstream",
            "app_id": "audited",
        }
        self.settings = Settings.model_validate(self.values)
        self.codec = AvroCodec()
        self.ids: dict[str, int] = {}
        self.producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
        self.started: list[subprocess.Popen[str]] = []

    async def prepare(self) -> None:
        await TopicAdmin(self.settings).create(topic_specs(self.settings))
        registry = SchemaRegistry(self.settings)
        for topic, schema in {
            "event": schemas.EVENT,
            "aggregate": schemas.AGGREGATED_EVENT,
            "letter": schemas.DLQ_MESSAGE,
            "late": LATE_EVENT,
        }.items():
            self.ids[topic] = await registry.register(f"{uuid.uuid4().hex}-value", schema)

    def put(self, topic, value, headers=(), *, partition=0, at=None, producer=None) -> str:
        """Write one record; its place, `partition@offset`."""
        done = []
        producer = producer or self.producer
        producer.produce(
            topic,
            value,
            key=uuid.uuid4().bytes,  # a compacted topic takes none without
            partition=partition,
            headers=list(headers),
            timestamp=NOON if at is None else at,
            on_delivery=lambda error, message: done.append((error, message)),
        )
        assert producer.flush(30) == 0
        [(error, message)] = done
        assert error is None
        return f"{message.partition()}@{message.offset()}"

    def ingress(self, topic="iot", **options) -> str:
        return self.put(INGRESS, b"{}", [(EVENT_TOPIC, topic.encode())], **options)

    def event(self, minute=0, *, origin=None, redriven=None, topic="iot", event_id=None, **options) -> str:
        event = Event(
            event_id=event_id or str(uuid.uuid4()), event_type="a", timestamp=NOON + minute * MINUTE_MS + 7, user_id="u"
        )
        headers = event_headers(event, "application/json", NOON, None)
        if origin:
            headers += ((INGRESS_ORIGIN, origin.encode()),)
        if redriven:
            headers += ((DLQ_ORIGIN, redriven.encode()), ("dlq-replays", b"1"))
        return self.put(event_topic(topic), self.codec.encode_event(event, self.ids["event"]), headers, **options)

    def letter(self, origin: str, reason="invalid_event", topic=b"iot", **options) -> str:
        partition, _, offset = origin.partition("@")
        letter = DeadLetter(
            reason=reason,
            detail="",
            source_topic=INGRESS,
            source_partition=int(partition),
            source_offset=int(offset),
            attempts=1,
            replays=0,
            failed_at=NOON,
            key=None,
            value=b"{}",
            headers=((EVENT_TOPIC, topic),),
        )
        value = self.codec.encode_dead_letter(letter, self.ids["letter"])
        return self.put(DLQ, value, letter.kafka_headers(), **options)

    def window(self, minute: int, count: int, *, topic="iot", revision=0, **options) -> str:
        start = NOON + minute * MINUTE_MS
        result = AggregatedEvent(
            topic, "a", TUMBLING_1M.name, start, start + MINUTE_MS, count, None, None, None, None, 0, revision, start
        )
        return self.put(AGGREGATES, self.codec.encode_aggregate(result, self.ids["aggregate"]), **options)

    def late(self, place: str, minute: int, watermark: int, *, topic="iot") -> str:
        partition, _, offset = place.partition("@")
        body = io.BytesIO()
        document = {
            "event_id": "x",
            "topic": topic,
            "partition": int(partition),
            "offset": int(offset),
            "timestamp": NOON + minute * MINUTE_MS + 7,
            "watermark": NOON + watermark * MINUTE_MS,
            "windows": [TUMBLING_1M.name],
        }
        fastavro.schemaless_writer(body, parse(LATE_EVENT), document)
        return self.put(LATE, frame(self.ids["late"], body.getvalue()))

    def transaction(self) -> Producer:
        """A producer within a transaction of its own."""
        producer = Producer(
            {
                "bootstrap.servers": self.settings.kafka_bootstrap_servers,
                "transactional.id": uuid.uuid4().hex,
                "transaction.timeout.ms": 60_000,
                "log_level": 0,
            }
        )
        producer.init_transactions(30)
        producer.begin_transaction()
        return producer

    def commit(self, topic: str, *offsets: int, group="audited") -> None:
        """Commit an offset in each partition."""
        consumer = Consumer(
            {"bootstrap.servers": self.settings.kafka_bootstrap_servers, "group.id": group, "log_level": 0}
        )
        try:
            consumer.commit(
                offsets=[TopicPartition(topic, number, offset) for number, offset in enumerate(offsets)],
                asynchronous=False,
            )
        finally:
            consumer.close()

    def flink_has_read_all(self) -> None:
        for topic in ("iot", "clickstream"):
            self.commit(event_topic(topic), 1_000, 1_000, group="audited-flink")

    def start(self, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(BIN / "faust"), "-A", "streams", "audit", *options],
            env=environment(self.values),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def audit(self, *options: str) -> tuple[int, str]:
        """Exit code and output; nothing may be on stderr."""
        process = self.start(*options)
        out, err = process.communicate(timeout=90)
        assert err == "", err
        return process.returncode, out

    def document(self, *options: str) -> tuple[int, dict]:
        code, out = self.audit("--json", *options)
        return code, json.loads(out)


@pytest.fixture
async def platform(own_kafka_broker, schema_registry) -> AsyncIterator[Platform]:
    platform = Platform(own_kafka_broker, schema_registry)
    await platform.prepare()
    yield platform
    for process in platform.started:
        process.kill()  # does nothing when it has ended


def a_sound_history(platform: Platform) -> None:
    """Some of everything that may be, and nothing that may not."""
    # Holes before, between and behind: aborted transactions, and the markers of committed ones.
    for commit in (False, True):
        transaction = platform.transaction()
        for partition in (0, 1):
            place = platform.ingress(partition=partition, producer=transaction)
            if commit:
                platform.event(origin=place, partition=partition)
        if commit:
            transaction.commit_transaction()
        else:
            platform.event(producer=transaction)
            platform.event(origin="0@0", producer=transaction)
            platform.letter("0@0", producer=transaction)
            platform.window(0, 100, producer=transaction)
            transaction.abort_transaction()
    dead = platform.letter(platform.ingress("clickstream", partition=1), topic=b"clickstream")
    platform.event(topic="clickstream", redriven=dead)
    platform.letter(platform.ingress(topic="no-such"), "unknown_topic", topic=b"no-such", partition=1)
    same = str(uuid.uuid4())
    for _ in range(3):
        platform.event(event_id=same)  # over HTTP; two are duplicates
    platform.event(1)
    late = platform.event(partition=1)
    platform.late(late, 0, 2)
    platform.event(5)  # its window is open
    platform.ingress(partition=0)  # nobody has come to it yet
    end = int(platform.ingress(partition=0).partition("@")[2])
    platform.commit(INGRESS, end - 1, 1_000)
    platform.window(0, 5, revision=1)
    platform.window(0, 4)  # an older one, whenever it is written
    platform.window(0, 1, topic="clickstream")
    platform.window(1, 1)
    platform.flink_has_read_all()


async def test_a_sound_history_balances(platform):
    a_sound_history(platform)

    code, found = platform.document()

    assert found["differences"] == []
    assert (code, found["balanced"]) == (0, True)
    ends = {name: found["ingress"][name] for name in ("records", "ended", "lost", "twice", "stray", "pending")}
    assert ends == {"records": 6, "ended": 4, "lost": 0, "twice": 0, "stray": 0, "pending": 2}
    iot = found["topics"]["iot"]
    assert {name: iot[name] for name in ("accepted_http", "accepted_ingress", "events", "duplicates", "late")} == {
        "accepted_http": 6,
        "accepted_ingress": 4,
        "events": 8,
        "duplicates": 2,
        "late": 1,
    }
    clickstream = found["topics"]["clickstream"]
    assert (clickstream["accepted_http"], clickstream["accepted_ingress"], clickstream["redriven"]) == (0, 1, 1)
    assert found["topics"]["clickstream"]["dlq"] == {"invalid_event": 1}
    assert found["topics"]["-"]["dlq"] == {"unknown_topic": 1}
    assert found["totals"]["dlq"] == {"invalid_event": 1, "unknown_topic": 1}
    states = {(m["topic"], (m["minute"] - NOON) // MINUTE_MS): m["state"] for m in found["minutes"]}
    assert states == {
        ("-", 0): None,
        ("clickstream", 0): "balanced",
        ("iot", 0): "balanced",
        ("iot", 1): "balanced",
        ("iot", 5): "open",
    }
    [zero] = [m for m in found["minutes"] if (m["topic"], m["minute"]) == ("iot", NOON)]
    assert (zero["events"], zero["aggregated"], zero["late"], zero["duplicates"]) == (6, 5, 1, 2)

    code, out = platform.audit()
    assert code == 0
    assert out.splitlines()[-1] == "the ledger balances"

    code, found = platform.document("--no-duplicates")
    assert code == 1
    assert [(d["kind"], d["topic"], d["count"], d["minute"]) for d in found["differences"]] == [
        ("duplicates", "iot", 2, NOON)
    ]


async def test_each_damage_is_told_with_its_place(platform):
    a_sound_history(platform)
    lost = platform.ingress(partition=1)
    twice = platform.ingress(partition=1)
    platform.event(2, origin=twice)
    platform.letter(twice)
    platform.event(2, origin="0@0", partition=1)  # of an aborted transaction
    platform.event(3)
    platform.window(3, 0)
    platform.window(2, 3)
    broken = platform.put(event_topic("iot"), b"no Avro")
    platform.flink_has_read_all()

    code, out = platform.audit("--json")
    found = json.loads(out)

    assert code == 1
    assert not found["balanced"]
    told = {
        d["kind"]: (d["topic"], d["count"], d["minute"], d["partition"], d["samples"]) for d in found["differences"]
    }
    assert len(told) == len(found["differences"])

    def at(topic: str, place: str) -> str:
        partition, _, offset = place.partition("@")
        return f"{topic}[{partition}]@{offset}"

    assert told == {
        "lost": (INGRESS, 1, None, 1, [at(INGRESS, lost)]),
        "twice": (INGRESS, 1, None, 1, [at(INGRESS, twice)]),
        "stray": (INGRESS, 1, None, 0, [f"{INGRESS}[0]@0"]),
        "surplus": ("iot", 1, NOON + 2 * MINUTE_MS, None, []),
        "missing": ("iot", 1, NOON + 3 * MINUTE_MS, None, []),
        "unreadable": ("iot", 1, None, None, [at(event_topic("iot"), broken)]),
    }

    code, out = platform.audit()
    assert code == 1
    lines = out.splitlines()
    told_from = lines.index("the ledger does not balance:")
    assert len(lines[told_from + 1 :]) == 6
    assert any(at(INGRESS, lost) in line for line in lines[told_from:])

    # What Flink could not read is accounted for once it is among the invalid ones.
    platform.put(INVALID, b"no Avro", [("source-topic", b"events.iot")])
    _, found = platform.document()
    assert "unreadable" not in {d["kind"] for d in found["differences"]}


async def test_what_flink_has_not_confirmed_is_pending(platform):
    platform.event(0)
    platform.event(0)
    platform.window(0, 1)
    platform.commit(event_topic("iot"), 1, group="audited-flink")

    code, found = platform.document()
    assert code == 0
    assert [m["state"] for m in found["minutes"]] == ["pending"]

    platform.commit(event_topic("iot"), 2, group="audited-flink")
    code, found = platform.document()
    assert code == 1
    assert [d["kind"] for d in found["differences"]] == ["missing"]


async def test_windows_may_hold_each_event_id_once(platform):
    same = str(uuid.uuid4())
    platform.event(0, event_id=same)
    platform.event(0, event_id=same)
    platform.window(0, 1)
    platform.flink_has_read_all()

    assert [d["kind"] for d in platform.document()[1]["differences"]] == ["missing"]
    code, found = platform.document("--distinct")
    assert (code, found["differences"]) == (0, [])


async def test_a_range_is_of_whole_minutes_and_finds_ends_beyond_it(platform):
    hour = 60 * MINUTE_MS
    early, late = NOON - 5 * hour, NOON - hour
    platform.ingress(at=early)  # lost, long before the range
    edge = platform.ingress(at=NOON + MINUTE_MS - 100)
    platform.event(0, origin=edge, at=NOON + MINUTE_MS + 100)
    platform.event(-60, at=late)  # in no window
    platform.event(1, at=NOON + MINUTE_MS)  # in no window
    platform.ingress(at=NOON + MINUTE_MS + 200)  # lost
    platform.window(0, 1)
    platform.window(2, 0)
    platform.commit(INGRESS, 1_000, 0)
    platform.flink_has_read_all()

    code, found = platform.document("--from", str(NOON + 5), "--to", str(NOON + MINUTE_MS - 1))

    assert found["differences"] == []
    assert code == 0
    assert (found["from"], found["to"]) == (NOON, NOON + MINUTE_MS)
    assert (found["ingress"]["records"], found["ingress"]["ended"]) == (1, 1)
    assert found["totals"]["events"] == 1

    kinds = [d["kind"] for d in platform.document("--from", str(NOON))[1]["differences"]]
    assert kinds == ["lost", "missing"]
    kinds = [d["kind"] for d in platform.document()[1]["differences"]]
    assert kinds == ["lost", "missing", "missing"]


async def test_an_open_transaction_is_waited_for(platform):
    place = platform.ingress()
    platform.commit(INGRESS, 1_000, 1_000)
    transaction = platform.transaction()
    platform.event(0, origin=place, producer=transaction)

    code, out = platform.audit("--wait", "0.5s")
    assert code == 1
    assert "held_back: events.iot: an open transaction holds back events.iot[0]@0" in out

    process = platform.start()
    await asyncio.sleep(6)
    assert process.poll() is None
    transaction.commit_transaction()
    out, err = process.communicate(timeout=60)
    assert out.splitlines()[-1] == "the ledger balances"
    assert process.returncode == 0
    assert "open transactions in 1 partitions" in err.splitlines()[0]


async def test_ctrl_c_ends_it_without_a_trace(platform):
    transaction = platform.transaction()
    platform.event(0, producer=transaction)
    process = platform.start()
    assert process.stderr is not None
    assert "open transactions" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    transaction.abort_transaction()
    assert (process.returncode, out) == (130, "")
    assert [line for line in err.splitlines() if "open transactions" not in line] == ["interrupted"]


@pytest.fixture
def nowhere() -> dict[str, str]:
    [port] = free_ports(1)
    return environment({"kafka_bootstrap_servers": f"127.0.0.1:{port}"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "yesterday"], "--from: it takes RFC 3339"),
        (["--from", "1m", "--to", "2m"], "--from: it takes a time before that of --to"),
        (["--wait", "long"], "--wait: it takes a time"),
        ([], "cannot reach Kafka"),
    ],
)
def test_mistakes_are_told_in_a_line(nowhere, options, message):
    done = subprocess.run(
        [str(BIN / "faust"), "-A", "streams", "audit", *options],
        env=nowhere,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(message)
