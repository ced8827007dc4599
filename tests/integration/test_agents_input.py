"""What an agent's input may look like: holes of every kind, uneven and growing topics, one hot key, what comes twice."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewPartitions, NewTopic

from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.envelope import Event
from streams.domain.headers import EVENT_ID, EVENT_TOPIC, event_headers, header
from streams.domain.naming import DLQ, INGRESS
from streams.kafka.admin import TopicAdmin
from streams.kafka.batching import Source, changelog_topic
from streams.kafka.batching.rocks import RocksStore
from streams.kafka.consumer import Partition, open_reader
from streams.kafka.offsets import open_offsets
from streams.registry import SchemaRegistry
from streams.settings import Settings
from streams.topics import topic_specs
from tables.state import state
from tests.platform import Worker, eventually, read_topic
from tests.stack import KafkaBroker, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

APP = "inputs"
COMPACTED, ABORTED, HOT, NARROW, WIDE = (f"events.{name}" for name in ("compacted", "aborted", "hot", "narrow", "wide"))
PARTITIONS = {COMPACTED: 2, ABORTED: 2, HOT: 4, NARROW: 1, WIDE: 6}
HOT_KEY = "the-one"
Row = tuple[str, int, str]
"""Topic, partition and key."""


class Kafka:
    """A broker, what is written to it, and the worker that reads it."""

    def __init__(self, broker: KafkaBroker, registry_url: str, directory: Path) -> None:
        self.values: dict[str, object] = {
            "kafka_bootstrap_servers": broker.bootstrap_servers,
            "registry_url": registry_url,
            "app_id": APP,
            "event_topics": "iot",
        }
        self.settings = Settings.model_validate(self.values)
        self.admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
        self.topics = TopicAdmin(self.settings)
        self.worker: Worker | None = None
        self.folded: dict[Row, list[float]] = defaultdict(list)
        """The values of all events that a worker has, or must have, folded, by their place and in their order."""
        self.schema_id = 0
        self._directory = directory
        self._codec = AvroCodec()

    async def prepare(self) -> None:
        await self.topics.create(topic_specs(self.settings))
        self.schema_id = await SchemaRegistry(self.settings).register("events.iot-value", schemas.EVENT)

    def create(self, topic: str, partitions: int, **config: str) -> None:
        [done] = self.admin.create_topics([NewTopic(topic, partitions, 1, config=config)]).values()
        done.result(15)

    def configure(self, topic: str, **config: str) -> None:
        self._configure(ResourceType.TOPIC, topic, config)

    def configure_broker(self, config: Mapping[str, str]) -> None:
        self._configure(ResourceType.BROKER, "1", config)

    def _configure(self, kind: Any, name: str, config: Mapping[str, str]) -> None:
        entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in config.items()]
        [done] = self.admin.incremental_alter_configs(
            [ConfigResource(kind, name, incremental_configs=entries)]
        ).values()
        done.result(15)

    def _new_producer(self) -> Producer:
        # Each time: one that is older learns of new partitions minutes later.
        return Producer({"bootstrap.servers": self.settings.kafka_bootstrap_servers, "log_level": 0})

    def transactional(self) -> Producer:
        producer = Producer(
            {
                "bootstrap.servers": self.settings.kafka_bootstrap_servers,
                "transactional.id": uuid.uuid4().hex,
                "log_level": 0,
            }
        )
        producer.init_transactions(30)
        return producer

    def events(
        self, topic: str, partition: int, keys: Sequence[str], *, producer: Producer | None = None, counts: bool = True
    ) -> None:
        """Store one event for each of the keys, as ingest would; but no key in two partitions of a topic."""
        producer = producer or self._new_producer()
        for number, key in enumerate(keys):
            event = Event(str(uuid.uuid4()), "made", int(time.time() * 1_000), key, None, float(number))
            producer.produce(
                topic,
                self._codec.encode_event(event, self.schema_id),
                key=key.encode(),
                partition=partition,
                headers=list(event_headers(event, "application/json", event.timestamp, None)),
            )
            if counts:
                self.folded[topic, partition, key].append(float(number))
        assert producer.flush(30) == 0

    def to_ingress(self, topic: str, *event_ids: str, key: str = "k") -> None:
        """Send events to the platform."""
        producer = self._new_producer()
        for event_id in event_ids:
            body = {"event_id": event_id, "event_type": "made", "timestamp": int(time.time() * 1_000), "user_id": key}
            producer.produce(
                INGRESS, json.dumps(body).encode(), key=key.encode(), headers=[(EVENT_TOPIC, topic.encode())]
            )
        assert producer.flush(30) == 0

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Remove records, as retention does."""
        [done] = self.admin.delete_records([TopicPartition(topic, partition, offset)]).values()
        done.result(15)

    def start(self, name: str, **settings: object) -> Worker:
        """The worker with these settings, in a directory of this name; whoever ran before is stopped.

        Not for `asyncio.to_thread`: the kernel ends a worker with the thread that has started it.
        """
        if self.worker is not None:
            self.worker.stop()
        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        self.worker = Worker(directory, **self.values, **settings)
        self.worker.start()
        return self.worker

    def kill_and_start(self) -> None:
        """As a crash of the worker, and whoever watches over it, would."""
        assert self.worker is not None
        self.worker.kill()
        self.worker.start()

    async def rows(self, topic: str) -> dict[Row, dict[str, Any]]:
        """What the worker tells of the state of a topic's keys."""
        assert self.worker is not None
        found: dict[Row, dict[str, Any]] = {}
        async with self.worker.client("tables:read") as client:
            page = await answer(client, f"/api/v1/tables/state?limit=1000&prefix={topic.removeprefix('events.')}/")
            for name in dict.fromkeys(entry["key"] for entry in page["keys"]):
                for row in (await answer(client, f"/api/v1/tables/state/{name}"))["rows"]:
                    found[row["topic"], row["partition"], row["value"]["key"]] = row["value"]
        return found

    async def is_folded(self, *topics: str) -> bool:
        """Whether the state is just what was written."""
        for topic in topics:
            want = {place: (len(v), sum(v)) for place, v in self.folded.items() if place[0] == topic}
            if want != {place: (row["count"], row["sum"]) for place, row in (await self.rows(topic)).items()}:
                return False
        return True

    async def behind(self, topic: str) -> dict[int, int]:
        """Of each partition, how many offsets there are behind the committed one."""
        partitions = [Partition(topic, number) for number in range((await self.topics.topics())[topic])]
        async with open_offsets(self.settings, "test") as offsets:
            committed, ends = await offsets.committed(APP, partitions), await offsets.written(partitions)
        return {p.partition: ends[p] - committed.get(p, 0) for p in partitions}

    async def letters(self, event_id: str) -> list[str]:
        """The reasons of dead letters that hold an id."""
        return [
            header(letter.headers, "dlq-reason") or ""
            for letter in await read_topic(self.settings, DLQ)
            if event_id.encode() in (letter.value or b"")
        ]

    async def stored(self, topic: str, event_id: str) -> int:
        """How many events have an id."""
        return Counter(header(r.headers, EVENT_ID) for r in await read_topic(self.settings, topic))[event_id]

    async def span(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset that is left, and the end."""
        async with open_reader(self.settings, "test") as reader:
            [span] = (await reader.spans([Partition(topic, partition)])).values()
        return span


async def answer(client: aiohttp.ClientSession, path: str) -> Any:
    """What a worker answers once it has its tables."""
    for _ in range(60):
        async with client.get(path) as response:
            if response.status == 200:
                return await response.json()
            if response.status == 404:
                return {"rows": [], "keys": []}
            assert response.status == 503, await response.text()
        await asyncio.sleep(0.25)
    raise AssertionError(f"{path} is not answered")


def said(worker: Worker, text: str) -> bool:
    return text in worker.log.read_text()


@pytest.fixture(scope="module")
def kafka(schema_registry, tmp_path_factory) -> Iterator[Kafka]:
    """A broker of its own, with every kind of input written before a worker has seen it."""
    with running(KafkaBroker) as broker:
        kafka = Kafka(broker, schema_registry.url, tmp_path_factory.mktemp("workers"))
        try:
            asyncio.run(fill(kafka))
            yield kafka
        finally:
            if kafka.worker is not None:
                kafka.worker.stop()


async def fill(kafka: Kafka) -> None:
    await kafka.prepare()
    kafka.configure_broker({"log.cleaner.backoff.ms": "100"})
    for topic, partitions in PARTITIONS.items():
        if topic != COMPACTED:
            kafka.create(topic, partitions)
    fill_with_holes(kafka)
    fill_with_aborted(kafka)
    kafka.events(HOT, 2, [HOT_KEY] * 5_000)
    kafka.events(NARROW, 0, ["a", "b", "a"])
    for partition in range(PARTITIONS[WIDE]):
        kafka.events(WIDE, partition, [f"key-{partition}", f"key-{partition}"])
    await compacted(kafka)


def fill_with_holes(kafka: Kafka) -> None:
    """Segments that are closed at once, so that they can be compacted."""
    config = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001"}
    kafka.create(COMPACTED, PARTITIONS[COMPACTED], **config)
    for keys in (["a", "b", "c"] * 20, ["b", "c"] * 10, ["d"], ["e"]):
        kafka.events(COMPACTED, 1, keys, counts=False)
        time.sleep(0.2)


async def compacted(kafka: Kafka) -> None:
    """Wait for the holes, and see what is left."""

    async def has_holes() -> bool:
        left = await read_topic(kafka.settings, COMPACTED)
        return len(left) <= 5

    await eventually(has_holes, 60)
    # What is worked on is what is left; nobody may make new holes meanwhile.
    kafka.configure(COMPACTED, **{"segment.ms": "604800000", "min.cleanable.dirty.ratio": "1"})
    codec = AvroCodec()
    codec.add_schema(kafka.schema_id, schemas.EVENT)
    for record in await read_topic(kafka.settings, COMPACTED):
        event = codec.decode_event(record.value or b"")
        kafka.folded[COMPACTED, record.partition, event.key.decode()].append(event.value or 0.0)


def fill_with_aborted(kafka: Kafka) -> None:
    """At the beginning, in the middle, one right behind another, and at the end of a partition; and nothing else."""
    producer = kafka.transactional()
    for partition, outcomes in ((0, (False, True, False, False, True, True, False)), (1, (False, False))):
        for number, commits in enumerate(outcomes):
            producer.begin_transaction()
            kafka.events(ABORTED, partition, ["a", "b", f"c-{number}"], producer=producer, counts=commits)
            producer.commit_transaction(30) if commits else producer.abort_transaction(30)


@pytest.fixture(scope="module")
def plain(kafka) -> Kafka:
    """With a worker as it is by default."""
    kafka.start("plain")
    return kafka


async def until_folded(kafka: Kafka, *topics: str, within_s: float = 30.0) -> None:
    await eventually(lambda: kafka.is_folded(*topics), within_s)


async def until_committed(kafka: Kafka, topic: str) -> None:
    async def is_at_the_end() -> bool:
        return not any((await kafka.behind(topic)).values())

    await eventually(is_at_the_end)


async def test_a_compacted_topic_is_read_over_its_holes(plain):
    records = await read_topic(plain.settings, COMPACTED)
    _, end = await plain.span(COMPACTED, 1)
    assert len(records) < end  # there are holes
    await until_folded(plain, COMPACTED)
    await until_committed(plain, COMPACTED)


async def test_aborted_records_change_nothing_wherever_they_are(plain):
    await until_folded(plain, ABORTED)
    # Also where there is nothing but aborted ones, and up to the marker behind the last.
    await until_committed(plain, ABORTED)
    assert {partition for _, partition, _ in await plain.rows(ABORTED)} == {0}


async def test_one_hot_key_and_empty_partitions(plain):
    await until_folded(plain, HOT)
    await until_committed(plain, HOT)
    assert list(await plain.rows(HOT)) == [(HOT, 2, HOT_KEY)]
    assert plain.worker.is_ready()


async def test_topics_may_have_fewer_or_more_partitions_than_a_changelog(plain):
    await until_folded(plain, NARROW, WIDE)
    counts = await plain.topics.topics()
    assert counts[changelog_topic(APP, "state")] >= PARTITIONS[WIDE]
    assert counts[changelog_topic(APP, "totals")] >= PARTITIONS[WIDE]


async def test_a_topic_that_is_created_while_the_worker_runs_has_state_within_30_s(plain):
    topic = "events.born-later"
    plain.create(topic, 7)
    plain.events(topic, 6, ["a", "b", "a"])
    plain.events(topic, 0, ["a"])
    await until_folded(plain, topic)
    assert (await plain.topics.topics())[changelog_topic(APP, "state")] >= 7


async def test_partitions_that_are_added_while_the_worker_runs_have_state_within_30_s(plain):
    [done] = plain.admin.create_partitions([NewPartitions(NARROW, 3)]).values()
    done.result(15)
    await eventually(lambda: has_partitions(plain, NARROW, 3))
    plain.events(NARROW, 2, ["z", "z"])
    plain.events(NARROW, 0, ["a"])
    await until_folded(plain, NARROW)


async def has_partitions(kafka: Kafka, topic: str, count: int) -> bool:
    return (await kafka.topics.topics())[topic] == count


async def test_an_event_for_an_unknown_topic_is_a_dead_letter_where_only_admins_create(plain):
    event_id = str(uuid.uuid4())
    plain.to_ingress("never-made", event_id)
    await eventually(lambda: plain.letters(event_id))
    assert await plain.letters(event_id) == ["unknown_topic"]
    assert "events.never-made" not in await plain.topics.topics()


async def test_what_retention_has_removed_behind_a_stopped_worker_is_said_and_the_rest_is_read(plain):
    await until_committed(plain, HOT)
    worker = plain.worker
    worker.stop()
    _, before = await plain.span(HOT, 2)
    plain.events(HOT, 2, [HOT_KEY] * 10, counts=False)
    plain.delete_before(HOT, 2, before + 4)
    plain.folded[HOT, 2, HOT_KEY] += [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    # And one that was empty has become so again, further on.
    plain.events(HOT, 3, ["gone"] * 3, counts=False)
    plain.delete_before(HOT, 3, 3)
    worker.start()
    assert said(worker, f"{HOT}[2]: retention has removed offsets {before} to {before + 3}")
    await until_folded(plain, HOT)
    assert worker.is_ready()
    plain.events(HOT, 3, ["after"])
    await until_folded(plain, HOT)
    await until_committed(plain, HOT)


@pytest.fixture(scope="module")
def careful(kafka) -> Kafka:
    """With a worker that makes topics, drops what comes twice, and holds its tables in RocksDB."""
    kafka.start("careful", topic_creation="auto", deduplicate_ingress="true", table_store="rocksdb")
    return kafka


async def test_a_first_event_creates_its_topic_where_that_is_allowed(careful):
    name, event_id = "made-by-its-first-event", str(uuid.uuid4())
    careful.to_ingress(name, event_id)

    async def is_stored() -> bool:
        topics = await careful.topics.topics()
        return f"events.{name}" in topics and await careful.stored(f"events.{name}", event_id) == 1

    await eventually(is_stored)
    async with aiohttp.ClientSession() as client:
        subject = f"{careful.settings.registry_url}/subjects/events.{name}-value/versions/latest"
        async with client.get(subject) as response:
            assert response.status == 200

    async def has_state() -> bool:
        return [row["count"] for row in (await careful.rows(f"events.{name}")).values()] == [1]

    await eventually(has_state)
    # A name that no topic can have is still an event's own fault.
    refused = str(uuid.uuid4())
    careful.to_ingress("No Such Name", refused)
    await eventually(lambda: careful.letters(refused))
    assert await careful.letters(refused) == ["unknown_topic"]


async def test_an_event_that_comes_twice_is_a_dead_letter_also_after_a_kill(careful):
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    careful.to_ingress("iot", first, second, first)
    await eventually(lambda: careful.letters(first))
    # Each in another order: in the batch of the first, after a kill, and after a stop.
    for restart in (careful.kill_and_start, careful.worker.restart):
        before = len(await careful.letters(first))
        restart()
        careful.to_ingress("iot", second, first)

        async def both_are_refused(before: int = before) -> bool:
            return len(await careful.letters(first)) == before + 1

        await eventually(both_are_refused)
    assert await careful.letters(first) == ["duplicate_event"] * 3
    assert await careful.letters(second) == ["duplicate_event"] * 2
    assert [await careful.stored("events.iot", event_id) for event_id in (first, second)] == [1, 1]


async def test_with_rocksdb_a_restart_reads_only_the_end_of_the_changelog(careful):
    await until_folded(careful, *PARTITIONS)
    worker, changelog = careful.worker, changelog_topic(APP, "state")
    worker.stop()
    place = Source(HOT, 2)
    position = stored_position(worker, place)
    start, end = await careful.span(changelog, place.partition)
    assert start == 0
    assert 0 < position <= end
    # What is before the position is not needed: without it, a worker that read it would have lost all of these rows.
    careful.configure(changelog, **{"cleanup.policy": "compact,delete"})
    careful.delete_before(changelog, place.partition, position)
    # And what is written meanwhile by others is behind it.
    careful.events(HOT, 2, [HOT_KEY] * 3)
    worker.start()
    await until_folded(careful, HOT)
    worker.stop()
    assert stored_position(worker, place) > position
    worker.start()
    await until_folded(careful, HOT)


def stored_position(worker: Worker, source: Source) -> int:
    store = RocksStore(worker.settings.data_dir / "tables", state, source)
    try:
        assert store.position is not None
        return store.position
    finally:
        store.close()


async def test_tables_in_rocksdb_survive_kills_in_the_middle_of_work(careful):
    for number in range(3):
        for _ in range(4):
            careful.events(HOT, 1, [f"key-{n % 50}" for n in range(400)])
            careful.events(WIDE, number, [f"key-{number}-{n % 50}" for n in range(400)])
            await asyncio.sleep(0.05)
        careful.kill_and_start()
    await until_folded(careful, HOT, WIDE)
    await until_committed(careful, HOT)
    await until_committed(careful, WIDE)


async def test_the_ledger_of_kept_ids_is_in_memory_whatever_the_others_are(careful):
    """The ids are asked for with every record: their store is not that of the other tables."""
    assert not (careful.worker.settings.data_dir / "tables" / "seen-ids").exists()
    assert (careful.worker.settings.data_dir / "tables" / "state").exists()
