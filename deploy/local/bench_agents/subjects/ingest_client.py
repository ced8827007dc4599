"""Yardstick: aiokafka's `getmany`, the functions of the ingest agent, and batches by key without transactions."""

from __future__ import annotations

from typing import Any, Final

from aiokafka import AIOKafkaProducer

from deploy.local.bench_agents.events import TOPIC
from deploy.local.bench_agents.subjects.client import Fetched, consume, main
from deploy.local.bench_agents.subjects.probe import Probe
from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.headers import INGRESS_ORIGIN
from streams.domain.naming import INGRESS, event_topic
from streams.domain.partitioning import partition_for
from streams.intake import event_record
from streams.kafka.security import aiokafka_options
from streams.publishing import Publisher
from streams.registry import SchemaLoader, SchemaRegistry
from streams.settings import load_settings

_BATCH_BYTES: Final = 524_288


async def run() -> None:
    """Make every event's record, and write it."""
    settings = load_settings()
    probe = Probe()
    topic = event_topic(TOPIC)
    codec = AvroCodec()
    registry = SchemaRegistry(settings)
    schema_id = await registry.register(f"{topic}-value", schemas.EVENT)
    codec.add_schema(schema_id, schemas.EVENT)
    publisher = Publisher(settings, codec, SchemaLoader(registry, codec))
    publisher.use_schema(schema_id)
    partitions = probe.partitions
    producer = AIOKafkaProducer(
        **aiokafka_options(settings), acks="all", enable_idempotence=True, max_batch_size=_BATCH_BYTES
    )

    async def work(fetched: Fetched) -> None:
        """One batch for each partition that is written to; all are acknowledged before the next fetch."""
        builders: dict[int, Any] = {}
        for records in fetched.values():
            for record in records:
                out = await event_record(record, topic, publisher)
                key = out.key or b""
                partition = partition_for(key, partitions)
                builder = builders.get(partition)
                if builder is None:
                    builder = builders[partition] = producer.create_batch()
                origin = (INGRESS_ORIGIN, b"%d@%d" % (record.partition, record.offset))
                added = builder.append(timestamp=None, key=key, value=out.value, headers=[*out.headers, origin])
                assert added is not None, "a fetch fits into a batch"
        for sent in [await producer.send_batch(b, topic, partition=p) for p, b in builders.items()]:
            await sent

    async with producer:
        await consume(probe, INGRESS, work)


if __name__ == "__main__":
    main(run)
