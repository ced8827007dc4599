"""GET /aggregates/{topic}: the windows of all workers, and whether they are the last word."""

from __future__ import annotations

from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from streams.domain.aggregates import AggregatedEvent
from streams.domain.naming import AGGREGATES
from streams.kafka.batching import Phase, Source
from tests.memory_tables import OWN_URL
from tests.web_gateway import gateway, problem_of
from web.read.aggregates import RoutedResults
from web.read.workers import ROUTED

MINUTE = 60_000
FIRST, SECOND = Source(AGGREGATES, 0), Source(AGGREGATES, 1)


def result(minute, event_type="a", window="tumbling-1m", topic="iot", **values):
    fields = {
        "window_start": minute * MINUTE, "window_end": minute * MINUTE + MINUTE, "count": 2, "sum": 3.0, "avg": 1.5,
        "min": 1.0, "max": 2.0, "distinct_users": 1, "revision": 0, "emitted_at": minute * MINUTE + 70_000,
    }  # fmt: skip
    return AggregatedEvent(topic, event_type, window, **(fields | values))


@asynccontextmanager
async def worker(**settings):
    """A gateway that has both partitions of platform.aggregates."""
    async with gateway(**settings) as g:
        tables = g.state.tables
        tables.partitions = {AGGREGATES: 2, "events.iot": 2}
        tables.assign(FIRST)
        tables.assign(SECOND)
        yield g, tables


async def get(g, query="", status=200, topic="iot", **headers):
    response = await g.client.get(
        f"/api/v1/aggregates/{topic}{query}", headers=g.headers(f"events:read:{topic}", **headers)
    )
    assert response.status == status, await response.text()
    return await response.json() if status == 200 else await problem_of(response)


def starts(answer):
    return [(one["window_start"] // MINUTE, one["event_type"]) for one in answer["aggregates"]]


async def test_windows_come_with_all_their_fields():
    async with worker() as (g, tables):
        tables.put_window(1, result(0))
        answer = await get(g)
        assert answer == {
            "topic": "iot",
            "aggregates": [msgspec.to_builtins(result(0)) | {"final": False}],
            "before": None,
        }


async def test_those_of_all_partitions_are_one_list_newest_first():
    async with worker() as (g, tables):
        for partition, one in ((0, result(1)), (1, result(3)), (0, result(2, "b")), (1, result(2))):
            tables.put_window(partition, one)
        tables.put_window(0, result(9, topic="clickstream"))
        tables.put_window(1, result(9, topic="iot-2"))
        assert starts(await get(g)) == [(3, "a"), (2, "a"), (2, "b"), (1, "a")]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?window=tumbling-5m", [(0, "a")]),
        ("?event_type=b", [(2, "b"), (0, "b")]),
        ("?event_type=a&window=tumbling-1m", [(2, "a"), (1, "a"), (0, "a")]),
        ("?from=60000&to=120000", [(1, "a")]),
        ("?from=1970-01-01T00:01:00Z&to=1970-01-01T00:02:00Z", [(1, "a")]),
        ("?from=180000", []),
    ],
)
async def test_only_what_is_asked_for(query, found):
    async with worker() as (g, tables):
        for minute in range(3):
            tables.put_window(minute % 2, result(minute))
        tables.put_window(0, result(0, "b"))
        tables.put_window(1, result(2, "b"))
        # An event type that begins as another is another.
        tables.put_window(1, result(1, "a.b", "sliding-5m-1m"))
        tables.put_window(1, result(0, window="tumbling-5m"))
        answer = await get(g, query)
        assert [place for place in starts(answer) if place[1] != "a.b"] == found


async def test_pages_hold_every_window_once():
    async with worker() as (g, tables):
        for minute in range(5):
            for event_type in ("a", "b"):
                tables.put_window(minute % 2, result(minute, event_type))
        found, query = [], "?limit=3"
        while query:
            page = await get(g, query)
            assert len(page["aggregates"]) == 3 or page["before"] is None
            found += starts(page)
            query = page["before"] and f"?limit=3&before={page['before']}"
        assert found == [(minute, event_type) for minute in (4, 3, 2, 1, 0) for event_type in ("a", "b")]


class TestFinal:
    async def test_it_is_once_a_window_that_ends_later_by_the_allowed_lateness_has_a_result(self):
        async with worker(flink_allowed_lateness_s=60) as (g, tables):
            for minute in range(3):
                tables.put_window(0, result(minute))
            assert [one["final"] for one in (await get(g))["aggregates"]] == [False, True, True]

    async def test_any_topic_kind_and_partition_tells_how_far_the_job_is(self):
        async with worker(flink_allowed_lateness_s=60) as (g, tables):
            tables.put_window(0, result(0))
            assert [one["final"] for one in (await get(g))["aggregates"]] == [False]
            tables.put_window(1, result(1, topic="clickstream", window="sliding-5m-1m"))
            assert [one["final"] for one in (await get(g))["aggregates"]] == [True]

    async def test_without_lateness_every_result_is(self):
        async with worker(flink_allowed_lateness_s=0) as (g, tables):
            tables.put_window(0, result(0))
            assert [one["final"] for one in (await get(g))["aggregates"]] == [True]

    async def test_another_worker_may_know_more(self):
        async with worker(flink_allowed_lateness_s=60) as (g, tables):
            tables.put_window(0, result(0))
            async with other(tables, RoutedResults([], 2 * MINUTE, [SECOND])):
                assert [one["final"] for one in (await get(g))["aggregates"]] == [True]


@asynccontextmanager
async def other(tables, answer, status=200):
    """Another worker, which has the second partition, and gives this answer; yields the requests that it was sent."""
    asked = []

    async def handle(request):
        asked.append(request)
        return web.Response(status=status, body=msgspec.json.encode(answer), content_type="application/json")

    application = web.Application()
    application.router.add_get("/{path:.*}", handle)
    async with TestServer(application) as server:
        del tables.statuses[SECOND]
        tables.windows.parts.pop(SECOND)
        tables.newest.parts.pop(SECOND)
        tables.owners = {OWN_URL: {AGGREGATES: [0]}, str(server.make_url("/")): {AGGREGATES: [1]}}
        yield asked


class TestOtherWorkers:
    async def test_their_windows_are_in_the_answer(self):
        async with worker() as (g, tables):
            tables.put_window(0, result(1))
            tables.put_window(0, result(3))
            async with other(tables, RoutedResults([result(2), result(0)], 3 * MINUTE, [SECOND])) as asked:
                answer = await get(g, "?limit=3&event_type=a&from=0")
                assert starts(answer) == [(3, "a"), (2, "a"), (1, "a")]
                assert answer["before"] == f"{MINUTE}/a/tumbling-1m"
                [request] = asked
                assert request.path_qs == "/api/v1/aggregates/iot?limit=3&event_type=a&from=0"
                assert request.headers[ROUTED] == "1"
                assert request.headers["Authorization"].startswith("Bearer ")

    async def test_one_that_has_given_its_part_away_makes_no_half_truth(self):
        async with worker() as (g, tables):
            tables.put_window(0, result(1))
            async with other(tables, RoutedResults([], None, [])):
                problem = await get(g, status=503)
                assert (problem["code"], problem["retriable"]) == ("unavailable", True)
                assert "platform.aggregates[1]" in problem["detail"] or "1" in problem["detail"]

    @pytest.mark.parametrize(
        ("theirs", "code", "status"), [(503, "worker_unavailable", 503), (500, "worker_failed", 502)]
    )
    async def test_one_that_fails_is_told(self, theirs, code, status):
        async with worker() as (g, tables), other(tables, {}, theirs):
            assert (await get(g, status=status))["code"] == code

    async def test_what_they_ask_is_answered_from_here_alone(self):
        async with worker() as (g, tables):
            tables.put_window(0, result(1))
            tables.put_window(0, result(2))
            async with other(tables, {}, 500) as asked:
                answer = await get(g, "?limit=1", **{ROUTED: "1"})
                # One more than asked for, by which the asker knows whether there are more.
                assert msgspec.convert(answer, RoutedResults) == RoutedResults(
                    [result(2), result(1)], 3 * MINUTE, [FIRST]
                )
                assert asked == []


async def test_half_a_table_does_not_answer():
    async with worker() as (g, tables):
        tables.assign(SECOND, Phase.RESTORING, restoring=5, committed=None)
        problem = await get(g, status=503)
        assert (problem["code"], problem["retriable"]) == ("unavailable", True)
        tables.waiting = "partitions are being reassigned"
        assert "reassigned" in (await get(g, status=503))["detail"]


async def test_a_part_that_leaves_meanwhile_does_not_answer_half(monkeypatch):
    async with worker() as (g, tables):

        def leaves(*args):
            del tables.statuses[SECOND]
            return []

        monkeypatch.setattr("web.read.aggregates.query_windows", leaves)
        assert "reassigned" in (await get(g, status=503))["detail"]


async def test_before_the_topic_exists_nothing_is_known():
    async with gateway() as g:
        assert (await get(g, status=503))["code"] in ("unavailable", "kafka_unavailable")


@pytest.mark.parametrize(
    "query",
    [
        "?window=hourly", "?from=yesterday", "?to=2024-01-01T00:00:00", "?from=9" + "9" * 17, "?limit=1001",
        "?before=now", "?before=1/a/tumbling-1m/x", "?before=/a/tumbling-1m",
    ],
)  # fmt: skip
async def test_wrong_parameters_are_told(query):
    async with worker() as (g, _):
        problem = await get(g, query, status=400)
        assert [error["path"] for error in problem["errors"]] == [query.partition("=")[0]]


async def test_an_unknown_topic_is_not_found():
    async with worker() as (g, _):
        assert (await get(g, topic="nowhere", status=404))["code"] == "unknown_topic"
