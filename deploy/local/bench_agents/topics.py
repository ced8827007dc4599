"""Filling the topics that subjects read, in whole batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from deploy.local.bench_agents.events import Made
from streams.kafka.security import aiokafka_options
from streams.settings import Settings

_BATCH_BYTES: Final = 524_288
_TRANSACTION_MS: Final = 600_000
_YIELD_RECORDS: Final = 5_000


class Progress:
    """How many records are written."""

    def __init__(self) -> None:
        self.records = 0

    def text(self) -> str:
        """For people."""
        return f"{self.records:,} records" if self.records else ""


async def fill(settings: Settings, topic: str, records: Iterable[Made], progress: Progress) -> None:
    """Write the records."""
    producer = AIOKafkaProducer(
        **aiokafka_options(settings), acks="all", enable_idempotence=True, max_batch_size=_BATCH_BYTES
    )
    async with producer:
        await _write(producer, topic, records, progress)


@asynccontextmanager
async def hidden(settings: Settings, topic: str, records: Iterable[Made], progress: Progress) -> AsyncIterator[Any]:
    """Write the records in a transaction that is left open: awaiting what is given lets readers see them at once."""
    producer = AIOKafkaProducer(
        **aiokafka_options(settings),
        transactional_id=f"bench-fill-{time.monotonic_ns()}",
        transaction_timeout_ms=_TRANSACTION_MS,
        max_batch_size=_BATCH_BYTES,
    )
    async with producer:
        await producer.begin_transaction()
        await _write(producer, topic, records, progress)
        yield producer.commit_transaction


async def _write(producer: AIOKafkaProducer, topic: str, records: Iterable[Made], progress: Progress) -> None:
    builders: dict[int, Any] = {}
    # One batch of a partition at a time: aiokafka's waiters for a partition overtake each other.
    sent: dict[int, asyncio.Future[Any]] = {}

    async def send(partition: int, builder: Any) -> None:
        if (before := sent.get(partition)) is not None:
            await before
        sent[partition] = await producer.send_batch(builder, topic, partition=partition)

    for partition, key, value, headers in records:
        builder = builders.get(partition)
        if builder is None:
            builder = builders[partition] = producer.create_batch()
        if builder.append(timestamp=None, key=key, value=value, headers=headers) is None:
            await send(partition, builder)
            builder = builders[partition] = producer.create_batch()
            builder.append(timestamp=None, key=key, value=value, headers=headers)
        progress.records += 1
        if progress.records % _YIELD_RECORDS == 0:
            await asyncio.sleep(0)
    for partition, builder in builders.items():
        await send(partition, builder)
    await _all(list(sent.values()))


async def _all(sent: Sequence[asyncio.Future[Any]]) -> None:
    for acknowledged in sent:
        await acknowledged
