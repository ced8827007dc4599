"""From received bytes to a record of `events.*`: the one path, for the gateway and the ingest agent."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from streams.codecs import AvroCodec, Format, read_event
from streams.domain.envelope import Event
from streams.domain.errors import KafkaUnavailableError, PlatformError, UnavailableError, UnknownTopicError
from streams.domain.headers import event_headers
from streams.domain.naming import EVENTS_PREFIX, event_topic
from streams.domain.validation import EventRules
from streams.kafka.admin import TopicAdmin
from streams.kafka.producer import OutgoingRecord
from streams.registry import SchemaLoader
from streams.settings import Settings

_REFRESH_S: Final = 5.0
_RETRY_S: Final = 1.0


def now_ms() -> int:
    """The wall clock, milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def new_event_id() -> str:
    """A random UUID, for events that came without an id."""
    return str(uuid.uuid4())


class TopicCatalog:
    """Which event topics exist, without asking Kafka for each event."""

    def __init__(self, admin: TopicAdmin, create: Callable[[str], Awaitable[None]] | None = None) -> None:
        self._admin = admin
        self._create = create
        """Makes the topic of an API name, where first events may do that; None where they may not."""
        self._known: set[str] = set()
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        self._error: PlatformError | None = None

    async def require(
        self, name: str, *, certain: bool = False, since: float | None = None, create: bool = False
    ) -> str:
        """The Kafka topic of an API topic name. Raises UnknownTopicError, or Kafka's errors.

        One that does not exist is created where `create` is asked for and the settings allow it.

        Kafka is asked about an unknown name at most once in five seconds, however many ask for one; while it is
        away, once in a second. A `certain` answer is never older than the question, or than `since` (on the monotonic
        clock) where that is given: who cannot ask again waits.
        """
        topic = event_topic(name)
        came_at = time.monotonic() if since is None else since
        if topic not in self._known:
            async with self._asking:
                if topic not in self._known:
                    await self._ask(came_at if certain else None)
        if topic not in self._known:
            if not create or self._create is None:
                raise UnknownTopicError(name)
            await self._create(name)
            self._known.add(topic)
        return topic

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
        try:
            self._known = {t for t in await self._admin.topics() if t.startswith(EVENTS_PREFIX)}
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
    """Validates events and makes the records that store them."""

    def __init__(
        self,
        settings: Settings,
        codec: AvroCodec,
        loader: SchemaLoader,
        *,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._rules = EventRules(max_future_ms=settings.event_max_future_s * 1000)
        self._codec = codec
        self._loader = loader
        self._clock_ms = clock_ms
        self._schema_id: int | None = None

    def use_schema(self, schema_id: int) -> None:
        """Write events with the schema `Event`, which the registry has under this id."""
        self._schema_id = schema_id

    async def read(self, data: bytes, format_: Format, event_ids: Callable[[], str] = new_event_id) -> Event:
        """The valid event in these bytes; `event_ids` is called where the client sent no id.

        Raises MalformedEventError, InvalidEventError, UnknownSchemaError, or the registry's errors.
        """
        return await self._loader.read(
            lambda: read_event(
                data, format_, self._codec, rules=self._rules, now_ms=self._clock_ms(), new_event_id=event_ids
            )
        )

    def record(self, topic: str, event: Event, format_: Format, traceparent: str | None) -> OutgoingRecord:
        """The record of an event for a Kafka topic. Raises UnavailableError before the schema is registered."""
        if self._schema_id is None:
            raise UnavailableError("the event schema is not registered yet")
        return OutgoingRecord(
            topic,
            event.key,
            self._codec.encode_event(event, self._schema_id),
            event_headers(event, format_, self._clock_ms(), traceparent),
        )
