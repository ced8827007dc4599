"""GET /aggregates/{topic}."""

from __future__ import annotations

import pytest

from streams.domain.aggregates import AggregatedEvent
from tests.web_gateway import gateway, problem_of

RESULT = AggregatedEvent("iot", "a", "tumbling-1m", 0, 60_000, 2, 3.0, 1.5, 1.0, 2.0, 1, 0, 70_000)


async def get(g, query="", status=200):
    response = await g.client.get("/api/v1/aggregates/iot" + query, headers=g.headers("events:read:iot"))
    assert response.status == status
    return await response.json() if status == 200 else await problem_of(response)


async def test_windows_come_with_all_their_fields():
    async with gateway() as g:
        g.state.windows = [RESULT]
        answer = await get(g)
        assert answer["topic"] == "iot"
        [window] = answer["aggregates"]
        assert window == {name: getattr(RESULT, name) for name in RESULT.__struct_fields__}
        assert g.state.queries == [
            {"topic": "iot", "window": None, "event_type": None, "from_ms": None, "to_ms": None, "limit": 100}
        ]


async def test_filters_are_passed_on_times_in_both_forms():
    async with gateway() as g:
        await get(g, "?window=tumbling-5m&event_type=a&from=2024-01-01T00:00:00Z&to=1704067260000&limit=7")
        assert g.state.queries == [
            {
                "topic": "iot",
                "window": "tumbling-5m",
                "event_type": "a",
                "from_ms": 1_704_067_200_000,
                "to_ms": 1_704_067_260_000,
                "limit": 7,
            }
        ]


@pytest.mark.parametrize(
    "query", ["?window=hourly", "?from=yesterday", "?to=2024-01-01T00:00:00", "?from=9" + "9" * 17]
)
async def test_wrong_parameters_are_told(query):
    async with gateway() as g:
        problem = await get(g, query, status=400)
        assert [error["path"] for error in problem["errors"]] == [query.partition("=")[0]]


async def test_half_a_table_does_not_answer():
    async with gateway() as g:
        g.state.tables_waiting = "being restored"
        problem = await get(g, status=503)
        assert (problem["code"], problem["retriable"]) == ("unavailable", True)
