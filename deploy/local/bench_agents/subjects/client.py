"""The yardsticks' consumer: aiokafka alone, set as the workers' own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import uvloop
from aiokafka import AIOKafkaConsumer

from deploy.local.bench_agents.subjects.probe import Probe
from streams.kafka.batching.collector import spare_records
from streams.kafka.security import aiokafka_options
from streams.settings import load_settings

_MAX_RECORDS: Final = 2_000
_COMMIT_S: Final = 1.0

Fetched = Mapping[Any, Sequence[Any]]


async def consume(probe: Probe, topic: str, work: Callable[[Fetched], Awaitable[None]]) -> None:
    """Fetch, work on what came, commit once a second and at the end."""
    settings = load_settings()
    # As in a worker: what is compared is the way of a record, not a setting of Python.
    spare_records()
    consumer = AIOKafkaConsumer(
        topic,
        **aiokafka_options(settings),
        group_id=settings.app_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_poll_records=_MAX_RECORDS,
    )
    done = 0
    async with consumer:
        committed_at = time.monotonic()
        while done < probe.events:
            fetched: Fetched = await consumer.getmany(timeout_ms=1_000)
            if fetched:
                probe.begin()
            await work(fetched)
            done += sum(map(len, fetched.values()))
            if time.monotonic() - committed_at >= _COMMIT_S or done >= probe.events:
                await consumer.commit()
                committed_at = time.monotonic()
        probe.end()
        probe.write(done)


def main(run: Callable[[], Awaitable[None]]) -> None:
    """Run a yardstick."""

    async def running() -> None:
        await run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(running())
