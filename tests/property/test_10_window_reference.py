"""Window bounds and accumulators against naive models: they are the reference for the Flink job."""

from __future__ import annotations

import math
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.windows import WINDOW_KINDS, Accumulator, Window, WindowKind

kinds = st.sampled_from(list(WINDOW_KINDS.values())) | st.builds(
    lambda slide, factor: WindowKind("any", slide * factor, slide), st.integers(1, 100_000), st.integers(1, 12)
)
moments = st.integers(-(10**13), 10**14)
inputs = st.lists(
    st.tuples(st.none() | st.integers(-(2**40), 2**40).map(float), st.none() | st.sampled_from("abcdef")), max_size=30
)


def naive_windows(kind: WindowKind, timestamp: int) -> list[Window]:
    """Walk over every window start near the timestamp and keep those that hold it."""
    near = range(timestamp - kind.size_ms - kind.slide_ms, timestamp + kind.slide_ms)
    starts = [s for s in near if s % kind.slide_ms == 0] if len(near) <= 1000 else [
        k * kind.slide_ms for k in range(near.start // kind.slide_ms, near.stop // kind.slide_ms + 1)
    ]  # fmt: skip
    return [Window(s, s + kind.size_ms) for s in starts if s <= timestamp < s + kind.size_ms]


@given(kinds, moments)
def test_the_windows_of_a_moment_are_those_that_hold_it(kind, timestamp):
    assert list(kind.windows(timestamp)) == naive_windows(kind, timestamp)
    assert len(kind.windows(timestamp)) == kind.size_ms // kind.slide_ms
    assert kind.is_tumbling == (len(kind.windows(timestamp)) == 1)


@pytest.mark.parametrize(
    ("timestamp", "start"),
    #  [0 ------------ 60,000)[60,000 ------------ 120,000)
    [
        (0, 0),
        (1, 0),
        (59_999, 0),
        (60_000, 60_000),
        (60_001, 60_000),
        (119_999, 60_000),
        (-1, -60_000),
        (-60_000, -60_000),
    ],
)
def test_borders_belong_to_the_window_that_they_open(timestamp, start):
    assert WINDOW_KINDS["tumbling-1m"].windows(timestamp) == (Window(start, start + 60_000),)


def test_sliding_windows_overlap_and_come_earliest_first():
    #  t = 5 min:  [1,6) [2,7) [3,8) [4,9) [5,10)
    minutes = [(w.start_ms // 60_000, w.end_ms // 60_000) for w in WINDOW_KINDS["sliding-5m-1m"].windows(300_000)]
    assert minutes == [(1, 6), (2, 7), (3, 8), (4, 9), (5, 10)]


@pytest.mark.parametrize(
    ("watermark", "lateness", "closed"),
    # the window [0, 60,000) closes when the watermark reaches its last millisecond, 59,999
    [(59_998, 0, False), (59_999, 0, True), (60_000, 0, True), (119_998, 60_000, False), (119_999, 60_000, True)],
)
def test_a_window_closes_when_the_watermark_reaches_its_last_millisecond(watermark, lateness, closed):
    assert Window(0, 60_000).is_closed(watermark, lateness) is closed


@pytest.mark.parametrize(("size", "slide"), [(0, 1), (1, 0), (-1, 1), (5, 2), (1, 2)])
def test_a_kind_whose_slide_does_not_divide_its_size_is_refused(size, slide):
    with pytest.raises(ValueError, match="multiple"):
        WindowKind("bad", size, slide)


def fold(events) -> Accumulator:
    return reduce(Accumulator.merge, (Accumulator.of(value, user) for value, user in events), Accumulator())


@given(inputs)
def test_an_accumulator_says_what_a_list_says(events):
    kept = fold(events)
    values = [value for value, _ in events if value is not None]
    assert kept.count == len(events)
    assert kept.sum == (math.fsum(values) if values else None)
    assert kept.avg == (pytest.approx(math.fsum(values) / len(values)) if values else None)
    assert (kept.min, kept.max) == ((min(values), max(values)) if values else (None, None))
    assert kept.distinct_users == len({user for _, user in events if user is not None})


@given(inputs, inputs, inputs)
def test_merging_is_associative_and_commutative_with_a_unit(a, b, c):
    """Exactly so for integral values; float addition itself is associative only up to rounding."""
    x, y, z = fold(a), fold(b), fold(c)
    assert x.merge(y).merge(z) == x.merge(y.merge(z))
    assert x.merge(y) == y.merge(x)
    assert x.merge(Accumulator()) == x


@given(inputs, st.integers(0, 30))
def test_it_does_not_matter_where_a_stream_is_cut(events, cut):
    assert fold(events[:cut]).merge(fold(events[cut:])) == fold(events)
