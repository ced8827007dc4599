"""Stored records as clients see them: one form for the latest events and for the live stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import msgspec

from streams.codecs import AvroCodec, event_to_json
from streams.domain.errors import PlatformError
from streams.domain.headers import EVENT_TYPE, TRACEPARENT, header
from streams.kafka.consumer import Record
from streams.registry import SchemaLoader

_NULL = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """Which records a client wants: those of a key, of an event type, or all."""

    key: bytes | None
    event_type: str | None

    @classmethod
    def of(cls, key: str | None, event_type: str | None) -> Self:
        """The filter for two query parameters."""
        return cls(None if key is None else key.encode(), event_type)

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
    event: msgspec.Raw
    """The event as JSON; null where `error` says why it cannot be read."""
    traceparent: str | None = None
    error: str | None = None


async def stored_event(record: Record, codec: AvroCodec, loader: SchemaLoader) -> StoredEvent:
    """A record of `events.*`, decoded. One that nobody can read is told as such, not left out.

    Raises RegistryUnavailableError or RegistryAccessError where its schema must be looked up and cannot be.
    """
    value = record.value or b""
    event, error = _NULL, None
    try:
        event = msgspec.Raw(event_to_json(await loader.read(lambda: codec.decode_event(value))))
    except PlatformError as exc:
        if exc.code not in ("malformed_event", "unknown_schema"):
            raise
        error = exc.code
    return StoredEvent(
        record.partition, record.offset, record.timestamp_ms, event, header(record.headers, TRACEPARENT), error
    )
