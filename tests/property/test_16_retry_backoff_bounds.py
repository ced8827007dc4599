"""Property 16: delays stay within full jitter's bounds, and nothing is tried past the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.errors import InvalidEventError, KafkaUnavailableError
from streams.domain.retry import RetryPolicy
from streams.retrying import retrying

seconds = st.floats(0.001, 1_000)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    base = draw(seconds)
    return RetryPolicy(base, base * draw(st.floats(1, 1_000)), draw(st.floats(0, 10_000)))


@given(policies(), st.integers(1, 5_000), st.floats(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_within_its_ceiling_and_ends_before_the_deadline(policy, failures, elapsed, random):
    delay = policy.delay_s(failures, elapsed, random)
    ceiling = min(policy.cap_s, policy.base_s * 2 ** min(failures - 1, 60))
    assert policy.ceiling_s(failures) == pytest.approx(ceiling)
    if delay is None:
        assert elapsed + ceiling * random >= policy.deadline_s
    else:
        assert 0 <= delay <= ceiling
        assert elapsed + delay < policy.deadline_s


@given(policies(), st.integers(1, 100))
def test_the_ceiling_never_falls_and_never_passes_the_cap(policy, failures):
    assert policy.ceiling_s(failures) <= policy.ceiling_s(failures + 1) <= policy.cap_s


@given(policies(), st.integers(1, 20), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_jitter_is_the_callers_random_number(policy, failures, low, high):
    """Full jitter: the delay is linear in the random number, from nothing up to the ceiling."""
    endless = RetryPolicy(policy.base_s, policy.cap_s)
    a, b = endless.delay_s(failures, 0, min(low, high)), endless.delay_s(failures, 0, max(low, high))
    assert a is not None
    assert b is not None
    assert a <= b
    assert endless.delay_s(failures, 0, 0.0) == 0.0


@given(policies(), st.lists(st.floats(0, 1, exclude_max=True), min_size=50, max_size=50))
def test_a_whole_series_of_attempts_ends_by_the_deadline(policy, randoms):
    elapsed = 0.0
    for failures, random in enumerate(randoms, start=1):
        delay = policy.delay_s(failures, elapsed, random)
        if delay is None:
            break
        elapsed += delay
        assert elapsed < policy.deadline_s


@pytest.mark.parametrize(("base", "cap", "deadline"), [(0, 1, 1), (-1, 1, 1), (2, 1, 1), (1, 1, -1)])
def test_a_policy_without_sense_is_refused(base, cap, deadline):
    with pytest.raises(ValueError, match="must"):
        RetryPolicy(base, cap, deadline)


def test_there_is_no_delay_before_a_failure():
    with pytest.raises(ValueError, match="1 or more"):
        RetryPolicy().ceiling_s(0)


async def test_what_may_pass_is_tried_again_until_it_does():
    told: list[int] = []
    attempts: Iterator[str | Exception] = iter([KafkaUnavailableError("away"), KafkaUnavailableError("away"), "done"])

    async def attempt() -> str:
        outcome = next(attempts)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    policy = RetryPolicy(0.001, 0.002)
    assert await retrying(attempt, policy, on_retry=lambda _error, failures: told.append(failures)) == "done"
    assert told == [1, 2]


async def test_what_will_not_pass_is_not_tried_again():
    calls = 0

    async def attempt() -> None:
        nonlocal calls
        calls += 1
        raise InvalidEventError([])

    with pytest.raises(InvalidEventError):
        await retrying(attempt, RetryPolicy(0.001, 0.002))
    assert calls == 1


async def test_the_last_error_comes_out_at_the_deadline():
    async def attempt() -> None:
        raise KafkaUnavailableError("away")

    async with asyncio.timeout(2):
        with pytest.raises(KafkaUnavailableError, match="away"):
            await retrying(attempt, RetryPolicy(0.001, 0.002, deadline_s=0.05))
