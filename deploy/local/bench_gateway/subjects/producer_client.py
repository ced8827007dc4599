"""Yardstick: the gateway's own producer, fed records that were encoded before. No HTTP, nothing to decode."""

from __future__ import annotations

import asyncio
import json
import os
import time
from itertools import cycle
from pathlib import Path

import orjson
import uvloop

from deploy.local.bench_gateway.requests import BATCH, BATCH_CONNECTIONS, TOPIC, event
from streams import schemas
from streams.codecs import AvroCodec, Format
from streams.domain.naming import event_topic
from streams.kafka.producer import EventProducer, OutgoingRecord, Receipt
from streams.publishing import Publisher
from streams.registry import SchemaLoader, SchemaRegistry
from streams.settings import Settings, load_settings

_BATCHES = 40
_DEADLINE_S = 10.0


async def encoded(settings: Settings) -> list[list[OutgoingRecord]]:
    """Some batches as the gateway makes them."""
    codec = AvroCodec()
    registry = SchemaRegistry(settings)
    topic = event_topic(TOPIC)
    schema_id = await registry.register(f"{topic}-value", schemas.EVENT)
    codec.add_schema(schema_id, schemas.EVENT)
    publisher = Publisher(settings, codec, SchemaLoader(registry, codec))
    publisher.use_schema(schema_id)
    now_ms = int(time.time() * 1000)
    bodies = [orjson.dumps(event(number, "00000000", now_ms)) for number in range(BATCH * _BATCHES)]
    events = [await publisher.read(body, Format.JSON) for body in bodies]
    records = [publisher.record(topic, one, Format.JSON, None) for one in events]
    return [records[start : start + BATCH] for start in range(0, len(records), BATCH)]


async def run() -> None:
    """Send for as long as told, and write down what it took."""
    settings = load_settings()
    warm_s, measured_s = float(os.environ["BENCH_WARM_S"]), float(os.environ["BENCH_SECONDS"])
    producer = EventProducer(settings)
    await producer.start()
    batches = cycle(await encoded(settings))
    clock = asyncio.get_running_loop().time
    sent = 0

    async def send(until: float) -> None:
        """As a connection: the next batch when this one is acknowledged."""
        nonlocal sent
        while clock() < until:
            batch = next(batches)
            deadline = clock() + _DEADLINE_S
            sending = await producer.begin(batch, deadline)
            await sending.settled(deadline)
            if not all(isinstance(outcome, Receipt) for outcome in sending.outcomes):
                raise RuntimeError(f"not acknowledged: {sending.outcomes}")
            sent += len(batch)

    async def all_for(seconds: float) -> None:
        until = clock() + seconds
        await asyncio.gather(*(send(until) for _ in range(BATCH_CONNECTIONS)))

    await all_for(warm_s)
    before, wall, cpu = sent, time.perf_counter(), time.process_time()
    await all_for(measured_s)
    found = {"events": sent - before, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    await producer.stop()
    result = Path(os.environ["BENCH_RESULT"])
    part = result.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.rename(result)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
