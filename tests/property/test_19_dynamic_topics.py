"""Property 19: a first event creates its topic where settings allow, once, with its schema first, and no other topic.

Any number of workers stand on one broker and one registry of memory, which let others have their turn in the middle of
every call, as real ones do.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from yarl import URL

from streams import schemas
from streams.codecs import AvroCodec, unframe
from streams.domain.envelope import Event
from streams.domain.errors import PlatformError, TooManyTopicsError, TopicExistsError, UnknownTopicError
from streams.domain.naming import EVENTS_PREFIX, colliding_topic
from streams.event_topics import EventTopics
from streams.kafka.admin import TopicSpec
from streams.publishing import Publisher, TopicCatalog
from streams.registry import SchemaLoader
from streams.settings import Settings
from streams.topic_schemas.store import TopicSchemas
from tests.strategies import NOW_MS
from tests.web_gateway import EVENT, MemoryAdmin, MemoryRegistry, gateway

VALID = re.compile(r"[a-z][a-z0-9._-]{0,127}")
MAX_TOPICS = 4
AN_EVENT = Event("00000000-0000-4000-8000-000000000000", "a", NOW_MS, "u")

valid_names = st.sampled_from(["a", "a.b", "a_b", "a-b", "platform.dlq", "events.a", "z" * 128]) | st.from_regex(
    r"[a-z][a-z0-9._-]{0,3}", fullmatch=True
)
_NO_NAMES = [
    "",
    "A",
    "1a",
    ".a",
    "_a",
    "-a",
    "a b",
    "a\n",
    "\na",
    "é",
    "\uff41",
    "a\u200b",
    "a" * 129,
    "a\x00b",
    "a:b",
    "a*",
]
_PATHS = ["..", "../platform.dlq", "a/b", "a/../b", "%2e%2e", "a%2fb", "platform.dlq/../a", "$a"]
invalid_names = st.sampled_from(_NO_NAMES + _PATHS) | st.text(max_size=140).filter(
    lambda text: VALID.fullmatch(text) is None
)
names = valid_names | invalid_names


class Broker(MemoryAdmin):
    """Tells in a log, which it shares with the registry, what happens to topics."""

    def __init__(self, made: Settings, log: list[str]) -> None:
        super().__init__(made)
        self.specs = {name: spec for name, spec in self.specs.items() if not name.startswith(EVENTS_PREFIX)}
        self.log = log
        self.written: list[str] = []

    async def topics(self) -> dict[str, int]:
        found = await super().topics()
        await asyncio.sleep(0)
        return found

    async def create(self, specs: Iterable[TopicSpec]) -> list[str]:
        existing = await self.topics()
        created = []
        for spec in specs:
            if spec.name not in existing:
                await asyncio.sleep(0)
                # Between looking and creating another may have been as fast: Kafka says so, and `create` is quiet.
                if spec.name not in self.specs:
                    self.specs[spec.name] = spec
                    self.log.append(f"create {spec.name}")
                    created.append(spec.name)
        return created

    def write(self, topic: str) -> None:
        if topic not in self.specs:
            raise UnknownTopicError(topic)
        self.written.append(topic)


class Registry(MemoryRegistry):
    """Gives others their turn in every call."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.registered.clear()
        self.calls = log

    async def ping(self) -> None:
        await asyncio.sleep(0)


class Worker:
    """What one worker has: nothing of it is shared but what is behind it."""

    def __init__(self, made: Settings, broker: Broker, registry: Registry) -> None:
        codec = AvroCodec()
        topic_schemas = TopicSchemas(registry, codec, max_age_s=30)
        self.topics = EventTopics(made, broker, topic_schemas)
        self.catalog = TopicCatalog(broker, self.topics.create_for_event if made.topic_creation == "auto" else None)
        self.publisher = Publisher(made, codec, SchemaLoader(registry, codec), topic_schemas)
        self.broker = broker

    async def publish(self, name: str) -> PlatformError | int:
        """The id of the schema that the event was written with, or why it was not."""
        try:
            topic = await self.catalog.require(name, create=True)
            await self.publisher.prepare(topic)
            value = self.publisher.value(topic, AN_EVENT)
            self.broker.write(topic)
            return unframe(value)[0]
        except PlatformError as exc:
            return exc


class DynamicTopics(RuleBasedStateMachine):
    """First events at any worker, alone and at once, between the deeds of an administrator."""

    @initialize(auto=st.booleans(), workers=st.integers(1, 3))
    def start(self, auto, workers):
        made = Settings(topic_creation="auto" if auto else "admin-only", max_topics=MAX_TOPICS)
        self.auto = auto
        self.log: list[str] = []
        self.broker = Broker(made, self.log)
        self.registry = Registry(self.log)
        self.workers = [Worker(made, self.broker, self.registry) for _ in range(workers)]
        self.by_admin: set[str] = set()
        self.runner = asyncio.Runner()

    def teardown(self):
        if hasattr(self, "runner"):
            self.runner.close()

    @property
    def event_topics(self) -> set[str]:
        return {topic for topic in self.broker.specs if topic.startswith(EVENTS_PREFIX)}

    def publish(self, events: list[tuple[int, str]]) -> list[PlatformError | int]:
        async def all_at_once() -> list[PlatformError | int]:
            return await asyncio.gather(
                *(self.workers[worker % len(self.workers)].publish(name) for worker, name in events)
            )

        return self.runner.run(all_at_once())

    @rule(worker=st.integers(0, 2), name=names)
    def one_event(self, worker, name):
        before = self.event_topics
        [outcome] = self.publish([(worker, name)])
        topic = EVENTS_PREFIX + name
        if VALID.fullmatch(name) is None:
            assert isinstance(outcome, UnknownTopicError)
            assert self.event_topics == before
        elif topic in before:
            # It may have been created at another worker: then it is found within seconds, without create at once.
            assert isinstance(outcome, int) or not self.auto
            assert self.event_topics == before
        elif not self.auto or (isinstance(outcome, UnknownTopicError) and topic not in self.event_topics):
            # Or deleted a moment ago, and the worker has not noticed.
            assert isinstance(outcome, UnknownTopicError)
            assert self.event_topics == before
        elif colliding_topic(topic, before) is not None:
            assert isinstance(outcome, TopicExistsError)
        elif len(before) >= MAX_TOPICS:
            assert isinstance(outcome, TooManyTopicsError)
        else:
            assert isinstance(outcome, int), outcome
            assert self.event_topics == before | {topic}

    @rule(events=st.lists(st.tuples(st.integers(0, 2), names), min_size=2, max_size=12))
    def events_at_once(self, events):
        before = self.event_topics
        outcomes = self.publish(events)
        for (_, name), outcome in zip(events, outcomes, strict=True):
            assert not isinstance(outcome, int) or EVENTS_PREFIX + name in self.event_topics
        if not self.auto:
            assert self.event_topics == before
        assert len(self.event_topics) <= max(len(before), MAX_TOPICS + len(self.workers) - 1)

    @rule(name=valid_names, count=st.integers(2, 8))
    def one_name_everywhere_at_once(self, name, count):
        outcomes = self.publish([(worker, name) for worker in range(count)])
        # All have the same fate, but for those whose worker believes in a topic that was deleted.
        ids = {outcome for outcome in outcomes if isinstance(outcome, int)}
        assert len(ids) <= 1

    @rule(worker=st.integers(0, 2), name=valid_names)
    def an_administrator_creates(self, worker, name):
        topic = EVENTS_PREFIX + name
        exists = topic in self.broker.specs or colliding_topic(topic, self.broker.specs) is not None
        try:
            self.runner.run(self.workers[worker % len(self.workers)].topics.create(name))
        except TopicExistsError:
            assert exists
        else:
            assert not exists
            self.by_admin.add(topic)

    @rule(data=st.data())
    def an_administrator_deletes(self, data):
        if self.event_topics:
            topic = data.draw(st.sampled_from(sorted(self.event_topics)))
            del self.broker.specs[topic]
            self.log.append(f"delete {topic}")

    @rule()
    def time_passes(self):
        """Every worker looks again which topics there are."""
        for worker in self.workers:
            self.runner.run(worker.catalog.refresh())

    @invariant()
    def each_topic_is_in_the_namespace_and_was_created_once_with_its_schema_first(self):
        if not hasattr(self, "log"):
            return
        registered: set[str] = set()
        alive: set[str] = set()
        for line in self.log:
            what, topic = line.split(" ", 1)
            if what == "register":
                registered.add(topic)
            elif what == "create":
                assert topic.startswith(EVENTS_PREFIX)
                assert VALID.fullmatch(topic.removeprefix(EVENTS_PREFIX))
                assert topic not in alive, "created twice"
                assert f"{topic}-value" in registered, "created before its schema was registered"
                alive.add(topic)
            elif what == "delete":
                alive.remove(topic)
        assert alive == self.event_topics
        if not self.auto:
            assert alive <= self.by_admin

    @invariant()
    def nothing_is_written_outside_the_namespace(self):
        if hasattr(self, "broker"):
            assert all(topic.startswith(EVENTS_PREFIX) for topic in self.broker.written)
            assert {name for name in self.broker.specs if not name.startswith(EVENTS_PREFIX)} == {"platform.dlq"}


TestDynamicTopics = DynamicTopics.TestCase
TestDynamicTopics.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@pytest.fixture(scope="module")
def loop():
    """A gateway that lives on between examples."""
    with asyncio.Runner() as runner:
        context = gateway(topic_creation="auto", max_topics=100_000)
        yield runner, runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


@st.composite
def paths(draw: st.DrawFn) -> str:
    """What stands in a URL for a topic: a name, percent-encoded in full, in part, twice, or not at all."""
    name = draw(names)
    safe = draw(st.sampled_from(["", "/", "/.%", "".join(map(chr, range(0x21, 0x7F)))]))
    path = quote(name.encode("utf-8", "surrogatepass"), safe=safe)
    return quote(path, safe="") if draw(st.integers(0, 4)) == 0 else path


@settings(max_examples=150, deadline=None)
@given(path=paths())
def test_whatever_stands_in_the_url_no_topic_outside_events_is_made_or_written(loop, path):
    runner, running = loop
    running.producer.sent.clear()
    before = set(running.admin.specs)

    async def post() -> int:
        url = running.client.make_url("/").join(URL(f"/api/v1/events/{path}", encoded=True))
        body = EVENT | {"event_id": None}
        async with running.client.session.post(url, json=body, headers=running.headers("events:write:*")) as response:
            return response.status

    status = runner.run(post())
    created = set(running.admin.specs) - before
    assert all(VALID.fullmatch(topic.removeprefix("events.")) and topic.startswith("events.") for topic in created)
    assert len(created) <= 1
    assert {record.topic for record in running.producer.sent} <= {t for t in running.admin.specs if t != "platform.dlq"}
    assert status in {201, 400, 403, 404, 405, 409, 414}
    if created:
        assert status == 201
    assert (status == 201) == (len(running.producer.sent) == 1)
    assert all(running.registry.registered[f"{topic}-value"][0].text == schemas.EVENT for topic in created)
