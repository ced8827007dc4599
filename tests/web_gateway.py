"""The gateway on a platform of memory: the real routes, validation, codecs and tokens, but no Kafka and no registry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.aggregates import AggregatedEvent
from streams.domain.errors import PlatformError, UnknownSchemaError, UnknownTopicError
from streams.domain.headers import event_headers
from streams.domain.validation import EventRules, event_from_fields
from streams.hub import Hub, Subscription
from streams.kafka.admin import TopicAdmin
from streams.kafka.consumer import LogReader, Partition, Record, Span
from streams.kafka.exclusive import ExclusiveWriter
from streams.kafka.producer import EventProducer, OutgoingRecord, Receipt
from streams.publishing import Publisher, TopicCatalog
from streams.registry import SchemaLoader, SchemaRegistry
from streams.settings import Settings
from tests.memory_tables import MemoryTables
from tests.strategies import NOW_MS
from web.auth import Authenticator, load_or_create_secret, make_token
from web.installation import mount
from web.metrics import Metrics
from web.services import Services

SECRET = "a key for tests, of 32 bytes or so"
SCHEMA_ID = 7
STORED_AT = 1_750_000_000_123
PARTITIONS = 2
EVENT = {"event_type": "sensor.reading", "timestamp": NOW_MS, "device_id": "d1", "value": 21.5, "payload": {"a": [1]}}


class MemoryAdmin(TopicAdmin):
    """Knows the topic `events.iot`, and one that clients must never reach."""

    def __init__(self) -> None:
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
        return {"events.iot": PARTITIONS, "platform.dlq": PARTITIONS}


class MemoryRegistry(SchemaRegistry):
    """Knows no schema but the event's own, which is loaded already."""

    def __init__(self) -> None:
        self.fails: PlatformError | None = None

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

    async def send(self, record: OutgoingRecord, deadline_s: float) -> Receipt:
        if self.fails is not None:
            raise self.fails
        if self.hangs:
            # As the real one would, were its deadline not kept: the request's own must hold.
            await asyncio.Event().wait()
        self.sent.append(record)
        return Receipt(record.topic, 1, len(self.sent) - 1, STORED_AT)


class MemoryReader(LogReader):
    """Reads a log of memory."""

    def __init__(self, log: list[Record]) -> None:
        self.log = log
        self.fails: PlatformError | None = None
        self.started = self.stopped = 0
        self.scanned = 0

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

    async def read(self, spans: Mapping[Partition, Span]) -> AsyncIterator[list[Record]]:
        for partition, span in spans.items():
            await asyncio.sleep(0)
            if self.fails is not None:
                raise self.fails
            found = [r for r in self.log if r.partition == partition.partition and span.start <= r.offset < span.end]
            self.scanned += span.end - span.start
            if found:
                yield found


class MemoryHub(Hub):
    """Hands out subscriptions that the test fills."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.fails: PlatformError | None = None
        self.capacity = 1_000
        self.open: list[Subscription] = []

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[Subscription]:
        if self.fails is not None:
            raise self.fails
        subscription = Subscription(topic, self.capacity)
        self.open.append(subscription)
        try:
            yield subscription
        finally:
            self.open.remove(subscription)


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
    windows: list[AggregatedEvent] = field(default_factory=list)
    queries: list[dict[str, Any]] = field(default_factory=list)
    tables: MemoryTables = field(default_factory=MemoryTables)

    def query_windows(self, topic: str, **filters: Any) -> list[AggregatedEvent]:
        """Remember the question; answer what the test has set."""
        self.queries.append({"topic": topic, **filters})
        return self.windows


def make_settings(**values: Any) -> Settings:
    """Settings with a key for tokens."""
    return Settings(**({"jwt_secret": SECRET} | values))


def make_services(settings: Settings) -> tuple[Services, State, MemoryReader]:
    """The platform of memory."""
    state = State()
    codec = AvroCodec()
    codec.add_schema(SCHEMA_ID, schemas.EVENT)
    admin, registry, reader = MemoryAdmin(), MemoryRegistry(), MemoryReader([])
    loader = SchemaLoader(registry, codec)
    publisher = Publisher(settings, codec, loader, clock_ms=lambda: NOW_MS)
    publisher.use_schema(SCHEMA_ID)
    services = Services(
        settings=settings,
        catalog=TopicCatalog(admin),
        publisher=publisher,
        producer=MemoryProducer(settings),
        admin=admin,
        registry=registry,
        hub=MemoryHub(settings),
        codec=codec,
        loader=loader,
        waiting_for=lambda: state.waiting_for,
        tables_waiting=lambda: state.tables_waiting,
        query_windows=state.query_windows,
        tables=state.tables.view(),
        letters_by_reason=lambda: state.tables.by_reason,
        open_reader=lambda: reader,
        open_redrive_writer=lambda: ExclusiveWriter(settings, "redrive"),
    )
    return services, state, reader


class Server(TestServer):
    """Serves as Faust does: handlers outlive their clients, and there is no access log."""

    async def _make_runner(self, **_: Any) -> web.AppRunner:
        return web.AppRunner(self.app, access_log=None)


@asynccontextmanager
async def gateway(*, authenticator: Authenticator | None = None, **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway that listens on a free port of 127.0.0.1."""
    services, state, reader = make_services(make_settings(**settings))
    application = web.Application()
    metrics = mount(application, services, authenticator=authenticator)
    async with TestClient(Server(application)) as client:
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
