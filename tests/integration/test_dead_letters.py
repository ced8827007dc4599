"""Dead letters on a real broker: browsed, and redriven exactly once by operators who fence and kill each other."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer

from deploy.local.paths import ROOT
from streams import schemas
from streams.codecs import AvroCodec, Format
from streams.dead_letters import LetterStore
from streams.domain.dead_letters import DeadLetter
from streams.domain.errors import RedriveSupersededError
from streams.domain.headers import DLQ_ORIGIN, EVENT_ID, header
from streams.domain.naming import DLQ, INGRESS
from streams.domain.partitioning import partition_for
from streams.domain.redrive import LetterFilter, Place
from streams.domain.redrive_log import RunState
from streams.intake import ingress_event_id
from streams.kafka.admin import TopicAdmin
from streams.kafka.consumer import LogReader, Record
from streams.publishing import Publisher, TopicCatalog, now_ms
from streams.redriving import Intake, Order, Redrive, Redriver, redrive_writer
from streams.registry import SchemaLoader, SchemaRegistry
from streams.settings import Settings
from streams.topics import event_topic_spec, topic_specs
from tests.platform import BIN, environment, eventually, read_topic, running_worker
from tests.stack import KafkaBroker, running


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    """A broker for this file: nobody else's letters are in its queue."""
    with running(KafkaBroker) as server:
        yield server


@pytest.fixture
def values(broker, schema_registry) -> dict[str, Any]:
    """Settings of one platform, as every operator must have them."""
    return {
        "kafka_bootstrap_servers": broker.bootstrap_servers,
        "registry_url": schema_registry.url,
        "app_id": "redrives",
    }


class Platform:
    """What an operator stands on, and a topic of its own for the events of one test."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.environment = environment(values)
        self.settings = Settings(**values)
        self.topic = f"t{secrets.token_hex(4)}"
        self.codec = AvroCodec()
        self.registry = SchemaRegistry(self.settings)
        self.loader = SchemaLoader(self.registry, self.codec)
        self.publisher = Publisher(self.settings, self.codec, self.loader)
        self.admin = TopicAdmin(self.settings)
        self.catalog = TopicCatalog(self.admin)
        self.store = LetterStore(lambda: LogReader(self.settings, client_id="test"))
        self.filter = LetterFilter(event_topic=self.topic)
        self.letter_schema = 0

    async def start(self) -> None:
        await self.admin.create([*topic_specs(self.settings), event_topic_spec(self.settings, self.topic)])
        self.publisher.use_schema(await self._register("events.iot", schemas.EVENT))
        self.letter_schema = await self._register(DLQ, schemas.DLQ_MESSAGE)

    async def _register(self, topic: str, schema: str) -> int:
        schema_id = await self.registry.register(f"{topic}-value", schema)
        self.codec.add_schema(schema_id, schema)
        return schema_id

    def letter(self, offset: int, value: bytes, **fields: Any) -> DeadLetter:
        kept: dict[str, Any] = {
            "reason": "invalid_event", "detail": "as it was then", "source_topic": INGRESS, "source_partition": 0,
            "source_offset": offset, "attempts": 1, "replays": 0, "failed_at": now_ms(), "key": b"k", "value": value,
            "headers": (("event-topic", self.topic.encode()),),
        }  # fmt: skip
        return DeadLetter(**kept | fields)

    async def bury(self, *letters: DeadLetter) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.settings.kafka_bootstrap_servers, acks="all")
        await producer.start()
        for number, letter in enumerate(letters):
            value = self.codec.encode_dead_letter(letter, self.letter_schema)
            await producer.send(DLQ, value, key=b"%d" % number, headers=list(letter.kafka_headers()))
        await producer.stop()

    def redriver(self) -> Redriver:
        intake = Intake(self.codec, self.loader, self.catalog, self.publisher)
        return Redriver(
            self.store,
            lambda: redrive_writer(self.settings),
            intake,
            policy=self.settings.retry_policy(),
            max_replays=5,
        )

    def order(self, **fields: Any) -> Order:
        asked: dict[str, Any] = {"run_id": str(uuid.uuid4()), "who": "me", "started_at": now_ms(), "rate": 1e6}
        return Order(**asked | {"filter": self.filter} | fields)

    async def origins(self) -> Counter[str]:
        """How often each letter is in the event topic, for a reader of committed records."""
        records = await read_topic(self.settings, f"events.{self.topic}")
        return Counter(header(record.headers, DLQ_ORIGIN) or "" for record in records)

    async def valid_letters(self) -> set[str]:
        """The letters of this test that are valid."""
        found = set()
        async for records in self.store.letters(self.filter):
            for record in records:
                letter = self.codec.decode_dead_letter(record.value or b"")
                if self.filter.matches(Place(0, 0), letter) and b"valid-event" in (letter.value or b""):
                    found.add(f"{record.partition}@{record.offset}")
        return found

    def command(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(BIN / "faust"), "-A", "streams", "dlq", *arguments],
            cwd=ROOT, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # fmt: skip

    async def output(self, *arguments: str, code: int = 0) -> str:
        """What a command prints."""
        process = self.command(*arguments)
        out, err = await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == code, out + err
        assert "Traceback" not in err
        return out if code == 0 else err


@pytest.fixture
async def platform(values) -> Platform:
    platform = Platform(values)
    await platform.start()
    return platform


def valid(number: int) -> bytes:
    return json.dumps(
        {"event_type": "valid-event", "timestamp": now_ms(), "user_id": f"user-{number % 17}", "value": float(number)}
    ).encode()


@asynccontextmanager
async def going(run: Redrive) -> AsyncIterator[asyncio.Task[Any]]:
    task = asyncio.create_task(run.work())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_only_what_is_valid_today_is_redriven_and_everything_is_accounted_for(platform):
    event = await platform.publisher.read(valid(14), Format.JSON)
    framed = platform.publisher.record(f"events.{platform.topic}", event, Format.JSON, None).value or b""
    own = f"events.{platform.topic}"
    await platform.bury(
        *[platform.letter(n, valid(n)) for n in range(10)],
        platform.letter(10, b"not json at all"),
        platform.letter(11, b'{"event_type": 7}'),
        platform.letter(12, valid(12), replays=5),
        platform.letter(13, valid(13), reason="duplicate_event"),
        platform.letter(14, framed, source_topic=own, headers=(), replays=2),
        platform.letter(15, b"garbage", source_topic=own, headers=()),
    )
    run = platform.redriver().begin(platform.order())
    tally = await run.work()
    assert (tally.redriven, tally.already_redriven) == (11, 0)
    assert tally.invalid == {"malformed_event": 2, "invalid_event": 1}
    assert tally.refused == {"loop_guard": 1, "duplicate_event": 1}
    records = await read_topic(platform.settings, own)
    assert Counter(header(r.headers, "dlq-replays") for r in records) == {"1": 10, "3": 1}
    assert {r.partition for r in records} > {records[0].partition}
    for record in records:
        assert record.partition == partition_for(record.key or b"", platform.settings.kafka_partitions)
    [again] = [r for r in records if header(r.headers, "dlq-replays") == "3"]
    assert platform.codec.decode_event(again.value or b"") == event
    await platform.bury(platform.letter(16, valid(16), source_topic="platform.aggregates", headers=()))
    by_name = LetterFilter(reasons=frozenset({"duplicate_event"}), event_topic=platform.topic)
    assert (await platform.redriver().begin(platform.order(filter=by_name)).work()).redriven == 1
    elsewhere = LetterFilter(source_topic="platform.aggregates")
    assert (await platform.redriver().look(elsewhere)).totals.refused == {"source": 1}


async def test_two_operators_at_once_redrive_each_letter_once_and_the_first_ends(platform):
    await platform.bury(*[platform.letter(n, valid(n)) for n in range(300)], platform.letter(300, b"{}"))
    first = platform.redriver().begin(platform.order(rate=40.0))
    second = platform.redriver().begin(platform.order())
    async with going(first) as loser:
        await eventually(lambda: _is_above(first, 40))
        tally = await second.work()
        with pytest.raises(RedriveSupersededError):
            await loser
    log = await platform.store.redrive_log()
    one, two = log.runs[first.order.run_id], log.runs[second.order.run_id]
    assert (one.state, two.state) == (RunState.SUPERSEDED, RunState.COMPLETED)
    assert one.redriven + two.redriven == 300
    assert (tally.redriven, tally.already_redriven, tally.invalid) == (two.redriven, one.redriven, {"invalid_event": 1})
    origins = await platform.origins()
    assert set(origins) == await platform.valid_letters()
    assert set(origins.values()) == {1}
    assert {str(place) for run in (first, second) for place in log.letters_of(run.order.run_id)} == set(origins)


async def _is_above(run: Redrive, redriven: int) -> bool:
    return run.tally.redriven >= redriven


async def test_many_operators_who_end_each_other_redrive_each_letter_once(platform):
    await platform.bury(*[platform.letter(n, valid(n)) for n in range(200)])
    tasks = []
    for _ in range(6):
        tasks.append(asyncio.create_task(platform.redriver().begin(platform.order(rate=100.0)).work()))
        await asyncio.sleep(0.4)
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, RedriveSupersededError) for end in ends if isinstance(end, Exception))
    last = await platform.redriver().begin(platform.order()).work()
    assert last.redriven + last.already_redriven == 200
    origins = await platform.origins()
    assert (len(origins), set(origins.values())) == (200, {1})


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 0.4])
async def test_a_run_that_is_killed_is_taken_up_by_the_next_without_a_letter_twice(platform, after_s):
    await platform.bury(*[platform.letter(n, valid(n)) for n in range(400)], platform.letter(400, b"{}"))
    killed = platform.command("redrive", "--event-topic", platform.topic, "--yes", "--rate", "150")

    async def has_begun() -> str | None:
        log = await platform.store.redrive_log()
        return next((r.id for r in log.newest_first() if r.filter == platform.filter and r.transactions), None)

    run_id = await eventually(has_begun)
    await asyncio.sleep(after_s)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = await platform.origins()
    assert 0 < sum(before.values()) < 400
    done = json.loads(await platform.output("redrive", "--event-topic", platform.topic, "--yes", "--json"))
    log = await platform.store.redrive_log()
    dead, new = log.runs[run_id], log.runs[done["run_id"]]
    assert (dead.state, new.state) == (RunState.SUPERSEDED, RunState.COMPLETED)
    assert dead.redriven + new.redriven == 400
    assert done["totals"] == {
        "redriven": new.redriven, "already_redriven": dead.redriven, "invalid": {"invalid_event": 1}, "refused": {},
    }  # fmt: skip
    origins = await platform.origins()
    assert set(origins) == await platform.valid_letters()
    assert (len(origins), set(origins.values())) == (400, {1})


async def test_ctrl_c_finishes_the_transaction_under_way_and_says_what_was_done(platform):
    await platform.bury(*[platform.letter(n, valid(n)) for n in range(200)])
    process = platform.command("redrive", "--event-topic", platform.topic, "--yes", "--rate", "30", "--json")

    async def some() -> bool:
        return sum((await platform.origins()).values()) > 0

    await eventually(some)
    os.kill(process.pid, signal.SIGINT)
    out, err = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 0, err
    assert "finishing the transaction under way" in err
    assert "Traceback" not in err
    said = json.loads(out)
    run = (await platform.store.redrive_log()).runs[said["run_id"]]
    assert (run.state, run.redriven) == (RunState.STOPPED, said["totals"]["redriven"])
    assert 0 < run.redriven == sum((await platform.origins()).values()) < 200


@pytest.mark.slow
async def test_the_command_lists_shows_and_redrives(platform):
    await platform.bury(
        *[platform.letter(n, valid(n)) for n in range(5)], platform.letter(5, b"\xff\x00", reason="malformed_event")
    )
    listed = json.loads(await platform.output("list", "--event-topic", platform.topic, "--json", "--limit", "4"))
    rest = json.loads(
        await platform.output("list", "--event-topic", platform.topic, "--json", "--before", listed["before"])
    )
    letters = listed["letters"] + rest["letters"]
    assert sorted(letter["source_offset"] for letter in letters) == list(range(6))
    places = [f"{letter['partition']}@{letter['offset']}" for letter in letters]
    bad = next(p for p, letter in zip(places, letters, strict=True) if letter["reason"] == "malformed_event")
    shown = json.loads(await platform.output("show", bad, "--json"))
    assert (shown["raw"]["value"], shown["decoded"]["error"]) == ("/wA=", "malformed_event")
    assert "value (base64): /wA=" in await platform.output("show", bad)
    assert "malformed_event" in await platform.output(
        "list", "--reason", "malformed_event", "--event-topic", platform.topic
    )
    assert "there is no dead letter" in await platform.output("show", "0@999999", code=1)
    dry = await platform.output("redrive", "--event-topic", platform.topic)
    assert "5 redriven, 0 already redriven, 1 still invalid (malformed_event 1)" in dry
    assert not await platform.origins()
    one = next(p for p in places if p != bad)
    assert ": 1 redriven" in await platform.output("redrive", "--letter", one, "--yes")
    assert ": 2 redriven" in await platform.output("redrive", "--event-topic", platform.topic, "--limit", "2", "--yes")
    done = json.loads(await platform.output("redrive", "--event-topic", platform.topic, "--yes", "--json"))
    assert done["totals"] == {
        "redriven": 2, "already_redriven": 3, "invalid": {"malformed_event": 1}, "refused": {},
    }  # fmt: skip
    assert (await platform.store.redrive_log()).runs[done["run_id"]].who
    assert set((await platform.origins()).values()) == {1}


class Client:
    """The REST paths, as one who has the scopes for them uses them."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str, **query: Any) -> Any:
        async with self._session.get(f"/api/v1/dlq{path}", params=query) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def redrive(self, topic: str, status: int, **body: Any) -> Any:
        body = {"filter": {"event_topic": topic}} | body
        async with self._session.post("/api/v1/dlq/redrive", json=body) as response:
            assert response.status == status, await response.text()
            answer = await response.json()
            if status == 202:
                assert response.headers["Location"] == f"/api/v1/dlq/redrives/{answer['run']['id']}"
            return answer


@pytest.mark.slow
async def test_by_rest_from_a_worker_s_own_dead_letters_to_its_event_topics(values, platform):
    """Events for a topic that is made only later: found, looked at, and redriven when it exists."""
    late = f"late-{secrets.token_hex(3)}"
    with running_worker(**values) as worker:
        async with worker.client("dlq:read", "dlq:admin") as session:
            client = Client(session)
            await to_ingress(values, late)

            async def buried() -> Any:
                letters = (await client.get("", event_topic=late, limit="100"))["letters"]
                return letters if len(letters) == 12 else None

            letters = await eventually(buried)
            assert {letter["reason"] for letter in letters} == {"unknown_topic"}
            first = await client.get("", event_topic=late, limit="5")
            second = await client.get("", event_topic=late, limit="100", before=first["before"])
            assert first["letters"] + second["letters"] == letters
            dry = await client.redrive(late, 200)
            assert dry["totals"]["invalid"] == {"unknown_topic": 12}

            await platform.admin.create([event_topic_spec(platform.settings, late)])
            await asyncio.sleep(5.5)  # a worker asks for topics that it does not know so seldom
            dry = await client.redrive(late, 200)
            assert (dry["totals"]["redriven"], dry["totals"]["invalid"]) == (9, {"malformed_event": 3})
            assert dry["complete"]
            assert len(await read_topic(platform.settings, f"events.{late}")) == 0

            begun = await client.redrive(late, 202, dry_run=False, rate=3)
            assert begun["run"]["who"] == "test"
            assert (await client.redrive(late, 409, dry_run=False))["code"] == "redrive_running"

            async def ended() -> Any:
                run = await client.get(f"/redrives/{begun['run']['id']}")
                return run if run["run"]["state"] == "completed" else None

            run = await eventually(ended)
            assert (run["run"]["redriven"], run["run"]["totals"]["invalid"]) == (9, {"malformed_event": 3})
            assert run["run"]["filter"]["event_topic"] == late
            assert (await client.get("/redrives"))["redrives"][0] == run["run"]
            again = await client.redrive(late, 200)
            assert (again["totals"]["redriven"], again["totals"]["already_redriven"]) == (0, 9)
            place = run["letters"][0]
            view = await client.get(f"/{place.replace('@', '/')}")
    assert view["redriven_by"] == run["run"]["id"]
    assert view["decoded"]["document"]["event_type"] == "valid-event"
    records = await read_topic(platform.settings, f"events.{late}")
    assert sorted(header(r.headers, DLQ_ORIGIN) or "" for r in records) == sorted(run["letters"])
    assert {header(r.headers, "dlq-replays") for r in records} == {"1"}
    # The id that the agent would have given it.
    source = view["letter"]
    read = Record(INGRESS, source["source_partition"], source["source_offset"], 0, None, None, ())
    [record] = [r for r in records if header(r.headers, DLQ_ORIGIN) == place]
    assert header(record.headers, EVENT_ID) == ingress_event_id(read)


async def to_ingress(values: dict[str, Any], topic: str) -> None:
    """Twelve records, of which nine are events."""
    producer = AIOKafkaProducer(bootstrap_servers=values["kafka_bootstrap_servers"], acks="all")
    await producer.start()
    for n in range(12):
        body = valid(n) if n % 4 else b"{ broken"
        await producer.send(INGRESS, body, key=b"k%d" % n, headers=[("event-topic", topic.encode())])
    await producer.stop()


async def test_a_worker_that_stops_ends_its_redrive_in_order(values, platform):
    await platform.bury(*[platform.letter(n, valid(n)) for n in range(200)])
    with running_worker(**values) as worker:
        async with worker.client("dlq:admin") as client:
            body = {"filter": {"event_topic": platform.topic}, "dry_run": False, "rate": 20}
            async with client.post("/api/v1/dlq/redrive", json=body) as response:
                assert response.status == 202
                run_id = (await response.json())["run"]["id"]

            async def some() -> bool:
                return sum((await platform.origins()).values()) > 0

            await eventually(some)
        began = time.monotonic()
        await asyncio.to_thread(worker.stop)
        assert time.monotonic() - began < 15
    run = (await platform.store.redrive_log()).runs[run_id]
    assert run.state is RunState.STOPPED
    assert 0 < run.redriven == sum((await platform.origins()).values()) < 200
