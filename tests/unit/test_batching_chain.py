"""What the committed offset says of a transaction that nobody heard of again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.batching.chain import Chain, Resolution


def opened(at: int = 5) -> Chain:
    chain = Chain()
    assert chain.resolve(at) is Resolution.FOREIGN
    return chain


@pytest.mark.parametrize(
    ("committed", "says"),
    [(5, Resolution.KEPT), (9, Resolution.APPLIED), (7, Resolution.FOREIGN), (4, Resolution.FOREIGN),
     (12, Resolution.FOREIGN)],
)  # fmt: skip
def test_after_an_unknown_outcome_the_offset_tells(committed, says):
    chain = opened()
    chain.attempt(9)
    assert chain.resolve(committed) is says
    assert chain.expected == committed


@pytest.mark.parametrize("end", ["settle", "drop"])
def test_a_known_outcome_is_not_asked_for_again(end):
    chain = opened()
    chain.attempt(9)
    getattr(chain, end)()
    now, other = (9, 5) if end == "settle" else (5, 9)
    assert chain.expected == now
    assert chain.resolve(other) is Resolution.FOREIGN


def test_an_offset_is_believed_once():
    chain = opened()
    chain.attempt(9)
    assert chain.resolve(9) is Resolution.APPLIED
    assert chain.resolve(9) is Resolution.KEPT


def test_steps_out_of_order_are_refused():
    with pytest.raises(ValueError, match="cannot end"):
        Chain().attempt(3)
    with pytest.raises(ValueError, match="cannot end"):
        opened(5).attempt(4)
    with pytest.raises(ValueError, match="no transaction"):
        opened(5).settle()
    chain = opened(5)
    chain.attempt(6)
    with pytest.raises(ValueError, match="not settled"):
        chain.attempt(7)


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from(["done", "aborted", "lost, done", "lost, not done", "other"]))
    )
)
def test_what_is_held_is_what_the_log_of_transactions_says(steps):
    """A model beside it: what was committed, by anybody; and what this worker holds, which must be the same."""
    chain, held, committed = opened(0), 0, 0
    for size, outcome in steps:
        if outcome == "other":
            committed += size  # by somebody else, with a producer that has fenced this one
            assert chain.resolve(committed) is Resolution.FOREIGN
            held = committed  # restored
            continue
        chain.attempt(held + size)
        if outcome in ("done", "lost, done"):
            committed += size
        if outcome == "done":
            chain.settle()
            held += size
        elif outcome == "aborted":
            chain.drop()
        elif chain.resolve(committed) is Resolution.APPLIED:
            held += size
        assert held == committed == chain.expected
