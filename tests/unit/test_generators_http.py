"""Sending over HTTP, against a small server that validates as the platform does and can be told to misbehave."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import time
from collections import Counter

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from streams.domain.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidEventError,
    PermissionDeniedError,
    UnavailableError,
    UnknownTopicError,
)
from streams.domain.validation import EventRules, event_from_json
from streams.domain.windows import MINUTE_MS
from streams.generators.http_sink import base_url
from streams.generators.options import GeneratorOptions
from streams.generators.run import run_generator
from streams.settings import Settings

TOKEN = "a.b.c"
MIXED = GeneratorOptions(
    rate=100_000, count=600, invalid_ratio=0.2, late_ratio=0.1, late_after_s=0, duplicate_ratio=0.1, concurrency=8
)


class FakePlatform:
    """Validates events and keeps the valid ones; `answers` are given before it looks at an event, oldest first."""

    def __init__(self):
        self.settings = Settings()
        self.accepted = []
        self.rejected = Counter()
        self.answers = []
        self.requests = 0
        self.not_ready = 0
        self.most_at_once = 0
        self._at_once = 0
        self.tokens = set()
        self.delay_s = 0.0
        self.remembers = False
        """Whether it knows an event by its id, as a worker does."""

    async def ready(self, request):
        self.not_ready -= 1
        return web.Response(status=503 if self.not_ready >= 0 else 200, text="kafka")

    async def publish(self, request):
        self.requests += 1
        self.tokens.add(request.headers.get("Authorization"))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._publish(request)
        finally:
            self._at_once -= 1

    async def _publish(self, request):
        body = await request.read()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.answers:
            answer = self.answers.pop(0)
            if answer is ConnectionResetError:
                request.transport.abort()
                return web.Response()
            if answer is not None:
                return answer()
        try:
            event = event_from_json(body, EventRules(), time.time_ns() // 1_000_000, lambda: "made")
        except InvalidEventError as exc:
            self.rejected[exc.code] += 1
            errors = [{"path": e.path, "message": e.message, "code": e.code} for e in exc.errors]
            return problem(422 if exc.code == "invalid_event" else 400, exc.code, errors=errors)
        known = self.remembers and event.event_id in {known.event_id for _, known in self.accepted}
        if not known:
            self.accepted.append((request.match_info["topic"], event))
        return web.json_response({"event_id": event.event_id, "duplicate": known}, status=201)


def problem(status, code, headers=None, **more):
    return web.json_response(
        {"status": status, "code": code, **more},
        status=status,
        headers=headers,
        content_type="application/problem+json",
    )


@pytest.fixture
async def platform():
    fake = FakePlatform()
    app = web.Application()
    app.router.add_post("/api/v1/events/{topic}", fake.publish)
    app.router.add_get("/api/v1/health/ready", fake.ready)
    async with TestServer(app) as server:
        fake.settings = Settings(web_port=server.port, retry_base_s=0.01, retry_cap_s=0.05, request_deadline_s=1)
        yield fake


async def run(platform, options=MIXED, **more):
    out, err = io.StringIO(), io.StringIO()
    try:
        return await run_generator(options, platform.settings, token=TOKEN, out=out, err=err, **more)
    finally:
        platform.out, platform.err = out.getvalue(), err.getvalue()


async def test_the_totals_are_what_the_platform_holds(platform):
    totals = await run(platform)
    document = totals.as_json()
    topics = document["topics"].values()
    assert document["emitted"] == 600 == platform.requests
    assert sum(t["accepted"] for t in topics) == len(platform.accepted)
    assert sum(t["rejected"] for t in topics) == platform.rejected.total() > 80
    by_reason = Counter()
    for topic in topics:
        by_reason.update(topic["invalid_by_reason"])
        assert topic["emitted"] == topic["valid"] + topic["invalid"] + topic["late"] + topic["duplicates"]
        assert topic["emitted"] == topic["accepted"] + topic["rejected"] + topic["failed"]
        assert topic["invalid"] == sum(topic["invalid_by_code"].values()) == sum(topic["invalid_by_fault"].values())
        assert topic["late"] > 0
        assert topic["duplicates"] > 0
    assert by_reason == platform.rejected
    assert (totals.surprises, totals.failed, totals.retries) == (0, 0, 0)
    assert platform.tokens == {f"Bearer {TOKEN}"}


async def test_what_is_known_already_is_counted_as_not_stored_again(platform):
    platform.remembers = True
    document = (await run(platform)).as_json()
    topics = document["topics"].values()
    assert sum(t["repeated"] for t in topics) == sum(t["duplicates"] for t in topics) > 30
    assert sum(t["accepted"] - t["repeated"] for t in topics) == len(platform.accepted)
    minutes = document["minutes"]
    assert sum(m["repeated"] for m in minutes) == sum(m["duplicates"] for m in minutes)


async def test_each_minute_has_the_count_sum_bounds_and_users_of_its_accepted_events(platform):
    document = (await run(platform)).as_json()
    expected = {}
    for topic, event in platform.accepted:
        identity = (topic, event.event_type, event.timestamp // MINUTE_MS * MINUTE_MS)
        expected.setdefault(identity, []).append(event)
    assert {(m["topic"], m["event_type"], m["window_start"]) for m in document["minutes"]} == set(expected)
    for minute in document["minutes"]:
        events = expected[minute["topic"], minute["event_type"], minute["window_start"]]
        values = [e.value for e in events if e.value is not None]
        accepted = minute["accepted"]
        assert accepted["count"] == len(events)
        assert accepted["sum"] == (pytest.approx(sum(values)) if values else None)
        assert (accepted["min"], accepted["max"]) == ((min(values), max(values)) if values else (None, None))
        assert accepted["distinct_users"] == len({e.user_id for e in events} - {None})
        assert accepted["count"] == minute["on_time"]["count"] + minute["late"] + minute["duplicates"]
        assert minute["window_end"] - minute["window_start"] == MINUTE_MS


async def test_no_more_events_are_under_way_than_allowed(platform):
    platform.delay_s = 0.005
    await run(platform)
    assert platform.most_at_once == 8


@pytest.mark.parametrize("status", [408, 429, 503])
async def test_a_refusal_for_now_is_tried_again_after_the_time_it_asks_for(platform, status):
    platform.answers = [lambda: problem(status, "overloaded", {"Retry-After": "1"})]
    began = time.monotonic()
    totals = await run(platform, GeneratorOptions(rate=100_000, count=50, concurrency=1))
    assert time.monotonic() - began >= 0.95
    assert (totals.retries, totals.failed, totals.surprises) == (1, 0, 0)
    assert sum(t.uncertain for t in totals.topics.values()) == 0
    assert len(platform.accepted) == 50 == totals.emitted


async def test_a_refusal_holds_back_the_events_behind_it_too(platform):
    platform.answers = [lambda: problem(503, "overloaded", {"Retry-After": "1"})]
    running = asyncio.create_task(run(platform, GeneratorOptions(rate=100, duration_s=1.2, concurrency=8)))
    await asyncio.sleep(0.8)
    assert platform.requests < 20
    await running
    assert len(platform.accepted) == 120


async def test_a_worker_that_is_starting_leaves_nothing_uncertain(platform):
    platform.answers = [lambda: problem(503, "unavailable")] * 3
    totals = await run(platform, GeneratorOptions(rate=100_000, count=10, concurrency=1))
    assert (totals.retries, sum(t.uncertain for t in totals.topics.values())) == (3, 0)


@pytest.mark.parametrize("answer", [ConnectionResetError, lambda: problem(503, "kafka_unavailable")])
async def test_an_attempt_whose_fate_is_unknown_makes_the_event_uncertain_but_counts_once(platform, answer):
    platform.answers = [answer]
    totals = await run(platform, GeneratorOptions(rate=100_000, count=50, concurrency=1))
    assert (totals.emitted, totals.retries, totals.failed) == (50, 1, 0)
    assert sum(t.uncertain for t in totals.topics.values()) == 1
    assert sum(m["accepted"]["count"] for m in totals.as_json()["minutes"]) == 50


async def test_a_platform_that_takes_nothing_ends_the_run_with_an_error_and_the_totals(platform):
    platform.answers = [lambda: problem(503, "kafka_unavailable", detail="no leader")] * 10_000
    options = GeneratorOptions(rate=100_000, count=50, concurrency=4, give_up_after_s=0.3)
    with pytest.raises(UnavailableError, match=r"does not take events: an event was tried for 0\.3 s.*no leader"):
        await run(platform, options)
    assert "ended early by unavailable" in platform.out
    assert platform.accepted == []


@pytest.mark.parametrize(
    ("status", "error"), [(401, AuthenticationError), (403, PermissionDeniedError), (404, UnknownTopicError)]
)
async def test_what_no_retry_mends_ends_the_run_at_once(platform, status, error):
    platform.answers = [lambda: problem(status, "no")] * 10_000
    with pytest.raises(error):
        await run(platform)
    assert platform.requests <= 16


async def test_an_accepted_invalid_event_and_a_rejected_valid_one_are_surprises_with_an_example(platform):
    platform.answers = [lambda: problem(422, "invalid_event", detail="I do not like it")]
    totals = await run(platform, GeneratorOptions(rate=100_000, count=20, concurrency=1))
    assert (totals.surprises, sum(t.as_json()["rejected"] for t in totals.topics.values())) == (1, 1)
    assert "should get 201; the answer was 422" in platform.out
    assert "I do not like it" in platform.out

    platform.answers = [lambda: web.json_response({}, status=201)]
    totals = await run(platform, GeneratorOptions(rate=100_000, count=20, concurrency=1, invalid_ratio=1))
    assert totals.surprises == 1
    assert "should get 400 or 422" in totals.examples[0]
    assert totals.as_json()["minutes"] == []


@pytest.mark.parametrize(
    "answer",
    [
        lambda: problem(422, "unknown_topic"),
        lambda: problem(413, "body_too_large"),
        lambda: problem(422, "invalid_event", errors=[{"path": "/no", "code": "such"}]),
        lambda: web.Response(status=422, text="<html>"),
    ],
)
async def test_a_rejection_for_another_reason_is_a_surprise(platform, answer):
    platform.answers = [answer]
    totals = await run(platform, GeneratorOptions(rate=100_000, count=20, concurrency=1, invalid_ratio=1))
    assert totals.surprises == 1


async def test_the_start_waits_until_the_platform_is_ready_and_says_so_once(platform):
    platform.not_ready = 4
    totals = await run(platform, GeneratorOptions(rate=100_000, count=5))
    assert totals.emitted == 5
    assert platform.err.count("waiting for") == 1
    assert "503 kafka" in platform.err


async def test_a_platform_that_never_comes_is_named():
    settings = Settings(web_port=unused_port(), retry_base_s=0.01, retry_cap_s=0.02)
    with pytest.raises(UnavailableError, match=r"health/ready was not ready within 0\.1 s"):
        await run_generator(
            GeneratorOptions(ready_within_s=0.1), settings, token=TOKEN, out=io.StringIO(), err=io.StringIO()
        )


async def test_a_live_run_keeps_its_pace(platform):
    began = time.monotonic()
    await run(platform, GeneratorOptions(rate=100, duration_s=2))
    assert 1.9 < time.monotonic() - began < 4
    assert len(platform.accepted) == 200


async def test_the_history_is_sent_at_once_before_the_live_part(platform):
    began = time.monotonic()
    totals = await run(platform, GeneratorOptions(rate=5, duration_s=1, history_s=60))
    assert time.monotonic() - began < 4
    assert totals.emitted == 305
    times = [event.timestamp for _, event in platform.accepted]
    assert max(times) - min(times) == pytest.approx(61_000, abs=5_000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_finishes_what_is_under_way_and_prints_the_totals(platform, number):
    platform.delay_s = 0.2
    before = signal.getsignal(number)
    asyncio.get_running_loop().call_later(1.0, os.kill, os.getpid(), number)
    totals = await run(platform, GeneratorOptions(rate=50))
    assert totals.stopped_by == number.name
    assert totals.emitted == len(platform.accepted) == platform.requests > 10
    assert (totals.failed, totals.surprises) == (0, 0)
    assert f"ended early by {number.name}" in platform.out
    assert signal.getsignal(number) is before


async def test_a_second_signal_does_not_wait(platform):
    platform.delay_s = 30
    for after_s in (0.5, 0.8):
        asyncio.get_running_loop().call_later(after_s, os.kill, os.getpid(), signal.SIGTERM)
    began = time.monotonic()
    totals = await run(platform, GeneratorOptions(rate=50, concurrency=4))
    assert time.monotonic() - began < 5
    assert totals.failed == totals.emitted == 4
    assert sum(t.uncertain for t in totals.topics.values()) == 4


async def test_a_stop_while_the_platform_is_away_does_not_wait_for_the_deadline(platform):
    platform.answers = [lambda: problem(503, "overloaded", {"Retry-After": "30"})] * 10_000
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.5, stop.set)
    began = time.monotonic()
    totals = await run(platform, GeneratorOptions(rate=50), stop=stop)
    assert time.monotonic() - began < 5
    assert totals.failed == totals.emitted > 0


async def test_a_cancelled_run_prints_its_totals_and_stays_cancelled(platform):
    running = asyncio.create_task(run(platform, GeneratorOptions(rate=50)))
    await asyncio.sleep(0.5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "ended early by cancellation" in platform.out


async def test_json_is_one_document_on_standard_output(platform):
    totals = await run(platform, GeneratorOptions(rate=100_000, count=20, json=True))
    assert json.loads(platform.out) == totals.as_json()


async def test_http_takes_a_token(platform):
    with pytest.raises(ConfigurationError, match="token"):
        await run_generator(GeneratorOptions(), platform.settings)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:7000"),
        ("::", "http://[::1]:7000"),
        ("worker", "http://worker:7000"),
    ],
)
def test_a_worker_that_listens_everywhere_is_reached_on_this_machine(host, url):
    assert str(base_url(Settings(web_host=host, web_port=7_000))) == url
