"""An agent that is given batches, on the product's app, and decodes each event."""

from __future__ import annotations

from typing import Any, cast

import faust
from faust.types import StreamT

from deploy.local.bench_agents.events import TOPIC
from deploy.local.bench_agents.subjects.probe import Probe
from streams.domain.naming import event_topic
from streams.faust_app import app
from streams.kafka.batching import Batch, Engine, Limits, MemoryStore
from streams.kafka.batching.transport import BatchConsumer

probe = Probe()
settings = app.platform.settings
topic = event_topic(TOPIC)
# As the app's own, which has nothing but pipelines; here the agent says when a batch is done.
app.engine = Engine(
    settings.app_id,
    dict,
    new_store=lambda *_: MemoryStore(),
    ensure_partitions=app.platform.admin.ensure_partitions,
    backoff_s=float,
    limits=Limits(batches=64, bytes=settings.agent_max_bytes),
    also_batched=lambda name: name == topic,
)
events = app.topic(topic, key_serializer="raw", value_serializer="raw", acks=False)


@app.agent(events)
async def decode_events(stream: StreamT[Any]) -> None:
    """Decode every event."""
    decode = app.platform.codec.decode_event
    done = 0
    async for batch in cast("faust.Stream[Batch]", stream):
        probe.begin()
        for record in batch:
            decode(record.value or b"")
        app.engine.positions.done(batch)
        done += len(batch)
        if done == probe.events:
            await app.engine.positions.commit(cast("BatchConsumer", app.consumer))
            probe.end()
            probe.write(done)
