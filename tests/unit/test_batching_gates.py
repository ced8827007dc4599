"""Back-pressure: what is in hand is counted right whatever comes and goes, and one partition never stops another."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streams.kafka.batching import Batch, Gates, Limits, Source

A, B, C = (Source("in", number) for number in range(3))
LIMITS = Limits(batches=3, bytes=100)
LARGEST = 60


def batch(source: Source, epoch: int, size: int = 10) -> Batch:
    return Batch(source, (), start=0, end=1, epoch=epoch, size=size)


class Model(RuleBasedStateMachine):
    """Beside the gates: a list of what is in hand, each batch with its epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = Gates(LIMITS)
        self.epochs: dict[Source, int] = {}
        self.hand: list[Batch] = []
        self.epoch = 0

    @rule(source=st.sampled_from([A, B, C]))
    def open(self, source):
        self.epoch += 1
        self.epochs[source] = self.epoch
        self.gates.open(source, self.epoch)

    @rule(source=st.sampled_from([A, B, C]))
    def shut(self, source):
        self.epochs.pop(source, None)
        self.gates.shut(source)

    @rule(sizes=st.lists(st.integers(0, LARGEST), min_size=3, max_size=3))
    def fetch(self, sizes):
        """One batch of each partition that may be fetched, as one call of the consumer."""
        for source, size in zip(sorted(self.gates.fetchable([A, B, C])), sizes, strict=False):
            fetched = batch(source, self.epochs[source], size)
            assert self.gates.admits(fetched)
            self.hand.append(fetched)

    @rule(source=st.sampled_from([A, B, C]), back=st.integers(1, 3))
    def fetch_of_a_former_epoch(self, source, back):
        assert not self.gates.admits(batch(source, self.epochs.get(source, self.epoch) - back))

    @rule(number=st.integers(0, 20))
    def done(self, number):
        if self.hand:
            self.gates.done(self.hand.pop(number % len(self.hand)))

    @invariant()
    def what_counts_is_what_is_in_hand_of_the_present_epochs(self):
        for source in (A, B, C):
            present = [b for b in self.hand if b.source == source and b.epoch == self.epochs.get(source)]
            assert self.gates.in_hand(source) == (len(present), sum(b.bytes for b in present))
            assert all(self.gates.is_current(b) for b in present)
            assert len(present) <= LIMITS.batches
        assert self.gates.bytes == sum(self.gates.in_hand(source)[1] for source in (A, B, C))
        assert self.gates.bytes < LIMITS.bytes + LARGEST * 3

    @invariant()
    def whoever_has_nothing_in_hand_may_fetch(self):
        fetchable = self.gates.fetchable([A, B, C])
        assert fetchable <= set(self.epochs)
        for source in self.epochs:
            batches, _ = self.gates.in_hand(source)
            if batches == 0 or (self.gates.bytes < LIMITS.bytes and batches < LIMITS.batches):
                assert source in fetchable
            else:
                assert source not in fetchable


Model.TestCase.settings = settings(max_examples=50, stateful_step_count=40)
TestModel = Model.TestCase


def test_a_partition_that_is_stuck_with_all_that_fits_does_not_stop_the_others():
    gates = Gates(Limits(batches=10, bytes=100))
    for source in (A, B):
        gates.open(source, 1)
    assert gates.admits(batch(A, 1, 100))
    assert gates.fetchable([A, B]) == {B}


@pytest.mark.parametrize(("batches", "size"), [(0, 1), (1, 0), (-1, 1)])
def test_limits_that_would_let_nothing_through_are_refused(batches, size):
    with pytest.raises(ValueError, match="1 or more"):
        Limits(batches, size)
