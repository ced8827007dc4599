"""The table pages of two workers on a real broker: whoever is asked, the answer is that of the one who has the key."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.platform import eventually, two_workers
from web.read.workers import key_path

COUNT = 500


async def read(client: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with client.get(URL(str(client._base_url).rstrip("/") + path, encoded=True)) as response:
        if response.status == 503:
            assert int(response.headers["Retry-After"]) >= 1
        return response.status, await response.json(content_type=None)


async def read_all(client: aiohttp.ClientSession, keys: list[str]) -> dict[str, tuple[int, Any]]:
    """Status and answer of each key."""
    found = {}
    few = asyncio.Semaphore(8)

    async def read_one(key: str) -> None:
        async with few:
            found[key] = await read(client, key_path("state", f"iot/{key}"))

    await asyncio.gather(*map(read_one, keys))
    return found


async def browse(client: aiohttp.ClientSession, prefix: str) -> list[str]:
    """Every key of a worker, page by page."""
    found, query = [], f"prefix={prefix}&limit=50"
    while query:
        _, answer = await read(client, f"/api/v1/tables/state?{query}")
        found += [entry["key"] for entry in answer["keys"]]
        query = answer["after"] and f"prefix={prefix}&limit=50&after={answer['after']}"
    return found


async def check_metrics(clients: Sequence[aiohttp.ClientSession]) -> None:
    """Together they have all rows, and every partition goes on."""
    rows = 0
    for client in clients:
        async with client.get("/metrics") as response:
            page = await response.text()
        rows += int(re.findall(r'^streams_table_rows\{table="state"\} (\d+)$', page, re.MULTILINE)[0])
        assert re.search(r'^streams_agent_phase\{.*phase="running",pipeline="state".*\} 1$', page, re.MULTILINE)
        async with client.get("/api/v1/health/ready") as response:
            assert (await response.json())["checks"]["agents"] == {"ok": True}
    assert rows >= COUNT


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
async def test_each_worker_answers_for_every_key_also_when_one_is_killed(
    kafka_broker, schema_registry, tmp_path, store
):
    settings = {"kafka_bootstrap_servers": kafka_broker.bootstrap_servers, "registry_url": schema_registry.url}
    keys = [f"{store} gerät {i}/{'é' if i % 3 else '%2F'}" for i in range(COUNT)]
    with two_workers(tmp_path, table_store=store, **settings) as (a, b):
        async with AsyncExitStack() as stack:
            one = await stack.enter_async_context(a.client())
            two = await stack.enter_async_context(b.client())

            async def shared() -> bool:
                answers = [await read(client, "/api/v1/tables") for client in (one, two)]
                tables = [next(t for t in answer["tables"] if t["name"] == "state") for _, answer in answers]
                parts = [{p["partition"] for p in t["parts"] if p["topic"] == "events.iot"} for t in tables]
                return all(parts) and set.union(*parts) == {0, 1, 2, 3}

            await eventually(shared)
            for i, key in enumerate(keys):
                event = {"event_type": store, "timestamp": int(time.time() * 1000), "user_id": key, "value": float(i)}
                async with one.post("/api/v1/events/iot", json=event) as response:
                    assert response.status == 201

            async def folded() -> bool:
                return all(status == 200 for status, _ in (await read_all(one, keys)).values())

            await eventually(folded)
            first, second = await read_all(one, keys), await read_all(two, keys)
            assert first == second
            for i, key in enumerate(keys):
                [row] = first[key][1]["rows"]
                assert (row["value"]["count"], row["value"]["last_value"]) == (1, float(i))
            assert {answer["rows"][0]["worker"] for _, answer in first.values()} == {a.url, b.url}
            for client in (one, two):
                assert (await read(client, "/api/v1/tables/state/iot%2Fnobody"))[0] == 404
                status, totals = await read(client, f"/api/v1/tables/totals/iot%2F{store}")
                assert (status, sum(row["value"]["count"] for row in totals["rows"])) == (200, COUNT)

            await check_metrics((one, two))
            browsed = [await browse(client, f"iot/{store}") for client in (one, two)]
            assert sorted(browsed[0] + browsed[1]) == sorted(f"iot/{key}" for key in keys)
            assert all(found == sorted(found) for found in browsed)

            b.kill()
            statuses: Counter[int] = Counter()

            async def taken_over() -> bool:
                answers = await read_all(one, keys)
                for key, (status, answer) in answers.items():
                    statuses[status] += 1
                    assert status in (200, 503), (key, status, answer)
                    if status == 200:
                        assert [row["value"] for row in answer["rows"]] == [first[key][1]["rows"][0]["value"]]
                status, _ = await read(one, "/api/v1/tables/state/iot%2Fnobody")
                assert status in (404, 503)
                return all(status == 200 for status, _ in answers.values())

            await eventually(taken_over, 60)
            assert statuses[503] > 0
            assert {answer["rows"][0]["worker"] for _, answer in (await read_all(one, keys)).values()} == {a.url}
            assert (await read(one, "/api/v1/tables/state/iot%2Fnobody"))[0] == 404
