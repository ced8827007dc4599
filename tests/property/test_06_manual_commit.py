"""Property 6: what is committed was done; what was done and not committed is done again; nothing is skipped.

This is the engine's simpler way, without transactions: an agent says of each batch when it is done.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiokafka.errors import CommitFailedError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from streams.kafka.batching import Batch, Source
from tests.batching_kafka import Machine, Worker, away, check_gates, moments, some

SOURCES = (Source("plain", 0), Source("plain", 1), Source("plain-b", 0))


class Commits(Machine):
    sources = SOURCES

    def __init__(self) -> None:
        super().__init__()
        self.times = {source: Counter[int]() for source in SOURCES}
        """How often each record was worked on."""
        self.again: list[tuple[Source, int, int]] = []
        """Records that must be worked on once more, and how often they had been by then."""
        self.diligent = False
        self.restart()

    def new_worker(self) -> Worker:
        async def make() -> Worker:
            return Worker(self.kafka, by_agent=self.take)

        worker: Worker = self.do(make())
        self.workers.append(worker)
        return worker

    def restart(self) -> None:
        self.hand: list[Batch] = []
        self.new_worker()
        self.rebalance([0, 0, 0])

    def take(self, worker: Worker, batch: Batch) -> None:
        self.hand.append(batch)
        if self.diligent:
            self.work(worker, 1)

    def work(self, worker: Worker, number: int) -> None:
        for batch in self.hand[:number]:
            if worker.engine.gates.is_current(batch):
                self.times[batch.source].update(record.offset for record in batch)
            worker.engine.positions.done(batch)
        del self.hand[:number]

    def expect_again(self, source: Source) -> None:
        committed, times = self.kafka.offsets.get(source, 0), self.times[source]
        self.again += [(source, offset, n) for offset, n in times.items() if offset >= committed]

    @rule(number=st.integers(1, 10))
    def some_batches_are_done(self, number: int) -> None:
        self.work(self.workers[0], number)

    @rule(error=st.sampled_from([away(), CommitFailedError()]))
    def a_commit_fails(self, error: Any) -> None:
        self.kafka.fail("offsets", error)

    @rule(numbers=some, ms=moments, number=st.integers(0, 5))
    def the_worker_is_killed(self, numbers: list[int], ms: int, number: int) -> None:
        self.in_the_midst(numbers, ms)
        self.work(self.workers[0], number)
        self.do(self.workers.pop().kill())
        for source in SOURCES:
            self.expect_again(source)
        self.restart()

    @rule(numbers=some, ms=moments, number=st.integers(0, 5))
    def a_rebalance_cuts_in(self, numbers: list[int], ms: int, number: int) -> None:
        self.in_the_midst(numbers, ms)
        self.work(self.workers[0], number)
        self.rebalance([0, 0, 0])

    @precondition(lambda self: self.workers)
    @rule(source=st.sampled_from(SOURCES), number=st.integers(0, 5))
    def a_partition_is_rolled_back(self, source: Source, number: int) -> None:
        worker = self.workers[0]
        self.work(worker, number)
        self.do(worker.engine.positions.commit(worker.consumer))  # type: ignore[arg-type]
        self.work(worker, number)
        self.do(worker.engine.positions.rollback(worker.consumer, source))  # type: ignore[arg-type]
        self.expect_again(source)

    def all_is_well(self) -> None:
        for source in SOURCES:
            below = self.kafka.logs[source].committed(0, self.kafka.offsets.get(source, 0))
            assert all(self.times[source][entry.offset] for entry in below), source
        for worker in self.workers:
            check_gates(worker)

    def heal(self) -> None:
        super().heal()
        self.diligent = True
        self.work(self.workers[0], len(self.hand))

    def teardown(self) -> None:
        super().teardown()
        for source, offset, times in self.again:
            assert self.times[source][offset] > times, (source, offset)


Commits.TestCase.settings = settings(max_examples=100, stateful_step_count=25)
TestCommits = Commits.TestCase
