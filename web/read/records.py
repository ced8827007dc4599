"""Stored records as clients see them: one form for the latest events and for the live stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

import msgspec

from streams.codecs import HEADER_BYTES, AvroCodec, event_to_json, unframe
from streams.dead_letters import Header, Text
from streams.domain.envelope import Event
from streams.domain.errors import MalformedEventError, PlatformError, UnknownSchemaError
from streams.domain.headers import CONTENT_TYPE, EVENT_TYPE, TRACEPARENT, header
from streams.domain.naming import api_topic
from streams.kafka.consumer import Record
from streams.registry import SchemaLoader

_NULL = msgspec.Raw(b"null")

EventJson = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"anyOf": [{"type": "object"}, {"type": "null"}]})]


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """Which records a client wants: those of a key, of an event type, or all."""

    key: bytes | None
    event_type: str | None

    @classmethod
    def of(cls, key: str | None, event_type: str | None) -> Self:
        """The filter for two query parameters."""
        return cls(None if key is None else key.encode(), event_type)

    @property
    def all(self) -> bool:
        """Whether every record passes."""
        return self.key is None and self.event_type is None

    def matches(self, record: Record) -> bool:
        """Whether a record of `events.*` passes, judged by its key and headers, without decoding it."""
        if self.key is not None and record.key != self.key:
            return False
        return self.event_type is None or header(record.headers, EVENT_TYPE) == self.event_type


class StoredEvent(msgspec.Struct, omit_defaults=True, gc=False):
    """An event and its place in the log. Times are milliseconds since the Unix epoch."""

    partition: int
    offset: int
    stored_at: int
    """Kafka's timestamp of the record; event time is in the event."""
    event: EventJson
    """The event as JSON; null where `error` says why it cannot be read."""
    traceparent: str | None = None
    error: str | None = None


class EventRecord(msgspec.Struct, gc=False):
    """One record of an event topic, in full. Times are milliseconds since the Unix epoch."""

    topic: str
    """The API's name of it."""
    partition: int
    offset: int
    stored_at: int
    """Kafka's timestamp of the record; event time is in the event."""
    key: Text | None
    headers: list[Header]
    """In their order."""
    content_type: str | None
    """As it was received, by its header."""
    schema_id: int | None
    """By which it was written; null where it is not in Confluent's wire format."""
    event: EventJson
    """The event as JSON; null where `error` says why it cannot be read."""
    error: str | None


async def event_record(record: Record, codec: AvroCodec, loader: SchemaLoader) -> EventRecord:
    """A record of `events.*` in full. Raises as `stored_event`."""
    value = record.value or b""
    event, error = await _as_json(record, codec, loader)
    try:
        schema_id = unframe(value[:HEADER_BYTES])[0]
    except MalformedEventError:
        schema_id = None
    return EventRecord(
        api_topic(record.topic),
        record.partition,
        record.offset,
        record.timestamp_ms,
        None if record.key is None else Text.of(record.key),
        [Header(name, Text.of(data)) for name, data in record.headers],
        header(record.headers, CONTENT_TYPE),
        schema_id,
        event,
        error,
    )


async def read_event(record: Record, codec: AvroCodec, loader: SchemaLoader) -> Event | PlatformError:
    """The event of a record of `events.*`, or why nobody can read it.

    Raises RegistryUnavailableError or RegistryAccessError where its schema must be looked up and cannot be.
    """
    value = record.value or b""
    try:
        return await loader.read(lambda: codec.decode_event(value))
    except (MalformedEventError, UnknownSchemaError) as exc:
        return exc


async def stored_event(record: Record, codec: AvroCodec, loader: SchemaLoader) -> StoredEvent:
    """A record of `events.*`, decoded. One that nobody can read is told as such, not left out.

    Raises RegistryUnavailableError or RegistryAccessError where its schema must be looked up and cannot be.
    """
    event, error = await _as_json(record, codec, loader)
    return StoredEvent(
        record.partition, record.offset, record.timestamp_ms, event, header(record.headers, TRACEPARENT), error
    )


async def _as_json(record: Record, codec: AvroCodec, loader: SchemaLoader) -> tuple[msgspec.Raw, str | None]:
    event = await read_event(record, codec, loader)
    return (_NULL, event.code) if isinstance(event, PlatformError) else (msgspec.Raw(event_to_json(event)), None)
