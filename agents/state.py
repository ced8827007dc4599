"""`events.*` -> the state table: each event folded into the row of its topic and key."""

from __future__ import annotations

import logging

from faust.types import StreamT

from agents.dead_letter import dead_letter
from streams.domain.naming import api_topic
from streams.domain.state import fold, state_key
from streams.faust_app import app
from streams.kafka.consumer import Record
from streams.kafka.delivery import received
from streams.topics import event_topics
from tables.state import state

log = logging.getLogger(__name__)

events = app.topic(*event_topics(app.platform.settings), key_serializer="raw", value_serializer="raw")


@app.agent(events, name="agents.state")
async def fold_events(stream: StreamT[bytes]) -> None:
    """Fold one event at a time: the table's changelog follows the partition of the current event."""
    async for event in stream.events():
        record = received(event)
        try:
            await apply(record)
        except Exception as exc:
            log.exception("%s[%d]@%d cannot be folded", record.topic, record.partition, record.offset)
            await dead_letter(app.platform, record, exc, attempts=1)


async def apply(record: Record) -> None:
    """Fold the event of a record into the table; a record that was folded before changes nothing."""
    value = record.value or b""
    event = await app.platform.loader.read(lambda: app.platform.codec.decode_event(value))
    topic = api_topic(record.topic)
    key = event.key.decode()
    row = state_key(topic, key)
    if (after := fold(state.get(row), event, topic, key, record.offset)) is not None:
        state[row] = after
