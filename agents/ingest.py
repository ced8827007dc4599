"""`platform.ingress` -> `events.<topic>`, or `platform.dlq` where a record is not valid."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, cast

import faust
from faust.types import StreamT

from agents.outcome import see_to
from streams.codecs import Format
from streams.domain.errors import UnknownTopicError
from streams.domain.headers import CONTENT_TYPE, EVENT_TOPIC, TRACEPARENT, header
from streams.domain.naming import INGRESS
from streams.faust_app import Platform, app
from streams.kafka.consumer import Record
from streams.kafka.delivery import received
from streams.kafka.producer import OutgoingRecord

MAX_BATCH: Final = 500
MAX_WAIT_S: Final = 0.05

_IDS: Final = uuid.UUID("5f0e2a52-6b0c-4d7c-9d4e-0d1a5b1f8c11")

ingress = app.topic(INGRESS, key_serializer="raw", value_serializer="raw")


@app.agent(ingress, name="agents.ingest")
async def ingest(stream: StreamT[bytes]) -> None:
    """Take records in batches, and acknowledge each only when all of its batch is confirmed by Kafka.

    `noack_take`, since the plain one acknowledges what it has handed out when the worker stops, done or not.
    """
    # Faust implements what its abstract stream type does not name; its batches are events, not values.
    batches = cast("faust.Stream[Any]", stream).noack_take(MAX_BATCH, within=MAX_WAIT_S)
    async for events in batches:
        await process(app.platform, [received(event) for event in events])
        for event in events:
            await stream.ack(event)


async def process(platform: Platform, records: Sequence[Record]) -> None:
    """See every record to its end: stored as an event, or as a dead letter. Waits while Kafka is away."""
    await asyncio.gather(*[see_to(platform, record, partial(_store, platform, record)) for record in records])


async def _store(platform: Platform, record: Record) -> None:
    await platform.producer.deliver(await route(platform, record))


async def route(platform: Platform, record: Record) -> OutgoingRecord:
    """The record of `events.<topic>` for one of ingress. Raises where it must be retried or buried."""
    name = header(record.headers, EVENT_TOPIC)
    if name is None:
        raise UnknownTopicError("", f"the record has no header {EVENT_TOPIC}")
    topic = await platform.catalog.require(name, certain=True)
    format_ = Format.of(header(record.headers, CONTENT_TYPE) or Format.JSON)
    event = await platform.publisher.read(record.value or b"", format_, lambda: _event_id(record))
    return platform.publisher.record(topic, event, format_, header(record.headers, TRACEPARENT))


def _event_id(record: Record) -> str:
    """The id of an event that came without one: made of its place, so that a record read twice has one id."""
    return str(uuid.uuid5(_IDS, f"{record.topic}/{record.partition}/{record.offset}"))
