"""The gateway on a platform of memory: the real routes, validation, codecs and tokens, but no Kafka and no registry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.envelope_schema import SchemaKind
from streams.domain.errors import IncompatibleSchemaError, PlatformError, UnknownSchemaError, UnknownTopicError
from streams.domain.headers import event_headers
from streams.domain.validation import EventRules, event_from_fields
from streams.event_topics import EventTopics
from streams.hub import Hub, Start
from streams.kafka.admin import TopicAdmin, TopicSpec
from streams.kafka.consumer import LogReader, Partition, Record, Span
from streams.kafka.exclusive import ExclusiveWriter
from streams.kafka.producer import EventProducer, OutgoingRecord, Receipt, Sending
from streams.publishing import Publisher, TopicCatalog
from streams.registry import RegisteredSchema, SchemaLoader, SchemaRegistry
from streams.settings import Settings
from streams.storing import EventStore
from streams.subscription import Subscription
from streams.topic_schemas.store import TopicSchemas
from tests.memory_log import MemoryLog
from tests.memory_tables import MemoryTables
from tests.strategies import NOW_MS
from web.http.server import Runner
from web.installation import mount
from web.observe.metrics import Metrics
from web.security.auth import Authenticator, load_or_create_secret, make_token
from web.services import Services

SECRET = "a key for tests, of 32 bytes or so"
SCHEMA_ID = 7
DEAD_LETTER_SCHEMA_ID = 9
STORED_AT = 1_750_000_000_123
PARTITIONS = 2
EVENT = {"event_type": "sensor.reading", "timestamp": NOW_MS, "device_id": "d1", "value": 21.5, "payload": {"a": [1]}}


class MemoryAdmin(TopicAdmin):
    """Has at first the topic `events.iot`, and one that clients must never reach."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.specs: dict[str, TopicSpec] = {
            name: TopicSpec(name, PARTITIONS, 1, {"retention.ms": "3600000"}) for name in ("events.iot", "platform.dlq")
        }
        self.fails: PlatformError | None = None
        self.hangs = False
        self.pings = 0

    async def ping(self) -> None:
        self.pings += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails

    async def topics(self) -> dict[str, int]:
        await self.ping()
        return {name: spec.partitions for name, spec in self.specs.items()}

    async def create(self, specs: Iterable[TopicSpec]) -> list[str]:
        await self.ping()
        new = {spec.name: spec for spec in specs if spec.name not in self.specs}
        self.specs |= new
        return list(new)

    async def spans(self, topics: Mapping[str, int]) -> dict[str, dict[int, Span]]:
        await self.ping()
        return {name: {number: Span(0, number) for number in range(count)} for name, count in topics.items()}

    async def configs(self, topics: Iterable[str]) -> dict[str, dict[str, str]]:
        await self.ping()
        return {name: {"cleanup.policy": "delete", **self.specs[name].configs} for name in topics}


class MemoryRegistry(SchemaRegistry):
    """Has at first the schema `Event`, under `events.iot`. By id it knows none: that one is loaded already."""

    def __init__(self) -> None:
        self.fails: PlatformError | None = None
        self.incompatible: list[str] = []
        """Why it refuses what is registered."""
        self.registered: dict[str, list[RegisteredSchema]] = {
            "events.iot-value": [RegisteredSchema(SchemaKind.AVRO, 1, SCHEMA_ID, schemas.EVENT)]
        }
        self.calls: list[str] = []
        self._ids = {schemas.EVENT: SCHEMA_ID}

    async def register(self, subject: str, schema: str, kind: SchemaKind = SchemaKind.AVRO) -> int:
        self.calls.append(f"register {subject}")
        await self.ping()
        if self.incompatible:
            raise IncompatibleSchemaError("the registry refuses it", self.incompatible)
        versions = self.registered.setdefault(subject, [])
        known = next((each.id for each in versions if each.text == schema), None)
        if known is not None:
            return known
        schema_id = self._ids.setdefault(schema, 100 + len(self._ids))
        versions.append(RegisteredSchema(kind, len(versions) + 1, schema_id, schema))
        return schema_id

    async def version(self, subject: str, version: int | None = None) -> RegisteredSchema | None:
        self.calls.append(f"version {subject}")
        await self.ping()
        versions = self.registered.get(subject)
        return None if not versions else versions[-1 if version is None else version - 1]

    async def versions(self, subject: str) -> list[int]:
        await self.ping()
        return [each.version for each in self.registered.get(subject, ())]

    async def subjects(self) -> frozenset[str]:
        await self.ping()
        return frozenset(self.registered)

    async def ping(self) -> None:
        if self.fails is not None:
            raise self.fails

    async def schema(self, schema_id: int) -> str:
        if self.fails is not None:
            raise self.fails
        raise UnknownSchemaError(f"the registry has no schema with id {schema_id}")


class MemoryProducer(EventProducer):
    """Keeps what is sent, and acknowledges it, or fails, or never answers."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.sent: list[OutgoingRecord] = []
        self.fails: Exception | None = None
        self.hangs = False
        self.refuses: Callable[[OutgoingRecord], PlatformError | None] = lambda _: None
        self._is_started = True
        self._session._connected.set()

    async def prepare(self, topics: Iterable[str], deadline: float = float("inf")) -> None:
        if self.fails is not None:
            raise self.fails
        for topic in topics:
            self._partitions[topic] = (PARTITIONS, asyncio.get_running_loop().time())

    def partition_of(self, topic: str, key: bytes) -> int | None:
        return 1 if self._partitions[topic][0] else None

    def submit(self, records: Sequence[OutgoingRecord]) -> Sending:
        if self.fails is not None:
            raise self.fails
        sending = Sending(len(records))
        if not self.hangs:
            loop = asyncio.get_running_loop()
            for index, record in enumerate(records):
                # Later, as an acknowledgement comes.
                loop.call_soon(sending.settle, index, self._outcome(record))
        return sending

    def _outcome(self, record: OutgoingRecord) -> Receipt | PlatformError:
        if (refused := self.refuses(record)) is not None:
            return refused
        self.sent.append(record)
        return Receipt(record.topic, 1, len(self.sent) - 1, STORED_AT)


class MemoryReader(LogReader):
    """Reads a log of memory."""

    def __init__(self, log: list[Record]) -> None:
        self.log = log
        self.fails: PlatformError | None = None
        self.started = self.stopped = 0
        self.scanned = 0
        self.delay_s = 0.0

    async def start(self) -> None:
        self.started += 1
        if self.fails is not None:
            raise self.fails

    async def stop(self) -> None:
        self.stopped += 1

    async def partitions(self, topics: Iterable[str]) -> list[Partition]:
        names = set(topics)
        if names != {"events.iot"}:
            raise UnknownTopicError(str(names))
        return [Partition("events.iot", number) for number in range(PARTITIONS)]

    async def spans(self, partitions: Iterable[Partition]) -> dict[Partition, Span]:
        offsets = {p: [r.offset for r in self.log if r.partition == p.partition] for p in partitions}
        return {p: Span(min(o, default=0), max(o, default=-1) + 1) for p, o in offsets.items()}

    async def offsets_at(self, partitions: Iterable[Partition], timestamp_ms: int) -> dict[Partition, int | None]:
        return {
            p: min(
                (r.offset for r in self.log if r.partition == p.partition and r.timestamp_ms >= timestamp_ms),
                default=None,
            )
            for p in partitions
        }

    async def read(self, spans: Mapping[Partition, Span]) -> AsyncGenerator[list[Record]]:
        for partition, span in spans.items():
            await asyncio.sleep(self.delay_s)
            if self.fails is not None:
                raise self.fails
            found = [r for r in self.log if r.partition == partition.partition and span.start <= r.offset < span.end]
            self.scanned += span.end - span.start
            if found:
                yield found


class MemoryHub(Hub):
    """The real hub over a log of memory, which the test writes to."""

    def __init__(self, settings: Settings) -> None:
        self.log = MemoryLog(PARTITIONS)
        super().__init__(settings, self.log.reader)
        self.fails: PlatformError | None = None

    @asynccontextmanager
    async def subscribe(self, topic: str, start: Start = "latest") -> AsyncIterator[Subscription]:
        if self.fails is not None:
            raise self.fails
        async with super().subscribe(topic, start) as subscription:
            yield subscription


@dataclass
class Gateway:
    """A running gateway, its parts, and a client of it."""

    settings: Settings
    admin: MemoryAdmin
    registry: MemoryRegistry
    producer: MemoryProducer
    reader: MemoryReader
    hub: MemoryHub
    codec: AvroCodec
    metrics: Metrics
    client: TestClient[web.Request, web.Application]
    state: State

    def token(self, scopes: str = "*", **claims: Any) -> str:
        """A valid token."""
        return make_token(
            self.settings,
            load_or_create_secret(self.settings),
            scopes.split(),
            claims.get("ttl_s", 3_600),
            "tester",
            claims.get("now", time.time()),
        )

    def headers(self, scopes: str = "*", **more: str) -> dict[str, str]:
        """Request headers with a valid token."""
        return {"Authorization": f"Bearer {self.token(scopes)}"} | more

    async def post(self, body: Any, topic: str = "iot", content_type: str = "application/json") -> ClientResponse:
        """POST an event with a token for everything."""
        return await self.client.post(
            f"/api/v1/events/{topic}", data=body, headers=self.headers(**{"Content-Type": content_type})
        )


@dataclass
class State:
    """What tests change while a gateway runs."""

    waiting_for: str | None = None
    tables_waiting: str | None = None
    tables: MemoryTables = field(default_factory=MemoryTables)


def make_settings(**values: Any) -> Settings:
    """Settings with a key for tokens."""
    return Settings(**({"jwt_secret": SECRET} | values))


def make_services(settings: Settings) -> tuple[Services, State, MemoryReader]:
    """The platform of memory."""
    state = State()
    codec = AvroCodec()
    codec.add_schema(SCHEMA_ID, schemas.EVENT)
    admin, registry, reader = MemoryAdmin(settings), MemoryRegistry(), MemoryReader([])
    loader = SchemaLoader(registry, codec)
    topic_schemas = TopicSchemas(registry, codec, max_age_s=settings.schema_max_age_s)
    publisher = Publisher(settings, codec, loader, topic_schemas, clock_ms=lambda: NOW_MS)
    topics = EventTopics(settings, admin, topic_schemas)
    producer = MemoryProducer(settings)
    services = Services(
        settings=settings,
        catalog=TopicCatalog(admin, topics.create_for_event if settings.topic_creation == "auto" else None),
        topics=topics,
        publisher=publisher,
        producer=producer,
        store=EventStore(settings, producer, codec, lambda: DEAD_LETTER_SCHEMA_ID),
        admin=admin,
        registry=registry,
        hub=MemoryHub(settings),
        codec=codec,
        loader=loader,
        waiting_for=lambda: state.waiting_for,
        tables_waiting=lambda: state.tables_waiting,
        tables=state.tables.view(),
        letters_by_reason=lambda: state.tables.by_reason,
        open_reader=lambda: reader,
        open_redrive_writer=lambda: ExclusiveWriter(settings, "redrive"),
    )
    return services, state, reader


class Server(TestServer):
    """Serves as Faust does, behind our own runner."""

    def __init__(self, app: web.Application, settings: Settings) -> None:
        super().__init__(app)
        self._settings = settings

    async def _make_runner(self, **_: Any) -> web.AppRunner:
        return Runner(self.app, self._settings)


@asynccontextmanager
async def following(hub: Hub) -> AsyncIterator[None]:
    """A hub that runs, and has ended afterwards."""
    await hub.start()
    task = asyncio.create_task(hub.follow())
    try:
        yield
    finally:
        await hub.stop()
        await task


@asynccontextmanager
async def gateway(*, authenticator: Authenticator | None = None, **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway that listens on a free port of 127.0.0.1."""
    services, state, reader = make_services(make_settings(**settings))
    application = web.Application()
    metrics = mount(application, services, authenticator=authenticator)
    async with following(services.hub), TestClient(Server(application, services.settings)) as client:
        assert isinstance(services.admin, MemoryAdmin)
        assert isinstance(services.registry, MemoryRegistry)
        assert isinstance(services.producer, MemoryProducer)
        assert isinstance(services.hub, MemoryHub)
        yield Gateway(
            services.settings,
            services.admin,
            services.registry,
            services.producer,
            reader,
            services.hub,
            services.codec,
            metrics,
            client,
            state,
        )


def make_record(
    codec: AvroCodec, offset: int, *, partition: int = 0, timestamp_ms: int = NOW_MS, **fields: Any
) -> Record:
    """A record of `events.iot`, as the platform stores it."""
    values = {"event_type": "sensor.reading", "timestamp": NOW_MS, "device_id": "d1"} | fields
    event = event_from_fields(values, EventRules(), NOW_MS, lambda: f"00000000-0000-4000-8000-{offset:012d}")
    return Record(
        "events.iot",
        partition,
        offset,
        timestamp_ms,
        event.key,
        codec.encode_event(event, SCHEMA_ID),
        event_headers(event, "application/json", NOW_MS, None),
    )


async def problem_of(response: ClientResponse) -> dict[str, Any]:
    """The problem document of a response, checked to be one (RFC 9457)."""
    assert response.content_type == "application/problem+json"
    document: dict[str, Any] = await response.json()
    assert {"type", "title", "status", "detail", "instance", "code", "retriable"} <= document.keys()
    assert document["status"] == response.status
    assert document["type"].endswith(":" + document["code"])
    assert document["instance"].startswith("/")
    assert all(isinstance(document[name], str) and document[name] for name in ("type", "title", "detail", "code"))
    return document
