"""The agents' own work, on transactions without a Kafka; where transactions matter, on one of memory."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.dead_letters import DeadLetters
from agents.ingest import Ingest
from agents.state import State
from agents.windows import Windows
from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.aggregates import AggregatedEvent
from streams.domain.envelope import Event
from streams.domain.errors import KafkaUnavailableError, PlatformError, UnknownSchemaError, UnknownTopicError
from streams.domain.naming import AGGREGATES, DLQ, INGRESS, event_topic
from streams.domain.partitioning import partition_for
from streams.domain.state import state_key
from streams.domain.windows import MINUTE_MS
from streams.faust_app import Platform
from streams.kafka.batching import MemoryStore, Pipeline, Source, Table
from streams.publishing import Publisher, TopicCatalog
from streams.registry import SchemaLoader, SchemaRegistry
from streams.settings import Settings
from streams.topics import HOUR_MS
from tables.dead_letters import LetterTotal, dead_letters, letter_key
from tables.seen import SeenStore, seen
from tables.state import state, total_key, totals
from tables.windows import WindowRow, newest, newest_key, window_key, windows
from tests.batching_kafka import Entry, Kafka, Worker, begun, run, sent, until, use
from tests.strategies import NOW_MS

EVENT, LETTER, AGGREGATE = 7, 9, 8


class CountingCatalog(TopicCatalog):
    """Knows `iot`, creates `new`, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fails: PlatformError | None = None

    async def require(
        self, name: str, *, certain: bool = False, since: float | None = None, create: bool = False
    ) -> str:
        self.asked.append(name)
        assert certain
        if self.fails is not None:
            raise self.fails
        if name == "iot" or (name == "new" and create):
            return event_topic(name)
        raise UnknownTopicError(name)


class NoRegistry(SchemaRegistry):
    def __init__(self) -> None:
        pass

    async def schema(self, schema_id: int) -> str:
        raise UnknownSchemaError(f"no schema {schema_id}")


def platform(**settings: Any) -> Platform:
    codec = AvroCodec()
    codec.add_schema(EVENT, schemas.EVENT)
    codec.add_schema(AGGREGATE, schemas.AGGREGATED_EVENT)
    codec.add_schema(LETTER, schemas.DLQ_MESSAGE)
    loader = SchemaLoader(NoRegistry(), codec)
    made = Settings(**settings)
    publisher = Publisher(made, codec, loader, clock_ms=lambda: NOW_MS)
    publisher.use_schema(EVENT)
    return cast(
        "Platform",
        SimpleNamespace(
            settings=made,
            codec=codec,
            loader=loader,
            catalog=CountingCatalog(),
            publisher=publisher,
            dead_letter_schema=LETTER,
        ),
    )


def reasons(on: Platform, outbox: Any) -> list[str]:
    return [on.codec.decode_dead_letter(value or b"").reason for topic, _, _, value, _ in sent(outbox) if topic == DLQ]


def stores(*tables: Table[Any]) -> dict[Table[Any], MemoryStore[Any]]:
    return {table: MemoryStore[Any]() for table in tables}


# --- ingest

ID = "00000000-0000-4000-8000-00000000000"


def body(number: int | str | None = None, **more: object) -> bytes:
    id_ = {} if number is None else {"event_id": f"{ID}{number}"}
    return json.dumps({"event_type": "a", "timestamp": NOW_MS, "user_id": "u", **id_, **more}).encode()


def ingress(offset: int, value: bytes, topic: str | None = "iot", partition: int = 2) -> Entry:
    headers = () if topic is None else (("event-topic", topic.encode()),)
    return Entry(offset, None, value, headers, topic=INGRESS, partition=partition)


async def test_ingest_writes_valid_events_by_their_key_and_says_where_they_came_from():
    on = platform()
    transaction, outbox = begun(Source(INGRESS, 2))
    await Ingest(on).handle(transaction, [ingress(5, body(1)), ingress(6, body(2), "new")])
    [first, second] = sent(outbox)
    assert (first[0], second[0]) == ("events.iot", "events.new")
    assert first[1] == partition_for(b"u", 4)
    assert on.codec.decode_event(first[3] or b"").event_id == ID + "1"
    assert first[4]["ingress-origin"] == b"2@5"


async def test_ingest_buries_what_is_not_valid_and_goes_on():
    on = platform()
    transaction, outbox = begun(Source(INGRESS, 2))
    records = [ingress(1, b"{"), ingress(2, body(value="no")), ingress(3, body(), None), ingress(4, body(), "nowhere"),
               ingress(5, body(1))]  # fmt: skip
    await Ingest(on).handle(transaction, records)
    assert sorted(reasons(on, outbox)) == ["invalid_event", "malformed_event", "unknown_topic", "unknown_topic"]
    assert [topic for topic, *_ in sent(outbox) if topic != DLQ] == ["events.iot"]


async def test_ingest_asks_once_in_a_transaction_whether_a_topic_exists():
    on = platform()
    transaction, outbox = begun(Source(INGRESS, 2))
    agent = Ingest(on)
    for start in (0, 10):
        await agent.handle(transaction, [ingress(start + n, body(), "nowhere" if n % 2 else "iot") for n in range(10)])
    assert sorted(cast("CountingCatalog", on.catalog).asked) == ["iot", "nowhere"]
    assert len(reasons(on, outbox)) == 10


async def test_ingest_is_tried_again_while_kafka_is_away_and_buries_nothing():
    on = platform()
    cast("CountingCatalog", on.catalog).fails = KafkaUnavailableError("away")
    transaction, outbox = begun(Source(INGRESS, 2))
    agent = Ingest(on)
    with pytest.raises(KafkaUnavailableError) as away:
        await agent.handle(transaction, [ingress(1, body())])
    assert agent.may_pass(away.value)
    assert sent(outbox) == []


async def test_an_event_without_an_id_gets_the_same_one_whenever_it_is_read():
    ids = set()
    for _ in range(2):
        on = platform()
        transaction, outbox = begun(Source(INGRESS, 2))
        await Ingest(on).handle(transaction, [ingress(5, body())])
        ids.add(on.codec.decode_event(sent(outbox)[0][3] or b"").event_id)
    assert len(ids) == 1


async def test_without_deduplication_an_id_may_come_twice():
    on = platform()
    transaction, outbox = begun(Source(INGRESS, 2))
    await Ingest(on).handle(transaction, [ingress(1, body(1)), ingress(2, body(1))])
    assert [topic for topic, *_ in sent(outbox)] == ["events.iot", "events.iot"]
    assert Ingest(on).tables == ()


async def test_a_duplicate_within_a_transaction_is_found_across_its_calls_too():
    on = platform(deduplicate_ingress=True)
    transaction, outbox = begun(Source(INGRESS, 2), {seen: SeenStore()})
    agent = Ingest(on)
    await agent.handle(transaction, [ingress(1, body(1)), ingress(2, body(1)), ingress(3, body("a"))])
    await agent.handle(transaction, [ingress(4, body("A")), ingress(5, body(2)), ingress(6, b"{")])
    assert sorted(reasons(on, outbox)) == ["duplicate_event", "duplicate_event", "malformed_event"]
    [(name, block)] = transaction.rows(seen).changed.items()
    assert block is not None
    assert (name, block.offset) == (f"{6:020d}", 6)
    assert block.ids == b"".join(uuid.UUID(f"{ID}{n}").bytes for n in ("1", "a", "2"))


def test_duplicates_are_found_across_transactions_kills_and_aborts(monkeypatch):
    """On the real engine: what an aborted transaction had seen is not seen; what was committed stays known."""
    use(monkeypatch)
    source = Source(INGRESS, 0)

    async def go() -> None:
        on = platform(deduplicate_ingress=True)
        kafka = Kafka()

        async def work(numbers: list[int], *errors: Exception) -> None:
            for number in numbers:
                kafka.logs[source].add(source, value=body(number), headers=(("event-topic", b"iot"),))
            kafka.fail("commit", *errors)
            worker = Worker(kafka, Ingest(on))
            await worker.assign(source)
            await until(lambda: kafka.offsets.get(source) == len(kafka.logs[source]))
            await worker.kill()

        await work([1, 2])
        kafka.fail("offsets", KafkaUnavailableError("aborted"))
        await work([3, 1])
        await work([2, 3, 4])
        out = [e for p in range(2) for e in kafka.logs["events.iot", p] if e.status == "committed"]
        assert sorted(on.codec.decode_event(e.value or b"").event_id[-1] for e in out) == ["1", "2", "3", "4"]
        letters = [e for p in range(2) for e in kafka.logs[DLQ, p] if e.status == "committed"]
        assert [on.codec.decode_dead_letter(e.value or b"").reason for e in letters] == ["duplicate_event"] * 3

    run(go())


async def test_ids_that_are_older_than_the_window_are_forgotten_with_the_next_transaction(monkeypatch):
    on = platform(deduplicate_ingress=True)
    now = NOW_MS
    monkeypatch.setattr("agents.ingest.now_ms", lambda: now)
    agent, store = Ingest(on), SeenStore()

    async def one(offset: int, number: int) -> list[str]:
        transaction, outbox = begun(Source(INGRESS, 2), {seen: store})
        await agent.handle(transaction, [ingress(offset, body(number))])
        store.apply(transaction.rows(seen).changed, offset)
        return reasons(on, outbox)

    assert await one(1, 1) == []
    now += 3_600_000
    assert await one(2, 1) == ["duplicate_event"]
    assert await one(3, 2) == []
    now += 1
    assert await one(4, 3) == []
    assert await one(5, 1) == []
    assert len(store) == len(store.ids) == 3


# --- windows

RETENTION_MS = 2 * HOUR_MS


def result(start_min: int, revision: int = 0, kind: str = "tumbling-1m", type_: str = "a", count: int = 1):
    start = start_min * MINUTE_MS
    return AggregatedEvent(
        "iot", type_, kind, start, start + MINUTE_MS, count, None, None, None, None, 0, revision, revision
    )


class Held:
    """The tables of windows, after each transaction as committed."""

    def __init__(self) -> None:
        self.on = platform(aggregate_retention_hours=2)
        self.agent = Windows(self.on)
        self.stores = stores(windows, newest)
        self.offset = 0

    async def take(self, *values: AggregatedEvent | bytes | None) -> list[str]:
        records = []
        for value in values:
            data = self.on.codec.encode_aggregate(value, AGGREGATE) if isinstance(value, AggregatedEvent) else value
            records.append(Entry(self.offset, b"k", data, topic=AGGREGATES))
            self.offset += 1
        transaction, outbox = begun(Source(AGGREGATES, 0), self.stores)
        await self.agent.handle(transaction, records)
        for table, changes in transaction.changes.items():
            self.stores[table].apply(changes.changed, self.offset)
        return reasons(self.on, outbox)

    def starts(self, kind: str = "tumbling-1m", type_: str = "a") -> list[int]:
        rows = [row.result for _, row in cast("MemoryStore[WindowRow]", self.stores[windows]).items()]
        return sorted(r.window_start // MINUTE_MS for r in rows if (r.window, r.event_type) == (kind, type_))


async def test_a_lower_revision_never_replaces_a_higher_one():
    held = Held()
    await held.take(result(1, 0, count=1), result(1, 2, count=3), result(1, 1, count=2))
    places = [
        (windows, window_key("iot", "a", "tumbling-1m", MINUTE_MS)),
        (newest, newest_key("iot", "a", "tumbling-1m")),
    ]
    for table, key in places:
        row = held.stores[table].get(key)
        assert row is not None
        assert row.result.count == 3


@given(
    st.lists(st.lists(st.integers(0, 700), min_size=1, max_size=6), max_size=8),
    st.sampled_from(["tumbling-1m", "tumbling-5m"]),
)
def test_windows_older_than_the_retention_are_gone_and_no_newer_one_is(transactions, kind):
    """Whatever the order and the gaps: also after hours without a window."""
    step = 5 if kind == "tumbling-5m" else 1

    async def go() -> None:
        held = Held()
        came: list[int] = []
        for starts in transactions:
            came += [start * step for start in starts]
            await held.take(*(result(start * step, kind=kind) for start in starts))
            edge = max(came) - RETENTION_MS // MINUTE_MS
            assert held.starts(kind) == sorted({start for start in came if start > edge})

    asyncio.run(go())


async def test_kinds_and_types_expire_apart():
    held = Held()
    await held.take(result(1), result(1, type_="b"), result(1, kind="sliding-5m-1m"))
    await held.take(result(500))
    assert (held.starts(), held.starts(type_="b"), held.starts("sliding-5m-1m")) == ([500], [1], [1])


async def test_tombstones_are_passed_over_and_rubbish_is_buried():
    held = Held()
    assert await held.take(None, b"rubbish", result(1)) == ["malformed_event"]
    assert held.starts() == [1]


# --- dead letters


def letter(offset: int, reason: bytes | None, source: bytes = b"events.iot", at: int = 5) -> Entry:
    headers = (("dlq-source-topic", source), *(() if reason is None else (("dlq-reason", reason),)))
    return Entry(offset, b"k", b"v", headers, topic=DLQ, partition=1, timestamp=at)


async def test_dead_letters_are_counted_by_reason_and_source_each_once():
    held = stores(dead_letters)

    async def take(*records: Entry) -> None:
        transaction, outbox = begun(Source(DLQ, 1), held)
        await DeadLetters().handle(transaction, records)
        held[dead_letters].apply(transaction.rows(dead_letters).changed, None)
        assert sent(outbox) == []

    await take(letter(1, b"a", at=5), letter(2, b"b"), letter(3, b"a", at=3))
    await take(letter(2, b"b"), letter(3, b"a"), letter(4, b"a", b"platform.ingress"), letter(5, None))
    await take(letter(6, b"a", at=9), letter(7, b"a", at=4))
    assert dict(held[dead_letters].items()) == {
        letter_key("a", "events.iot"): LetterTotal("a", "events.iot", 4, 3, 9, 7),
        letter_key("b", "events.iot"): LetterTotal("b", "events.iot", 1, 5, 5, 2),
        letter_key("a", "platform.ingress"): LetterTotal("a", "platform.ingress", 1, 5, 5, 4),
        letter_key("", "events.iot"): LetterTotal("", "events.iot", 1, 5, 5, 5),
    }


async def test_a_dead_letter_that_cannot_be_counted_makes_no_other(caplog):
    transaction, outbox = begun(Source(DLQ, 1), stores(dead_letters))
    await DeadLetters().bury(transaction, letter(1, b"a"), KeyError("x"))
    assert sent(outbox) == []
    assert "platform.dlq[1]@1 is not counted" in caplog.text


# --- state


def stored(on: Platform, offset: int, key: str = "u", value: float = 2.0) -> Entry:
    event = Event(f"{ID}1", "a", NOW_MS, key, None, value)
    return Entry(offset, event.key, on.codec.encode_event(event, EVENT), topic="events.iot", partition=1)


async def test_events_are_folded_by_key_and_counted_by_type_and_rubbish_is_buried():
    on = platform()
    transaction, outbox = begun(Source("events.iot", 1), stores(state, totals))
    records = [stored(on, 1), stored(on, 2, "v/é|"), Entry(3, b"k", b"rubbish", topic="events.iot", partition=1)]
    agent = State(on)
    await agent.handle(transaction, records)
    await agent.handle(transaction, [stored(on, 2), stored(on, 4)])
    rows, counts = transaction.rows(state).changed, transaction.rows(totals).changed
    assert {key: row.count for key, row in rows.items() if row is not None} == {
        state_key("iot", "u"): 3,
        state_key("iot", "v/é|"): 1,
    }
    total = counts[total_key("iot", "a")]
    assert total is not None
    assert (total.count, total.offset) == (3, 4)
    assert reasons(on, outbox) == ["malformed_event"]


async def test_an_event_of_a_schema_that_nobody_has_is_buried():
    on = platform()
    transaction, outbox = begun(Source("events.iot", 1), stores(state, totals))
    unknown = Entry(1, b"k", b"\x00\x00\x00\x00\x63" + b"x" * 9, topic="events.iot", partition=1)
    await State(on).handle(transaction, [unknown])
    assert reasons(on, outbox) == ["unknown_schema"]


AGENTS: list[tuple[Callable[[Platform], Pipeline], str]] = [
    (Ingest, INGRESS),
    (State, "events.iot"),
    (Windows, AGGREGATES),
    (lambda _: DeadLetters(), DLQ),
]


@pytest.mark.parametrize(("make", "topic"), AGENTS)
def test_each_topic_has_one_agent(make, topic):
    takers = [other for other, _ in AGENTS if other(platform()).takes(topic)]
    assert takers == [make]


@pytest.mark.parametrize(("make", "topic"), AGENTS[:3])
async def test_what_fails_even_alone_ends_in_one_dead_letter(make, topic):
    on = platform()
    transaction, outbox = begun(Source(topic, 1))
    await make(on).bury(transaction, Entry(1, b"k", b"v", topic=topic, partition=1), KeyError("a bug"))
    assert reasons(on, outbox) == ["internal"]
