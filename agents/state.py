"""`events.*` -> the tables of state: each event folded into the row of its topic and key, and counted by type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import faust
from faust.types import StreamT

from agents.outcome import BuryingPipeline, dead_letter, may_pass
from streams.codecs import SchemaNeededError
from streams.domain.envelope import Event
from streams.domain.naming import EVENTS_PREFIX, api_topic
from streams.domain.state import count_event, fold, state_key
from streams.faust_app import app
from streams.kafka.batching import Batch, GrowingSubscription, ReceivedRecord, Transaction
from streams.topics import event_topics
from tables.state import state, total_key, totals


class State(BuryingPipeline):
    """Folds events; a record that was folded before changes nothing."""

    name = "state"
    tables = (state, totals)

    def takes(self, topic: str) -> bool:
        return topic.startswith(EVENTS_PREFIX)

    async def handle(self, transaction: Transaction, records: Sequence[ReceivedRecord]) -> None:
        topic = api_topic(transaction.source.topic)
        rows, counts = transaction.rows(state), transaction.rows(totals)
        decode = self._platform.codec.decode_event
        for record in records:
            try:
                try:
                    event = decode(record.value or b"")
                except SchemaNeededError:
                    event = await self._load(record)
                key = event.key.decode()
                row = state_key(topic, key)
                after = fold(rows.get(row), event, topic, key, record.offset)
                type_ = total_key(topic, event.event_type)
                total = count_event(counts.get(type_), event, topic, record.offset)
            except Exception as exc:
                if may_pass(exc):
                    raise
                await dead_letter(self._platform, transaction, record, exc)
            else:
                if after is not None:
                    rows.put(row, after)
                if total is not None:
                    counts.put(type_, total)

    async def _load(self, record: ReceivedRecord) -> Event:
        value = record.value or b""
        return await self._platform.loader.read(lambda: self._platform.codec.decode_event(value))


events = app.topic(*event_topics(app.platform.settings), key_serializer="raw", value_serializer="raw", acks=False)
app.engine.add(State(app.platform))
subscription = GrowingSubscription(app, events, app.platform.event_topics)


app.platform.before_agents.append(subscription.begin)


@app.agent(events, name="agents.state")
async def fold_events(stream: StreamT[Any]) -> None:
    """Hand over each batch: the engine works on it in transactions, partition by partition."""
    async for batch in cast("faust.Stream[Batch]", stream):
        app.engine.put(batch)


@app.task  # type: ignore[untyped-decorator]
async def follow_new_topics() -> None:
    """Take event topics that are created while the worker runs."""
    await subscription.follow(lambda: not app.should_stop)
