"""Yardstick: a plain Faust agent with a plain Faust table, which decodes and folds as the state agent does."""

from __future__ import annotations

from typing import Any

import faust
import msgspec
from faust.serializers import codecs
from faust.types import StreamT

from deploy.local.bench_agents.events import TOPIC
from deploy.local.bench_agents.subjects.probe import Probe
from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.naming import event_topic
from streams.domain.state import KeyState, fold
from streams.registry import SchemaRegistry
from streams.settings import load_settings

probe = Probe()
settings = load_settings()


class _KeyStateCodec(codecs.Codec):
    """Rows as the product's changelog has them, so that the yardstick does not pay for a slower one."""

    def _loads(self, data: bytes) -> Any:
        return msgspec.json.decode(data, type=KeyState)

    def _dumps(self, row: Any) -> bytes:
        return msgspec.json.encode(row)


codecs.register("key-state", _KeyStateCodec())
app = faust.App(
    settings.app_id,
    broker=f"kafka://{settings.kafka_bootstrap_servers}",
    broker_max_poll_records=2_000,
    broker_session_timeout=6.0,
    broker_heartbeat_interval=2.0,
    consumer_auto_offset_reset="earliest",
    producer_acks=-1,
    topic_partitions=probe.partitions,
    topic_replication_factor=1,
    topic_disable_leader=True,
    store="memory://",
    datadir=settings.data_dir,
    stream_wait_empty=False,
)
topic = event_topic(TOPIC)
events = app.topic(topic, key_serializer="raw", value_serializer="raw")
state: Any = app.Table("state", partitions=probe.partitions)
state.value_serializer = "key-state"


@app.agent(events)
async def fold_events(stream: StreamT[Any]) -> None:
    """Fold every event into its key's row, until enough of them are measured."""
    codec = AvroCodec()
    schema_id = await SchemaRegistry(settings).register(f"{topic}-value", schemas.EVENT)
    codec.add_schema(schema_id, schemas.EVENT)
    done = 0
    async for message in stream.events():
        probe.begin()
        event = codec.decode_event(message.value)
        key = event.key.decode()
        after = fold(state.get(key), event, TOPIC, key, message.message.offset)
        if after is not None:
            state[key] = after
        done += 1
        if done == probe.events:
            await app.producer.flush()
            await app.consumer.commit()
            probe.end()
            probe.write(done)
