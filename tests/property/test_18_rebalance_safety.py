"""Property 18: whatever partitions move between workers, and whenever, no record is lost and none is doubled.

The real engine of several workers on a Kafka of memory. Workers join, leave in order, are killed, are frozen and wake
up when others have had their partitions for long; rebalances cut in at any millisecond of a transaction.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.batching_kafka import Machine, Step, away, moments, some

owners = st.lists(st.integers(0, 3), min_size=3, max_size=3)


class Rebalances(Machine):
    def __init__(self) -> None:
        super().__init__()
        self.new_worker()
        self.new_worker()
        self.rebalance([0, 1, 0])

    @precondition(lambda self: len(self.workers) < 4)
    @rule(owners=owners)
    def a_worker_joins(self, owners: list[int]) -> None:
        self.new_worker()
        self.rebalance(owners)

    @rule(owners=owners)
    def partitions_move(self, owners: list[int]) -> None:
        self.rebalance(owners)

    @precondition(lambda self: self.members)
    @rule(number=st.integers(0, 3), owners=owners)
    def a_worker_stops(self, number: int, owners: list[int]) -> None:
        worker = self.members[number % len(self.members)]
        self.do(worker.stop())
        self.workers.remove(worker)
        self.rebalance(owners)

    @precondition(lambda self: self.workers)
    @rule(number=st.integers(0, 3), numbers=some, ms=moments)
    def a_worker_is_killed_at_work(self, number: int, numbers: list[int], ms: int) -> None:
        self.in_the_midst(numbers, ms)
        worker = self.workers.pop(number % len(self.workers))
        self.do(worker.kill())

    @precondition(lambda self: len(self.members) > 1)
    @rule(number=st.integers(0, 3), numbers=some, ms=moments, owners=owners)
    def a_worker_freezes_at_work_and_others_take_over(
        self, number: int, numbers: list[int], ms: int, owners: list[int]
    ) -> None:
        self.in_the_midst(numbers, ms)
        self.members[number % len(self.members)].freeze()
        self.rebalance(owners)

    @rule(numbers=some, ms=moments, owners=owners)
    def partitions_move_in_the_midst(self, numbers: list[int], ms: int, owners: list[int]) -> None:
        self.in_the_midst(numbers, ms)
        self.rebalance(owners)

    @precondition(lambda self: len(self.workers) > len(self.members))
    @rule(number=st.integers(0, 3))
    def a_frozen_one_wakes_and_does_not_know_yet(self, number: int) -> None:
        frozen = [worker for worker in self.workers if worker.is_frozen]
        frozen[number % len(frozen)].wake()

    @precondition(lambda self: self.members)
    @rule(numbers=some, losses=st.lists(st.booleans(), min_size=1, max_size=4))
    def batches_are_lost_on_their_way(self, numbers: list[int], losses: list[bool]) -> None:
        self.members[0].losses = losses
        self.in_the_midst(numbers, 50)

    @precondition(lambda self: self.members)
    @rule(step=st.sampled_from(["start", "read", "seek"]), times=st.integers(1, 3), owners=owners, ms=moments)
    def a_rebalance_meets_an_error(self, step: Step, times: int, owners: list[int], ms: int) -> None:
        self.rebalance(owners)
        self.wait(ms)
        self.kafka.fail(step, *[away()] * times)

    @precondition(lambda self: len(self.members) > 1)
    @rule(number=st.integers(0, 3), numbers=some, ms=moments, times=st.integers(0, 2))
    def a_frozen_one_gets_back_what_others_have_worked_on(
        self, number: int, numbers: list[int], ms: int, times: int
    ) -> None:
        worker = self.members[number % len(self.members)]
        worker.freeze()
        self.rebalance([0, 1, 0])
        self.in_the_midst(numbers, ms)
        worker.wake()
        self.kafka.fail("start", *[away()] * times)
        self.rebalance([self.members.index(worker)] * 3)

    @rule()
    def open_transactions_expire(self) -> None:
        self.kafka.expire()


Rebalances.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestRebalances = Rebalances.TestCase
