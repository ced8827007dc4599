"""From a request to events: which format its body is in, and by what a repetition of each event would be known."""

from __future__ import annotations

import re
import uuid
from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

import msgspec
from aiohttp import hdrs, web
from multidict import CIMultiDictProxy

from streams import avro_event, cloudevents
from streams.batches import BatchFormat
from streams.codecs import Format, frame, schema_id_of
from streams.domain.envelope import Event
from streams.domain.errors import InvalidEventError, UnsupportedFormatError
from streams.domain.headers import TRACEPARENT
from streams.event_ids import new_event_id
from streams.kafka.sending import OutgoingRecord
from streams.publishing import Publisher
from streams.storing import Offer
from web.errors import InvalidRequestError
from web.publish.turns import in_turns
from web.security.auth import Claims

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
SCHEMA_ID: Final = "X-Schema-Id"

_KEYS: Final = uuid.UUID("0d6f1c1e-93ab-4c0e-8f6b-6f6c6a4b6b77")
_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)

_RECORD_FORMATS: Final = {
    BatchFormat.NDJSON: Format.JSON,
    BatchFormat.JSON: Format.JSON,
    BatchFormat.CLOUDEVENTS: Format.CLOUDEVENTS,
    BatchFormat.AVRO: Format.AVRO,
}
"""What each record of a batch came as."""


class Incoming(NamedTuple):
    """The events of a request, in order; and what is wrong with those that are none."""

    events: Sequence[Event | InvalidEventError]
    format_: Format
    traceparent: str | None
    ids: EventIds


class EventIds:
    """Makes ids for events that came without one, and tells those that a repetition would have again.

    With an Idempotency-Key (draft-ietf-httpapi-idempotency-key-header) the ids are made of it, so that a repetition is
    the same event everywhere: on other workers, and for those who read the topic.
    """

    __slots__ = ("_key", "_made", "_subject")

    def __init__(self, key: str | None, subject: str) -> None:
        self._key = key
        self._subject = subject
        self._made: set[str] = set()

    @classmethod
    def of(cls, headers: CIMultiDictProxy[str], claims: Claims) -> EventIds:
        """For a request. Raises InvalidRequestError for a key that cannot be one."""
        key = headers.get(IDEMPOTENCY_KEY)
        if key is not None and _KEY.fullmatch(key) is None:
            raise InvalidRequestError(f"{IDEMPOTENCY_KEY} has 1 to 255 printable ASCII characters")
        return cls(key, claims.charged_to)

    def new(self, place: int = 0) -> str:
        """An id for an event that came without one, at this place of its batch.

        By its place, and not by how many were made before: a record that was refused, and is right the next time, must
        not give others new ids.
        """
        if self._key is None:
            event_id = new_event_id()
            self._made.add(event_id)
            return event_id
        return str(uuid.uuid5(_KEYS, f"{self._subject}\n{self._key}\n{place}"))

    def is_made(self, event_id: str) -> bool:
        """Whether an id was made up here: no repetition would have it."""
        return event_id in self._made

    def identities(self, topic: str, event_id: str) -> Sequence[Hashable]:
        """What a repetition of an event would be known by."""
        return () if event_id in self._made else ((topic, event_id),)

    def identities_of_request(self, topic: str, event_id: str) -> Sequence[Hashable]:
        """The same for the one event of a request: its Idempotency-Key may not come with another event either."""
        identities = self.identities(topic, event_id)
        return identities if self._key is None else (*identities, (topic, self._subject, self._key))


async def read_one(
    request: web.Request, body: bytes, publisher: Publisher, topic: str | None, *, ids: EventIds, content_type: str
) -> Incoming:
    """The one event in a body. Raises InvalidEventError, UnsupportedFormatError, or the registry's errors."""
    headers = request.headers
    traceparent = headers.get(TRACEPARENT)
    if cloudevents.is_binary(headers, content_type):
        attributes = cloudevents.header_attributes(headers.items())
        event = publisher.read_cloudevent(attributes, body, content_type, ids.new)
        return Incoming([event], Format.CLOUDEVENTS, attributes.get(TRACEPARENT, traceparent), ids)
    format_ = Format.of(content_type)
    if format_ is Format.AVRO and (schema_id := headers.get(SCHEMA_ID)) is not None:
        body = frame(schema_id_of(schema_id), body)
    event = await publisher.read(body, format_, ids.new, topic=topic)
    if format_ is Format.CLOUDEVENTS:
        traceparent = cloudevents.traceparent_of(body) or traceparent
    return Incoming([event], format_, traceparent, ids)


async def read_many(
    request: web.Request, body: bytes, publisher: Publisher, *, ids: EventIds, format_: BatchFormat, max_records: int
) -> Incoming:
    """The events of a batch. Raises MalformedEventError or TooManyRecordsError where the whole cannot be read."""
    events = [event async for event in in_turns(publisher.read_batch(body, format_, ids.new, max_records))]
    return Incoming(events, _RECORD_FORMATS[format_], request.headers.get(TRACEPARENT), ids)


def batch_format(content_type: str, body: bytes) -> BatchFormat | None:
    """The batch format of a body that may also be one event: None for one event."""
    try:
        format_ = BatchFormat.of(content_type)
    except UnsupportedFormatError:
        return None
    if format_ is BatchFormat.JSON:
        return format_ if body.lstrip()[:1] == b"[" else None
    if format_ is BatchFormat.AVRO:
        return format_ if body.startswith(b"Obj\x01") else None
    return format_


def offer(record: OutgoingRecord, event: Event, format_: Format, identities: Sequence[Hashable]) -> Offer:
    """An event to be stored."""
    if format_ is Format.CLOUDEVENTS and identities:
        # One without a time got that of its arrival, and may come again.
        return Offer(record, identities, avro_event.encode(msgspec.structs.replace(event, timestamp=0)))
    return Offer(record, identities)


def content_type_of(request: web.Request) -> str:
    """The Content-Type, empty where there is none."""
    return request.headers.get(hdrs.CONTENT_TYPE, "")
