"""Property 21: each record has exactly one outcome, whatever fails: written, or a dead letter; never both, never none.

The real engine on a Kafka of memory, where any step of a transaction may fail, answers may be lost, and records may be
at fault in every way: their work fails, what comes of them is refused, they cannot even be buried for a while.
"""

from __future__ import annotations

from typing import cast, get_args

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.batching_kafka import BAD, GOOD, Folding, Machine, Step, TransientError, away, moments, outputs, some

steps = st.sampled_from(get_args(Step))


class Deliveries(Machine):
    values = GOOD * 6 + BAD

    def __init__(self) -> None:
        super().__init__()
        self.new_worker()
        self.rebalance([0, 0, 0])

    @rule(step=steps, times=st.integers(1, 4), numbers=some, ms=moments)
    def a_step_fails_at_work(self, step: Step, times: int, numbers: list[int], ms: int) -> None:
        self.in_the_midst(numbers, ms)
        self.kafka.fail(step, *[away()] * times)

    @rule(first=steps, second=steps, ms=moments)
    def two_steps_fail_one_after_the_other(self, first: Step, second: Step, ms: int) -> None:
        self.in_the_midst([0, 1, 2], 100)
        self.kafka.fail(first, away())
        self.kafka.fail(second, away(), away())
        self.wait(ms)

    @precondition(lambda self: self.workers)
    @rule(times=st.integers(1, 3))
    def the_work_itself_fails_for_a_while(self, times: int) -> None:
        cast("Folding", self.workers[0].pipeline).errors.extend([TransientError()] * times)

    @rule(numbers=some, ms=moments)
    def a_transaction_becomes_too_old(self, numbers: list[int], ms: int) -> None:
        self.in_the_midst(numbers, ms)
        self.kafka.expire()

    @rule(numbers=some, ms=moments)
    def the_worker_is_killed_and_another_comes(self, numbers: list[int], ms: int) -> None:
        self.in_the_midst(numbers, ms)
        for worker in self.workers:
            self.do(worker.kill())
        self.workers.clear()
        self.new_worker()
        self.rebalance([0, 0, 0])

    @precondition(lambda self: self.members)
    @rule(numbers=some, ms=moments)
    def a_rebalance_changes_nothing(self, numbers: list[int], ms: int) -> None:
        self.in_the_midst(numbers, ms)
        self.rebalance([0, 0, 0])

    @precondition(lambda self: self.workers)
    @rule()
    def graves_are_open_again(self) -> None:
        cast("Folding", self.workers[0].pipeline).cursed = False

    def teardown(self) -> None:
        super().teardown()
        seen = outputs(self.kafka)
        for source in self.sources:
            assert sorted(seen[source]) == [entry.offset for entry in self.kafka.logs[source].committed()]
        buried = [e for e in self.kafka.logs["dlq", 0] if e.status == "committed"]
        at_fault = [e for source in self.sources for e in self.kafka.logs[source].committed() if e.value in BAD]
        # `cursed` ones are buried, too, once that is possible.
        assert len(buried) == len(at_fault)


Deliveries.TestCase.settings = settings(max_examples=100, stateful_step_count=25)
TestDeliveries = Deliveries.TestCase
