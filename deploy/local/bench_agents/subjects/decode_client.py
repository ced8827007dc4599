"""Yardstick: aiokafka's `getmany`, and each event decoded."""

from __future__ import annotations

from deploy.local.bench_agents.events import TOPIC
from deploy.local.bench_agents.subjects.client import Fetched, consume, main
from deploy.local.bench_agents.subjects.probe import Probe
from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.naming import event_topic
from streams.registry import SchemaRegistry
from streams.settings import load_settings


async def run() -> None:
    """Decode every event."""
    topic = event_topic(TOPIC)
    codec = AvroCodec()
    schema_id = await SchemaRegistry(load_settings()).register(f"{topic}-value", schemas.EVENT)
    codec.add_schema(schema_id, schemas.EVENT)
    decode = codec.decode_event

    async def work(fetched: Fetched) -> None:
        for records in fetched.values():
            for record in records:
                decode(record.value)

    await consume(Probe(), topic, work)


if __name__ == "__main__":
    main(run)
