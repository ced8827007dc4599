"""The Faust app: its settings, what it stands on, and the order in which that starts."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, cast

import faust
from faust.app.base import BootStrategy
from faust.types import TransportT
from faust.types.auth import CredentialsT
from mode import Service
from mode.types import ServiceT

from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.naming import AGGREGATES, DLQ, EVENTS_PREFIX
from streams.event_topics import EventTopics
from streams.hub import Hub
from streams.kafka.admin import TopicAdmin
from streams.kafka.batching import Engine, Limits, MemoryStore, Pace, Source, Store, Table
from streams.kafka.producer import EventProducer
from streams.kafka.security import aiokafka_options, ssl_context
from streams.publishing import Publisher, TopicCatalog
from streams.registry import SchemaLoader, SchemaRegistry
from streams.retrying import retrying
from streams.settings import Settings, load_settings
from streams.topic_schemas.store import TopicSchemas
from streams.topics import event_topics, topic_specs

log = logging.getLogger(__name__)

COMPATIBILITY: Final = "BACKWARD"
_SAY_AGAIN_S: Final = 10.0


class Platform(Service):
    """What a worker stands on: Kafka, the registry, the schemas. It starts before any agent.

    Starting waits, with backoff, for what is away, and says so: on ECS and Kubernetes, too, things start in
    any order. A refused password or certificate is no such thing and ends the worker.
    """

    abstract = False

    def __init__(self, settings: Settings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings = settings
        self.codec = AvroCodec()
        self.registry = SchemaRegistry(settings)
        self.loader = SchemaLoader(self.registry, self.codec)
        self.admin = TopicAdmin(settings)
        self.schemas = TopicSchemas(self.registry, self.codec, max_age_s=settings.schema_max_age_s)
        self.topics = EventTopics(settings, self.admin, self.schemas)
        self.catalog = TopicCatalog(
            self.admin, self.topics.create_for_event if settings.topic_creation == "auto" else None
        )
        self.producer = EventProducer(settings)
        self.publisher = Publisher(settings, self.codec, self.loader, self.schemas)
        self.hub = Hub(settings)
        self.dead_letter_schema: int | None = None
        self.before_agents: list[Callable[[], Awaitable[None]]] = []
        """What else is done, and waited for, before agents start."""
        self.waiting_for: str | None = "start"
        """What a start waits for now; None once everything is up."""

    async def on_start(self) -> None:
        """Wait for Kafka and the registry; create topics and register schemas."""
        steps: tuple[tuple[str, Callable[[], Awaitable[None]]], ...] = (
            ("Kafka", self.admin.ping),
            ("the topics", self._prepare_topics),
            ("the schema registry", self._prepare_schemas),
            ("the producer", self.producer.start),
            ("the live streams", self.hub.start),
            *(("the agents' topics", step) for step in self.before_agents),
        )
        for what, attempt in steps:
            await self._eventually(what, attempt)
            if self.should_stop:
                return
        self.add_future(self.hub.follow())
        self.waiting_for = None

    async def event_topics(self) -> list[str]:
        """The Kafka topics of all events, those that were created lately too. Raises Kafka's errors."""
        return [topic for topic in await self.admin.topics() if topic.startswith(EVENTS_PREFIX)]

    async def on_stop(self) -> None:
        """Close in the opposite order; what is queued is sent first."""
        await self.hub.stop()
        await self.producer.stop()
        await self.schemas.close()

    async def _prepare_topics(self) -> None:
        specs = topic_specs(self.settings)
        if created := await self.admin.create(specs):
            log.info("created %d topics: %s", len(created), ", ".join(sorted(created)))
        for difference in await self.admin.differences(specs):
            log.warning("a topic differs from its settings: %s", difference)
        await self.catalog.refresh()

    async def _prepare_schemas(self) -> None:
        await self.registry.ensure_compatibility(COMPATIBILITY)
        for topic in event_topics(self.settings):
            await self.schemas.prepare(topic)
        await self._register(AGGREGATES, schemas.AGGREGATED_EVENT)
        self.dead_letter_schema = await self._register(DLQ, schemas.DLQ_MESSAGE)

    async def _register(self, topic: str, schema: str) -> int:
        schema_id = await self.registry.register(f"{topic}-value", schema)
        self.codec.add_schema(schema_id, schema)
        return schema_id

    async def _eventually(self, what: str, attempt: Callable[[], Awaitable[None]]) -> None:
        self.waiting_for = what
        said_at = float("-inf")

        def say(error: Exception, failures: int) -> None:
            nonlocal said_at
            if time.monotonic() - said_at >= _SAY_AGAIN_S:
                said_at = time.monotonic()
                log.warning("waiting for %s, attempt %d: %s", what, failures, error)

        waiting = asyncio.ensure_future(retrying(attempt, self.settings.retry_policy(), on_retry=say))
        try:
            # A worker that is told to stop while it waits must not wait on.
            if (await self.wait(waiting)).stopped:
                return
        finally:
            waiting.cancel()
        log.info("%s: ready", what)


class _Boot(BootStrategy):
    """Web first, so that health can be asked while the worker waits; then the platform; then Faust's own."""

    def server(self) -> Iterable[ServiceT]:
        app = cast("StreamsApp", self.app)
        return self._chain(
            self.sensors(),
            self.web_server(),
            [app.platform],
            self.kafka_producer(),
            self.kafka_consumer(),
            self.agents(),
            self.kafka_conductor(),
            self.tables(),
        )


class StreamsApp(faust.App):
    """A Faust app that carries the platform it stands on."""

    BootStrategy = _Boot
    platform: Platform
    engine: Engine

    def _new_transport(self) -> TransportT:
        return self.engine.transport_for(self)


def create_app(settings: Settings) -> StreamsApp:
    """The app for these settings. Nothing is connected and no file is written."""
    app = StreamsApp(
        settings.app_id,
        broker=[f"kafka://{server}" for server in settings.kafka_bootstrap_servers.split(",")],
        broker_credentials=_credentials(settings),
        # The defaults leave a dead worker's partitions unread for a minute.
        broker_session_timeout=6.0,
        broker_heartbeat_interval=2.0,
        # A worker without partitions, or whose partitions take long to open, fetches nothing, and would be put out of
        # its group for good. That agents do not get on is the engine's to tell.
        broker_max_poll_interval=2_000_000.0,
        # Of all partitions together; a transaction gathers several fetches.
        broker_max_poll_records=2_000,
        # So that partitions which a topic is given while workers run are found.
        consumer_metadata_max_age_ms=10_000,
        consumer_auto_offset_reset="earliest",
        producer_acks=-1,
        # Every topic is made by us, with its configuration, before agents start (streams.topics).
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=settings.kafka_partitions,
        topic_replication_factor=settings.kafka_replication_factor,
        store="memory://",
        datadir=settings.data_dir,
        web_bind=settings.web_host,
        web_port=settings.web_port,
        web_host=settings.web_host,
        canonical_url=settings.web_url or f"http://{settings.web_host}:{settings.web_port}",
        web_metrics_enabled=False,  # ours is at /metrics, with more in it
        stream_wait_empty=False,
        loghandlers=[],
    )
    app.platform = Platform(settings, loop=app.loop, beacon=app.beacon)
    app.engine = _engine(settings, app.platform)

    async def begin_to_stop(*_: object, **__: object) -> None:
        _end_in(settings.shutdown_deadline_s)
        # Before Faust stops anything, so that what is begun can still be committed.
        await app.engine.stop()

    app.on_before_shutdown.connect(begin_to_stop, weak=False)
    return app


def _engine(settings: Settings, platform: Platform) -> Engine:
    policy = settings.retry_policy()

    def new_store(table: Table[Any], source: Source) -> Store[Any]:
        if settings.table_store == "memory":
            return MemoryStore()
        from streams.kafka.batching.rocks import RocksStore

        return RocksStore(settings.data_dir / "tables", table, source)

    return Engine(
        settings.app_id,
        lambda: aiokafka_options(settings),
        new_store=new_store,
        ensure_partitions=platform.admin.ensure_partitions,
        backoff_s=lambda failures: policy.ceiling_s(failures) * random.uniform(0.5, 1.0),
        limits=Limits(batches=64, bytes=settings.agent_max_bytes),
        pace=Pace(linger_s=settings.agent_linger_ms / 1000),
    )


def _end_in(seconds: float) -> None:
    """End the process when it has not stopped in time.

    While Kafka is away, Faust's consumer and producer wait for it without end. What was not committed is read again
    by the next worker, as after a kill.
    """

    def end() -> None:
        log.error("not stopped within %g s: ending as it is; what is not committed will be read again", seconds)
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _credentials(settings: Settings) -> CredentialsT | None:
    context = ssl_context(settings)
    if settings.kafka_security_protocol == "SASL_SSL" and settings.kafka_sasl_password is not None:
        return faust.SASLCredentials(
            username=settings.kafka_sasl_username,
            password=settings.kafka_sasl_password.get_secret_value(),
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=context,
        )
    if context is not None:
        return faust.SSLCredentials(context=context)
    return None


app: Final = create_app(load_settings())
