"""From received bytes to a record of `events.*`: the one path, for the gateway and the ingest agent."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from streams import cloudevents
from streams.batches import BatchFormat, read_batch
from streams.codecs import AvroCodec, Format, frame, read_event
from streams.domain.envelope import Event
from streams.domain.errors import (
    InvalidEventError,
    KafkaUnavailableError,
    PlatformError,
    UnavailableError,
    UnknownTopicError,
)
from streams.domain.headers import event_headers
from streams.domain.naming import EVENTS_PREFIX, event_topic
from streams.domain.validation import EventRules, event_from_fields, event_from_json
from streams.event_ids import new_event_id
from streams.kafka.admin import TopicAdmin
from streams.kafka.producer import OutgoingRecord
from streams.registry import SchemaLoader
from streams.settings import Settings
from streams.topic_schemas.store import TopicSchema, TopicSchemas

_REFRESH_S: Final = 5.0
_RETRY_S: Final = 1.0
_STALE_S: Final = 30.0

log = logging.getLogger(__name__)


def now_ms() -> int:
    """The wall clock, milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


class TopicCatalog:
    """Which event topics exist, without asking Kafka for each event."""

    def __init__(self, admin: TopicAdmin, create: Callable[[str], Awaitable[None]] | None = None) -> None:
        self._admin = admin
        self._create = create
        """Makes the topic of an API name, where first events may do that; None where they may not."""
        self._known: set[str] = set()
        self._created: dict[str, float] = {}
        """When topics were created from here lately: an answer that was under way, or another broker's, may lack them."""
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        self._error: PlatformError | None = None
        self._creating: dict[str, asyncio.Task[None]] = {}
        self._looking_again: asyncio.Task[None] | None = None

    async def require(
        self, name: str, *, certain: bool = False, since: float | None = None, create: bool = False
    ) -> str:
        """The Kafka topic of an API topic name. Raises UnknownTopicError, or Kafka's errors.

        One that does not exist is created where `create` is asked for and the settings allow it; however many ask
        for it here at once, that is done once.

        Kafka is asked about an unknown name at most once in five seconds, however many ask for one; while it is
        away, once in a second. A `certain` answer is never older than the question, or than `since` (on the monotonic
        clock) where that is given: who cannot ask again waits. Topics that are known are looked up again beside the
        caller, so that one which was deleted is unknown half a minute later.
        """
        topic = event_topic(name)
        if topic in self._known:
            if time.monotonic() - self._asked_at >= _STALE_S:
                self._look_again()
            return topic
        came_at = time.monotonic() if since is None else since
        async with self._asking:
            if topic not in self._known:
                await self._ask(came_at if certain else None)
        if topic not in self._known:
            if not create or self._create is None:
                raise UnknownTopicError(name)
            # One for all who wait; a caller whose deadline ends takes it from nobody else.
            await asyncio.shield(self._creation(self._create, name, topic))
        return topic

    def knows(self, name: str) -> bool:
        """Whether there is an event topic of this API name, as far as is known now."""
        return EVENTS_PREFIX + name in self._known

    @property
    def is_fresh(self) -> bool:
        """Whether what is known need not be looked up again."""
        return time.monotonic() - self._asked_at < _STALE_S

    def created(self, name: str) -> None:
        """Take note of a topic that was created here, before Kafka would be asked again."""
        topic = event_topic(name)
        self._known.add(topic)
        self._created[topic] = time.monotonic()

    def _creation(self, create: Callable[[str], Awaitable[None]], name: str, topic: str) -> asyncio.Task[None]:
        if topic not in self._creating:

            async def work() -> None:
                try:
                    await create(name)
                    self.created(name)
                finally:
                    del self._creating[topic]

            def note(done: asyncio.Task[None]) -> None:
                # Who waits is told; but the deadlines of all may have ended before.
                error = None if done.cancelled() else done.exception()
                if error is not None and not (isinstance(error, PlatformError) and not error.retriable):
                    log.warning("%s was not created: %s", topic, error)

            self._creating[topic] = asyncio.get_running_loop().create_task(work())
            self._creating[topic].add_done_callback(note)
        return self._creating[topic]

    def _look_again(self) -> None:
        if self._looking_again is None:
            self._looking_again = asyncio.get_running_loop().create_task(self._try_refresh())

    async def _try_refresh(self) -> None:
        try:
            async with self._asking:
                await self.refresh()
        except PlatformError as exc:
            # What is known goes on being used; whoever writes to a topic that is gone is told by Kafka.
            log.warning("the topics were not looked up again: %s", exc)
        finally:
            self._looking_again = None

    async def _ask(self, not_before: float | None) -> None:
        pause_s = _RETRY_S if self._error is not None or not_before is not None else _REFRESH_S
        rest_s = self._asked_at + pause_s - time.monotonic()
        if not_before is not None and self._asked_at < not_before:
            await asyncio.sleep(max(0.0, rest_s))
        elif rest_s > 0:
            if self._error is not None:
                raise self._error
            return
        await self.refresh()

    async def refresh(self) -> None:
        """Learn which event topics exist now."""
        lately = time.monotonic() - _REFRESH_S
        try:
            topics = await self._admin.topics()
            self._created = {topic: at for topic, at in self._created.items() if at > lately}
            self._known = {topic for topic in topics if topic.startswith(EVENTS_PREFIX)} | self._created.keys()
            self._error = None
        except PlatformError as exc:
            self._error = exc
            raise
        except asyncio.CancelledError:
            # The caller's deadline: nothing is known of any topic, so none may be called unknown.
            self._error = KafkaUnavailableError("Kafka did not say in time which topics there are")
            raise
        finally:
            self._asked_at = time.monotonic()


class Publisher:
    """Validates events and makes the records that store them, by the rules of their topic."""

    def __init__(
        self,
        settings: Settings,
        codec: AvroCodec,
        loader: SchemaLoader,
        topic_schemas: TopicSchemas | None = None,
        *,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._rules = EventRules(max_future_ms=settings.event_max_future_s * 1000)
        self._codec = codec
        self._loader = loader
        self._schemas = topic_schemas
        """None where no topic has a schema of its own, as in a benchmark: see `use_schema`."""
        self._clock_ms = clock_ms
        self._only: TopicSchema | None = None

    def use_schema(self, schema_id: int) -> None:
        """Write the events of every topic with the schema `Event`, which the registry has under this id."""
        self._only = TopicSchema.event(schema_id)

    def _schema_of(self, topic: str) -> TopicSchema:
        if self._schemas is not None:
            return self._schemas.of(topic)
        if self._only is None:
            raise UnavailableError("the event schema is not registered yet")
        return self._only

    async def prepare(self, topic: str) -> None:
        """Have the schema of a Kafka topic at hand; waits for the registry the first time only.

        Before the methods below are called for that topic. Raises the registry's errors.
        """
        if self._schemas is not None:
            await self._schemas.prepare(topic)

    def is_prepared(self, topic: str) -> bool:
        """Whether `prepare` would do nothing: the schema is at hand, and need not be looked up again."""
        return self._only is not None if self._schemas is None else self._schemas.is_fresh(topic)

    def read_json(self, data: bytes, event_ids: Callable[[], str]) -> Event:
        """As `read`, of JSON, which waits for nothing."""
        return event_from_json(data, self._rules, self._clock_ms(), event_ids)

    async def read(
        self,
        data: bytes,
        format_: Format,
        event_ids: Callable[[], str] = new_event_id,
        *,
        topic: str | None = None,
    ) -> Event:
        """The event in these bytes, valid as an event; `event_ids` is called where the client sent no id.

        Protobuf is the message of the Kafka topic, where one is named that has its own. Whether the event is one for
        the topic, `check` says, and `record`. Raises MalformedEventError, InvalidEventError, UnknownSchemaError, or
        the registry's errors.
        """
        if format_ is Format.PROTOBUF and topic is not None:
            await self.prepare(topic)
            if (fields := self._schema_of(topic).fields) is not None:
                with self._doubting(topic):
                    found = fields(data)
                return event_from_fields(found, self._rules, self._clock_ms(), event_ids)
        return await self._loader.read(
            lambda: read_event(
                data, format_, self._codec, rules=self._rules, now_ms=self._clock_ms(), new_event_id=event_ids
            )
        )

    def read_batch(
        self, body: bytes, format_: BatchFormat, event_ids: Callable[[int], str], max_records: int
    ) -> Iterator[Event | InvalidEventError]:
        """What becomes of each record of a batch, as `streams.batches.read_batch`; valid as events."""
        return read_batch(
            body,
            format_,
            rules=self._rules,
            now_ms=self._clock_ms(),
            new_event_id=event_ids,
            max_records=max_records,
        )

    def read_cloudevent(
        self, attributes: Mapping[str, str], body: bytes, content_type: str, event_ids: Callable[[], str]
    ) -> Event:
        """The event of a CloudEvent in binary mode, as `streams.cloudevents.binary`. Raises InvalidEventError."""
        return cloudevents.binary(
            attributes, body, content_type, rules=self._rules, now_ms=self._clock_ms(), new_event_id=event_ids
        )

    def schema_id(self, topic: str) -> int:
        """The id of the schema that events of a Kafka topic are written with."""
        return self._schema_of(topic).event_schema

    def check(self, topic: str, event: Event) -> None:
        """Return if the event keeps to its topic's own schema. Raises InvalidEventError."""
        if (check := self._schema_of(topic).check) is not None:
            check(event)

    def value(self, topic: str, event: Event) -> bytes:
        """The value of an event's record: framed Avro. Raises InvalidEventError as `check`."""
        schema = self._schema_of(topic)
        if schema.check is None:
            return self._codec.encode_event(event, schema.event_schema)
        with self._doubting(topic):
            if schema.body is not None:
                return frame(schema.event_schema, schema.body(event))
            schema.check(event)
        return self._codec.encode_event(event, schema.event_schema)

    async def renewed(self, topic: str) -> bool:
        """Whether the topic has another schema by now than the one that has just refused an event."""
        return self._schemas is not None and await self._schemas.renewed(topic)

    @contextmanager
    def _doubting(self, topic: str) -> Iterator[None]:
        try:
            yield
        except InvalidEventError:
            if self._schemas is not None:
                self._schemas.doubt(topic)
            raise

    def record(self, topic: str, event: Event, format_: Format, traceparent: str | None) -> OutgoingRecord:
        """The record of an event for a Kafka topic. Raises InvalidEventError as `check`."""
        return OutgoingRecord(
            topic,
            event.key,
            self.value(topic, event),
            event_headers(event, format_, self._clock_ms(), traceparent),
        )
