"""The validator agrees with the intent of every emission, whatever the options."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.domain.errors import InvalidEventError
from streams.domain.validation import EventRules, event_from_json
from streams.generators.emission import Intent
from streams.generators.options import KINDS, GeneratorOptions
from streams.generators.plan import emissions
from streams.generators.rates import Pattern
from streams.generators.sink import Outcome, Verdict
from streams.generators.totals import Totals

START_MS = 1_780_000_000_000

options_strategy = st.builds(
    GeneratorOptions,
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, unique=True).map(tuple),
    rate=st.floats(0.5, 5_000),
    history_s=st.sampled_from([0.0, 30.0, 7_200.0]),
    duration_s=st.sampled_from([None, 5.0, 90.0]),
    pattern=st.sampled_from(Pattern),
    seed=st.integers(-(2**70), 2**70),
    invalid_ratio=st.floats(0, 0.5),
    late_ratio=st.floats(0, 0.25),
    duplicate_ratio=st.floats(0, 0.25),
    late_after_s=st.just(0.0),
    keys=st.integers(1, 300),
    zipf_exponent=st.floats(0, 3),
)


def first(options, n=150):
    return list(islice(emissions(options, START_MS), n))


@settings(deadline=None)
@given(options_strategy)
def test_every_invalid_emission_is_rejected_with_its_code_and_every_other_accepted(options):
    for emission in first(options):
        now_ms = START_MS + int(emission.send_at_s * 1_000) + 1
        assert (emission.error is not None) == (emission.intent is Intent.INVALID)
        if (expected := emission.error) is not None:
            with pytest.raises(InvalidEventError) as rejection:
                event_from_json(emission.body, EventRules(max_future_ms=0), now_ms, lambda: "made")
            assert rejection.value.code == expected.reason
            assert [(e.code, e.path) for e in rejection.value.errors] == [(expected.code, expected.path)]
        else:
            event = event_from_json(emission.body, EventRules(max_future_ms=0), now_ms, lambda: "made")
            assert event.event_id == emission.event_id
            assert event.event_type == emission.event_type
            assert event.timestamp == emission.event_time_ms
            assert event.key == emission.key
            assert (event.user_id, event.value) == (emission.user_id, emission.value)


@settings(deadline=None)
@given(options_strategy)
def test_a_run_is_a_function_of_its_options_and_start(options):
    assert first(options) == first(options)


@settings(deadline=None)
@given(options_strategy, st.randoms(use_true_random=False))
def test_totals_do_not_depend_on_the_order_of_the_answers(options, random):
    settled = [(e, Outcome(Verdict.ACCEPTED if e.error is None else Verdict.REJECTED)) for e in first(options, 80)]
    shuffled = list(settled)
    random.shuffle(shuffled)
    documents = []
    for order in (settled, shuffled):
        totals = Totals()
        for emission, outcome in order:
            totals.settle(emission, outcome)
        documents.append(totals.as_json())
    assert documents[0] == documents[1]
