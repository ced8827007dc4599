"""Positions of an agent that works at least once: committed in time, never past what was not done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiokafka.errors import CommitFailedError, IllegalStateError

from streams.kafka.batching import Batch, Source
from tests.batching_kafka import Kafka, Worker, away, run, until

SOURCE = Source("plain", 0)


def with_agent(
    body: Callable[[Kafka, Worker, list[int]], Awaitable[None]], records: int = 20, **more: list[bool]
) -> None:
    """Run a body beside a worker whose agent notes the offsets that it is given, and is done with each batch."""

    async def go() -> None:
        kafka = Kafka()
        seen: list[int] = []

        def take(worker: Worker, batch: Batch) -> None:
            seen.extend(record.offset for record in batch)
            worker.engine.positions.done(batch)

        for number in range(records):
            kafka.put(SOURCE, b"k", b"%d" % number)
        worker = Worker(kafka, by_agent=take)
        worker.losses = more.get("losses", [])
        await worker.assign(SOURCE)
        await body(kafka, worker, seen)
        await worker.stop()

    run(go())


def test_what_is_done_is_committed_within_a_second_or_so():
    async def body(kafka: Kafka, worker: Worker, seen: list[int]) -> None:
        await until(lambda: len(seen) == 20)
        await asyncio.sleep(1.1)
        assert kafka.offsets[SOURCE] == 20

    with_agent(body)


@pytest.mark.parametrize("error", [away(), CommitFailedError(), IllegalStateError("no longer assigned")])
def test_a_commit_that_failed_is_tried_again(error):
    async def body(kafka: Kafka, worker: Worker, seen: list[int]) -> None:
        kafka.fail("offsets", error, error)
        await until(lambda: len(seen) == 20)
        await until(lambda: kafka.offsets.get(SOURCE) == 20, 5)
        assert len(seen) == 20

    with_agent(body)


def test_what_is_done_is_committed_when_a_rebalance_begins():
    async def body(kafka: Kafka, worker: Worker, seen: list[int]) -> None:
        await until(lambda: len(seen) == 20)
        await worker.revoke()
        assert kafka.offsets[SOURCE] == 20
        await worker.assign(SOURCE)
        await asyncio.sleep(2)
        assert len(seen) == 20

    with_agent(body)


def test_what_is_done_is_committed_at_the_end():
    async def body(kafka: Kafka, worker: Worker, seen: list[int]) -> None:
        await until(lambda: len(seen) == 20)
        await worker.engine.stop()
        assert kafka.offsets[SOURCE] == 20

    with_agent(body)


@pytest.mark.parametrize("losses", [[True], [False, True], [False, False, True, True], [False] * 3 + [True]])
def test_a_batch_that_is_lost_on_its_way_is_read_again_and_nothing_behind_it_is_committed_before(losses):
    async def body(kafka: Kafka, worker: Worker, seen: list[int]) -> None:
        # One more, so that even the last loss is seen by what follows it.
        for number in range(60):
            kafka.put(SOURCE, b"k", b"%d" % number)
            await asyncio.sleep(0.1)
            assert set(range(kafka.offsets.get(SOURCE, 0))) <= set(seen)
        await until(lambda: kafka.offsets.get(SOURCE) == 80)
        assert set(seen) == set(range(80))

    with_agent(body, losses=losses)


def test_a_partition_that_is_gone_when_it_is_to_be_read_again_does_not_end_the_committing():
    async def body(kafka: Kafka, worker: Worker, seen: list[int]) -> None:
        kafka.fail("seek", IllegalStateError("no longer assigned"), away())
        await until(lambda: kafka.offsets.get(SOURCE) == 20)

    with_agent(body, losses=[True])
