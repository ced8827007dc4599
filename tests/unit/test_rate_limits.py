"""How much each subject may send, and how many bytes of bodies may be read at once."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import hdrs
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.errors import OverloadedError
from streams.domain.rate_limit import TokenBucket
from tests.web_gateway import gateway, make_settings, problem_of
from web.errors import RateLimitedError
from web.http.admission import BodyAdmission
from web.security import rate_limits
from web.security.auth import Claims
from web.security.rate_limits import RateLimits


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


def claims(subject):
    return Claims(subject, frozenset(), 2e9, f"sub {subject}")


def limits(clock=None, **settings):
    return RateLimits(make_settings(**settings), clock=clock or Clock())


class TestBucket:
    # time   0          1          2
    # level  3 2 1 0    2 (rate 2) 3 (burst 3, not 4)
    def test_it_is_full_at_first_fills_by_its_rate_and_not_over_its_burst(self):
        bucket = TokenBucket(2.0, 3.0, 0.0)
        assert [bucket.take(1, 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
        assert [bucket.take(1, 1.0) for _ in range(3)] == [0, 0, 0.5]
        assert [bucket.take(1, 9.0) for _ in range(4)] == [0, 0, 0, 0.5]

    def test_what_is_refused_takes_nothing(self):
        bucket = TokenBucket(1.0, 10.0, 0.0)
        assert bucket.take(8, 0.0) == 0
        assert bucket.take(5, 0.0) == 3
        assert bucket.take(2, 0.0) == 0

    def test_more_than_the_burst_is_taken_from_a_full_bucket_and_paid_for_afterwards(self):
        bucket = TokenBucket(1.0, 10.0, 0.0)
        assert bucket.take(25, 0.0) == 0
        assert bucket.take(1, 0.0) == 16
        assert bucket.take(1, 16.0) == 0

    def test_a_clock_that_goes_back_gives_nothing(self):
        bucket = TokenBucket(1.0, 1.0, 100.0)
        assert bucket.take(1, 100.0) == 0
        assert bucket.take(1, 50.0) == 1
        assert bucket.take(1, 100.5) == 0.5

    @given(
        rate=st.floats(0.1, 1e6),
        burst=st.integers(1, 1_000),
        calls=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 3_000)), min_size=1, max_size=40),
    )
    def test_no_span_takes_more_than_burst_rate_and_one_call(self, rate, burst, calls):
        bucket = TokenBucket(rate, burst, 0.0)
        now, taken = 0.0, []
        for pause, amount in calls:
            now += pause
            wait = bucket.take(amount, now)
            assert wait >= 0
            if wait == 0:
                taken.append((now, amount))
        for first, (begin, _) in enumerate(taken):
            for last in range(first, len(taken)):
                span = taken[last][0] - begin
                total = sum(amount for _, amount in taken[first : last + 1])
                largest = max(amount for _, amount in taken[first : last + 1])
                assert total <= (burst + rate * span) * (1 + 1e-9) + max(0, largest - burst)

    @given(rate=st.floats(0.1, 1e6), burst=st.integers(1, 1_000), amounts=st.lists(st.integers(1, 3_000), max_size=20))
    def test_after_the_wait_that_was_told_it_is_taken(self, rate, burst, amounts):
        bucket = TokenBucket(rate, burst, 0.0)
        now = 0.0
        for amount in amounts:
            wait = bucket.take(amount, now)
            if wait:
                assert bucket.take(amount, now + wait * 0.99) > 0
                now += wait * (1 + 1e-9) + 1e-9
                assert bucket.take(amount, now) == 0


class TestSubjects:
    def test_each_subject_has_its_own_share(self):
        each = limits(subject_requests_per_s=2.0)
        for _ in range(2):
            each.charge_request(claims("a"))
        with pytest.raises(RateLimitedError, match="2 requests a second") as refused:
            each.charge_request(claims("a"))
        assert refused.value.retry_after_s == pytest.approx(0.5)
        each.charge_request(claims("b"))

    def test_events_have_a_share_of_their_own(self):
        clock = Clock()
        each = limits(clock, subject_requests_per_s=1.0, subject_events_per_s=10.0, subject_burst_events=20)
        each.charge_events(claims("a"), 20)
        with pytest.raises(RateLimitedError, match="10 events a second") as refused:
            each.charge_events(claims("a"), 5)
        assert refused.value.retry_after_s == pytest.approx(0.5)
        each.charge_request(claims("a"))
        clock.now += 0.5
        each.charge_events(claims("a"), 5)

    def test_nought_is_without_limit(self):
        each = limits(subject_requests_per_s=0, subject_events_per_s=0)
        for _ in range(1_000):
            each.charge_request(claims("a"))
            each.charge_events(claims("a"), 1_000_000)

    def test_the_memory_of_subjects_is_bounded_and_the_active_are_kept(self, monkeypatch):
        monkeypatch.setattr(rate_limits, "MAX_SUBJECTS", 10)
        each = limits(subject_requests_per_s=1.0)
        each.charge_request(claims("active"))
        for number in range(100):
            each.charge_request(claims(str(number)))
            with pytest.raises(RateLimitedError):
                each.charge_request(claims("active"))
        assert len(each._requests._buckets) == 10


def post(length=None, *, chunked=False):
    headers = {} if length is None else {hdrs.CONTENT_LENGTH: str(length)}
    return make_mocked_request("POST", "/", headers | ({hdrs.TRANSFER_ENCODING: "chunked"} if chunked else {}))


class TestBodies:
    def test_what_is_being_read_is_bounded_and_given_back(self):
        admission = BodyAdmission(100)
        with admission.body(post(60), 80):
            with pytest.raises(OverloadedError), admission.body(post(41), 80):
                pass
            with admission.body(post(40), 80), pytest.raises(OverloadedError), admission.body(post(1), 80):
                pass
        with admission.body(post(80), 80):
            pass

    def test_it_is_given_back_when_the_reading_fails(self):
        admission = BodyAdmission(100)
        for _ in range(3):
            with pytest.raises(asyncio.CancelledError), admission.body(post(80), 80):
                raise asyncio.CancelledError
        assert admission._free == 100

    def test_a_body_of_unknown_length_counts_as_the_largest(self):
        admission = BodyAdmission(100)
        with admission.body(post(chunked=True), 80), pytest.raises(OverloadedError), admission.body(post(21), 80):
            pass

    def test_no_body_counts_as_nothing_nor_does_one_that_is_refused_for_its_size(self):
        admission = BodyAdmission(10)
        with admission.body(post(), 5), admission.body(post(0), 5), admission.body(post(1_000), 5):
            assert admission._free == 10


class TestOverHttp:
    async def test_past_its_share_a_subject_is_refused_before_its_body_is_read(self):
        async with gateway(subject_requests_per_s=2.0) as g:
            statuses = [(await g.client.get("/api/v1/nowhere", headers=g.headers())).status for _ in range(2)]
            assert statuses == [404, 404]
            async with asyncio.timeout(2):
                # The body never comes, and is not waited for.
                reader, writer = await asyncio.open_connection("127.0.0.1", g.client.port)
                writer.write(
                    b"POST /api/v1/events/iot HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nAuthorization: Bearer "
                    + g.token().encode()
                    + b"\r\n\r\n"
                )
                head = await reader.readuntil(b"\r\n\r\n")
                writer.close()
            assert head.startswith(b"HTTP/1.1 429 ")
            assert b"\r\nRetry-After: 1\r\n" in head

    async def test_the_refusal_is_a_problem_and_what_is_open_stays_so(self):
        async with gateway(subject_requests_per_s=1.0) as g:
            assert (await g.client.get("/api/v1/nowhere", headers=g.headers())).status == 404
            response = await g.client.get("/api/v1/nowhere", headers=g.headers())
            document = await problem_of(response)
            assert (response.status, document["code"], document["retriable"]) == (429, "rate_limited", True)
            assert (await g.client.get("/health/live")).status == 200

    async def test_who_has_no_token_uses_up_nobody_s_share(self):
        async with gateway(subject_requests_per_s=1.0) as g:
            for _ in range(5):
                assert (await g.client.get("/api/v1/nowhere")).status == 401
            assert (await g.client.get("/api/v1/nowhere", headers=g.headers())).status == 404
