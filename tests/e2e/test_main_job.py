"""The main job on the real stack: 20,000 generated events in, over HTTP and through ingress; every one accounted for."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import fastavro
import pytest

from flink.pipeline import LATE_EVENT
from streams.codecs import AvroCodec, unframe
from streams.domain.aggregates import AggregatedEvent
from streams.domain.envelope import Event
from streams.domain.naming import AGGREGATES, DLQ, LATE, event_topic
from streams.domain.partitioning import partition_for
from streams.domain.windows import MINUTE_MS, TUMBLING_1M, Accumulator
from streams.generators.options import KINDS, GeneratorOptions, Via
from streams.generators.run import run_generator
from streams.generators.totals import Totals
from streams.kafka.batching import changelog_topic
from streams.kafka.producer import EventProducer, OutgoingRecord
from streams.registry import SchemaLoader, SchemaRegistry
from streams.settings import Settings
from tests.platform import FlinkJob, Worker, eventually, read_topic
from tests.stack import KafkaBroker, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

HISTORY = GeneratorOptions(count=6_000, rate=30, history_s=200, invalid_ratio=0.05, duplicate_ratio=0.05, json=True)
"""Minutes of event time, sent at once."""
LIVE = GeneratorOptions(
    count=4_000, rate=600, invalid_ratio=0.05, duplicate_ratio=0.05, late_ratio=0.1, late_after_s=0, json=True
)
"""What follows as it happens, some of it ten minutes late."""
LATE_SCHEMA = fastavro.parse_schema(json.loads(LATE_EVENT))
CLOSING = "closing"
"""The type of the events that close the last windows; they are in no comparison."""

Minute = tuple[str, str, int]
"""API topic, event type and the minute's start (ms)."""
Place = tuple[str, int, int]
"""API topic, partition and offset."""


@dataclass
class Stack:
    """The running parts."""

    worker: Worker
    flink: FlinkJob

    @property
    def settings(self) -> Settings:
        return self.worker.settings


@pytest.fixture
def stack(schema_registry, tmp_path: Path) -> Iterator[Stack]:
    """A broker of its own, since the job reads every topic `events.*`; a worker; the Flink job."""
    with running(KafkaBroker) as broker:
        addresses = {"kafka_bootstrap_servers": broker.bootstrap_servers, "registry_url": schema_registry.url}
        # A deadline that no stall of a small machine breaks: every count here is exact.
        worker = Worker(_made(tmp_path / "worker"), **addresses, request_deadline_s=60)
        flink = FlinkJob(_made(tmp_path / "flink"), **addresses, app_id=worker.settings.app_id)
        try:
            # Both wait for what they need by themselves.
            flink.launch()
            worker.start()
            flink.wait()
            yield Stack(worker, flink)
        finally:
            flink.stop()
            worker.stop()


async def test_every_event_of_the_generator_is_accounted_for(stack):
    settings = stack.settings
    runs = [
        *await asyncio.gather(generate(stack, HISTORY, Via.HTTP, 1), generate(stack, HISTORY, Via.INGRESS, 2)),
        *await asyncio.gather(generate(stack, LIVE, Via.HTTP, 3), generate(stack, LIVE, Via.INGRESS, 4)),
    ]
    assert sum(run.emitted for run in runs) == 20_000
    for run in runs:
        assert (run.failed, run.surprises) == (0, 0), run.examples
        assert all(topic.uncertain == 0 for topic in run.topics.values())
    sent = Sent(runs)
    # The run had some of each; by HTTP, the worker knows a duplicate, by ingress it is one more event.
    assert min(sent.late, sent.duplicates, sent.repeated, sent.rejected_by_ingress) > 100

    codec = AvroCodec()
    loader = SchemaLoader(SchemaRegistry(settings), codec)

    async def all_is_stored() -> bool:
        stored = {name: len(await read_topic(settings, event_topic(name))) for name in KINDS}
        return stored == sent.stored and len(await read_topic(settings, DLQ)) == sent.rejected_by_ingress

    await eventually(all_is_stored, 90)
    events = await stored_events(settings, loader, codec)
    assert Counter(minute_of(place, event) for place, event in events.items()) == sent.minutes

    await close_windows(stack)

    async def all_is_closed() -> bool:
        counted = sum(window.count for window in (await closed_windows(settings, loader, codec)).values())
        return counted + len(await late_places(settings)) == len(events)

    await eventually(all_is_closed, 90)
    windows = await closed_windows(settings, loader, codec)
    late = await late_places(settings)
    assert late
    assert late <= set(events)
    expected = by_minute({place: event for place, event in events.items() if place not in late})
    assert set(windows) == set(expected)
    for minute, held in expected.items():
        assert_same(windows[minute], held)

    await the_worker_serves(stack, windows)
    await the_state_table_counts(settings, Counter(topic for topic, _, _ in events))


class Sent:
    """What the generators say they sent, added up."""

    def __init__(self, runs: list[Totals]) -> None:
        self.stored: Counter[str] = Counter()
        self.minutes: Counter[Minute] = Counter()
        self.late = self.duplicates = self.repeated = self.rejected_by_ingress = 0
        for run in runs:
            document: Any = run.as_json()
            for name, topic in document["topics"].items():
                self.stored[name] += topic["accepted"] - topic["repeated"]
                self.repeated += topic["repeated"]
                self.late += topic["late"]
                self.duplicates += topic["duplicates"]
                if run.via == Via.INGRESS:
                    self.rejected_by_ingress += topic["rejected"]
            for minute in document["minutes"]:
                key = (minute["topic"], minute["event_type"], minute["window_start"])
                self.minutes[key] += minute["accepted"]["count"] - minute["repeated"]


async def generate(stack: Stack, options: GeneratorOptions, via: Via, seed: int) -> Totals:
    producer = EventProducer(stack.settings)
    await producer.start()
    try:
        return await run_generator(
            replace(options, via=via, seed=seed),
            stack.settings,
            token=stack.worker.token("events:write:*"),
            send=lambda topic, key, value, headers: producer.send(OutgoingRecord(topic, key, value, headers), 30),
            out=io.StringIO(),
            err=io.StringIO(),
            handle_signals=False,
        )
    finally:
        await producer.stop()


async def close_windows(stack: Stack) -> None:
    """One event two minutes ahead into every partition: event time passes the end of every window."""
    settings = stack.settings
    ahead = int(time.time() * 1000) + 2 * MINUTE_MS
    keys: dict[int, str] = {}
    for n in range(1_000):
        keys.setdefault(partition_for(str(n).encode(), settings.kafka_partitions), str(n))
    assert len(keys) == settings.kafka_partitions
    async with stack.worker.client() as client:
        for topic in KINDS:
            for key in keys.values():
                body = {"event_type": CLOSING, "timestamp": ahead, "user_id": key}
                async with client.post(f"/api/v1/events/{topic}", json=body) as response:
                    assert response.status == 201


async def stored_events(settings: Settings, loader: SchemaLoader, codec: AvroCodec) -> dict[Place, Event]:
    found = {}
    for name in KINDS:
        for record in await read_topic(settings, event_topic(name)):
            value = record.value or b""
            event = await loader.read(partial(codec.decode_event, value))
            found[name, record.partition, record.offset] = event
    return found


async def closed_windows(settings: Settings, loader: SchemaLoader, codec: AvroCodec) -> dict[Minute, AggregatedEvent]:
    found: dict[Minute, AggregatedEvent] = {}
    for record in await read_topic(settings, AGGREGATES):
        value = record.value or b""
        result = await loader.read(partial(codec.decode_aggregate, value))
        if result.event_type == CLOSING:
            continue
        key = (result.topic, result.event_type, result.window_start)
        assert key not in found, "a window closes once"
        assert (result.window, result.revision) == (TUMBLING_1M.name, 0)
        assert result.window_end == result.window_start + MINUTE_MS
        found[key] = result
    return found


async def late_places(settings: Settings) -> set[Place]:
    """Where the events are that the job found too late; each is told of once."""
    records = await read_topic(settings, LATE)
    places = set()
    for record in records:
        _, body = unframe(record.value or b"")
        late: Any = fastavro.schemaless_reader(io.BytesIO(body), LATE_SCHEMA, None)
        places.add((late["topic"], late["partition"], late["offset"]))
    assert len(places) == len(records)
    return places


def minute_of(place: Place, event: Event) -> Minute:
    return (place[0], event.event_type, TUMBLING_1M.windows(event.timestamp)[0].start_ms)


def by_minute(events: dict[Place, Event]) -> dict[Minute, Accumulator]:
    held: dict[Minute, Accumulator] = {}
    for place, event in events.items():
        minute = minute_of(place, event)
        held[minute] = held.get(minute, Accumulator()).merge(Accumulator.of(event.value, event.user_id))
    return held


def assert_same(window: AggregatedEvent, held: Accumulator) -> None:
    assert (window.count, window.distinct_users) == (held.count, held.distinct_users)
    assert (window.min, window.max) == (held.min, held.max)
    assert window.sum == pytest.approx(held.sum)
    assert window.avg == pytest.approx(held.avg)


async def the_worker_serves(stack: Stack, windows: dict[Minute, AggregatedEvent]) -> None:
    """GET /aggregates answers with every closed window, as it was written."""

    async def served() -> bool:
        answers = []
        async with stack.worker.client("events:read:*") as client:
            for topic in KINDS:
                async with client.get(f"/api/v1/aggregates/{topic}", params={"limit": "1000"}) as response:
                    assert response.status == 200
                    answers += (await response.json())["aggregates"]
        found = {(a["topic"], a["event_type"], a["window_start"]): a["count"] for a in answers}
        return {k: n for k, n in found.items() if k[1] != CLOSING} == {k: w.count for k, w in windows.items()}

    await eventually(served, 60)


async def the_state_table_counts(settings: Settings, stored: Counter[str]) -> None:
    """The newest states in the table's changelog add up to the events, the closing ones among them."""
    expected = {topic: count + settings.kafka_partitions for topic, count in stored.items()}

    async def counted() -> bool:
        newest: dict[bytes, Any] = {}
        for record in await read_topic(settings, changelog_topic(settings.app_id, "state")):
            newest[record.key or b""] = json.loads(record.value or b"null")
        counts: Counter[str] = Counter()
        for state in newest.values():
            counts[state["topic"]] += state["count"]
        return counts == expected

    await eventually(counted, 60)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
