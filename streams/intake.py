"""How a record of `platform.ingress` becomes an event record: the same when it is first read and when it is redriven."""

from __future__ import annotations

import uuid
from typing import Final

from streams.cloudevents import traceparent_of
from streams.codecs import Format
from streams.domain.errors import InvalidEventError, UnknownTopicError
from streams.domain.headers import CONTENT_TYPE, EVENT_TOPIC, TRACEPARENT, header
from streams.kafka.batching import ReceivedRecord
from streams.kafka.consumer import Record
from streams.kafka.producer import OutgoingRecord
from streams.publishing import Publisher, TopicCatalog

_FORMATS: Final = {format_.value: format_ for format_ in Format}
"""By their content types as they are mostly written: looked up faster than parsed."""
_IDS: Final = uuid.UUID("5f0e2a52-6b0c-4d7c-9d4e-0d1a5b1f8c11")


IngressRecord = Record | ReceivedRecord
"""A record of ingress, as a reader or as the engine hands it over."""


async def read_ingress(
    record: IngressRecord, catalog: TopicCatalog, publisher: Publisher, *, certain: bool = True
) -> OutgoingRecord:
    """The record of `events.<topic>` for one of ingress. Raises where it must be retried or buried.

    Where its header names no content type, its bytes say what it is. `certain` is that of `TopicCatalog.require`.
    """
    name = header(record.headers, EVENT_TOPIC)
    if name is None:
        raise UnknownTopicError("", f"the record has no header {EVENT_TOPIC}")
    return await event_record(record, await catalog.require(name, certain=certain), publisher)


async def event_record(record: IngressRecord, topic: str, publisher: Publisher) -> OutgoingRecord:
    """The same for a record whose Kafka topic is known."""
    value = record.value or b""
    content_type = header(record.headers, CONTENT_TYPE)
    format_ = _FORMATS.get(content_type or "")
    if format_ is None:
        format_ = Format.of(content_type) if content_type else Format.detect(value)
    await publisher.prepare(topic)

    async def made() -> OutgoingRecord:
        event = await publisher.read(value, format_, lambda: ingress_event_id(record), topic=topic)
        traceparent = header(record.headers, TRACEPARENT)
        if format_ is Format.CLOUDEVENTS:
            traceparent = traceparent_of(value) or traceparent
        return publisher.record(topic, event, format_, traceparent)

    try:
        return await made()
    except InvalidEventError:
        # Nobody is there to send it again: before it is buried, the schema must be the newest.
        if not await publisher.renewed(topic):
            raise
        return await made()


def ingress_event_id(record: IngressRecord) -> str:
    """The id of an event that came without one: made of its place, so that a record read twice has one id."""
    return str(uuid.uuid5(_IDS, f"{record.topic}/{record.partition}/{record.offset}"))
