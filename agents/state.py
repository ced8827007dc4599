"""`events.*` -> the state table: each event folded into the row of its topic and key."""

from __future__ import annotations

from functools import partial
from typing import cast

import faust
from faust.types import StreamT

from agents.outcome import see_to
from streams.domain.naming import api_topic
from streams.domain.state import fold, state_key
from streams.faust_app import app
from streams.kafka.consumer import Record
from streams.kafka.delivery import received
from streams.topics import event_topics
from tables.state import state

events = app.topic(*event_topics(app.platform.settings), key_serializer="raw", value_serializer="raw")


@app.agent(events, name="agents.state")
async def fold_events(stream: StreamT[bytes]) -> None:
    """Fold one event at a time: the table's changelog follows the partition of the current event."""
    # Acknowledged by us, at the end: Faust would acknowledge what is in hand when the worker stops, done or not.
    unacknowledged = cast("faust.Stream[bytes]", stream).noack()
    async for event in unacknowledged.events():
        record = received(event)
        await see_to(app.platform, record, partial(apply, record))
        await unacknowledged.ack(event)


async def apply(record: Record) -> None:
    """Fold the event of a record into the table; a record that was folded before changes nothing."""
    value = record.value or b""
    event = await app.platform.loader.read(lambda: app.platform.codec.decode_event(value))
    topic = api_topic(record.topic)
    key = event.key.decode()
    row = state_key(topic, key)
    if (after := fold(state.get(row), event, topic, key, record.offset)) is not None:
        state[row] = after
