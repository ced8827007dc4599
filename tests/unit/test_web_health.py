"""Health: what is missing, and nothing more."""

from __future__ import annotations

import asyncio
import time

import pytest

from streams.domain.errors import KafkaAccessError, KafkaUnavailableError, RegistryUnavailableError
from streams.kafka.batching import Phase, Source
from tests.web_gateway import gateway
from web.observe.health import Lasting, Probe

CHECKS = ("startup", "kafka", "registry", "producer", "live", "tables", "agents")


async def test_all_is_well():
    async with gateway() as g:
        for path in ("/health", "/health/ready", "/api/v1/health", "/api/v1/health/ready"):
            response = await g.client.get(path)
            assert response.status == 200
            assert response.headers["Cache-Control"] == "no-store"
            assert await response.json() == {
                "status": "ok",
                "checks": {name: {"ok": True} for name in CHECKS},
            }


@pytest.mark.parametrize(
    ("broken", "check", "detail"),
    [
        (lambda g: setattr(g.admin, "fails", KafkaUnavailableError("10.0.0.7")), "kafka", "kafka_unavailable"),
        (lambda g: setattr(g.admin, "fails", KafkaAccessError("10.0.0.7")), "kafka", "kafka_access"),
        (
            lambda g: setattr(g.registry, "fails", RegistryUnavailableError("10.0.0.7")),
            "registry",
            "registry_unavailable",
        ),
        (lambda g: setattr(g.registry, "fails", ZeroDivisionError("10.0.0.7")), "registry", "internal"),
        (lambda g: setattr(g.state, "tables_waiting", "being restored"), "tables", "being restored"),
        (lambda g: setattr(g.state, "waiting_for", "Kafka"), "startup", "waits for Kafka"),
    ],
)
async def test_what_is_missing_is_named_and_nothing_more(broken, check, detail):
    async with gateway() as g:
        broken(g)
        response = await g.client.get("/health/ready")
        assert response.status == 503
        report = await response.json()
        assert report["status"] == "failing"
        assert report["checks"][check] == {"ok": False, "detail": detail}
        assert "10.0.0.7" not in str(report)
        assert (await g.client.get("/health/live")).status == 200


async def test_a_partition_that_stands_still_is_named_with_how_far_it_is_behind():
    async with gateway(agent_stall_s=60) as g:
        source = Source("events.iot", 1)

        async def ready(**values):
            g.state.tables.assign(source, committed=10, **values)
            return await g.client.get("/health/ready")

        assert (await ready(end=25, still_s=59.0)).status == 200
        response = await ready(end=25, still_s=61.0)
        assert response.status == 503
        assert (await response.json())["checks"]["agents"] == {
            "ok": False,
            "detail": f"{source} stands still for 61 s, 15 offsets behind",
        }
        # What goes on, however far behind, or has nothing to do, is no stall.
        assert (await ready(end=10_000, still_s=1.0)).status == 200
        assert (await ready(end=10, still_s=9_999.0)).status == 200


async def test_an_agent_that_is_held_is_told_at_once_without_its_insides():
    async with gateway() as g:
        source = Source("events.iot", 1)
        g.state.tables.assign(source, Phase.HELD, error="secret of 10.0.0.7")
        report = await (await g.client.get("/health/ready")).json()
        assert report["checks"]["agents"] == {"ok": False, "detail": f"{source} is held"}


@pytest.mark.parametrize("check", ["producer", "live"])
async def test_trouble_of_the_producer_or_of_live_streams_is_told_once_it_lasts(check, monkeypatch):
    monkeypatch.setattr("web.observe.health.PATIENCE_S", 0.0)
    async with gateway() as g:
        assert (await g.client.get("/health/ready")).status == 200
        if check == "producer":
            # As after a batch that failed for good, until there is a new session.
            g.producer._session._connected.clear()
            detail = "it has no connection"
        else:
            g.hub.trouble = detail = "kafka_unavailable"
        response = await g.client.get("/health/ready")
        assert response.status == 503
        assert (await response.json())["checks"][check] == {"ok": False, "detail": detail}


def test_trouble_that_passes_is_never_told():
    clock = {"now": 0.0}
    lasting = Lasting(5.0, clock=lambda: clock["now"])

    def told(now, trouble):
        clock["now"] = now
        return lasting.failure(trouble)

    looks = ((0, "x"), (4, "x"), (5, None), (6, "x"), (10, "x"), (11, "y"), (12, None))
    assert [told(*look) for look in looks] == [None, None, None, None, None, "y", None]


async def test_kafka_that_hangs_makes_it_not_ready_soon():
    async with gateway() as g:
        g.admin.hangs = True
        began = time.monotonic()
        responses = await asyncio.gather(*[g.client.get("/health/ready") for _ in range(5)])
        assert time.monotonic() - began < 2.5
        assert {response.status for response in responses} == {503}
        assert g.admin.pings == 1


async def test_readiness_is_logged_when_it_changes_and_only_then(caplog):
    caplog.set_level("INFO", "web.observe.health")
    async with gateway() as g:
        for waiting in (None, None, "Kafka", "Kafka", None):
            g.state.waiting_for = waiting
            await g.client.get("/health/ready")
    assert [record.levelname for record in caplog.records if record.name == "web.observe.health"] == [
        "INFO",
        "WARNING",
        "INFO",
    ]


class TestProbe:
    async def test_it_asks_once_in_its_time_to_live(self):
        now, asked = 0.0, 0

        async def ask():
            nonlocal asked
            asked += 1

        probe = Probe("x", ask, ttl_s=2.0, clock=lambda: now)
        assert [await probe.failure() for _ in range(3)] == [None] * 3
        assert asked == 1
        now = 2.0
        await probe.failure()
        assert asked == 2

    async def test_an_answer_that_came_late_counts_for_the_next_question(self):
        release = asyncio.Event()
        probe = Probe("x", release.wait, ttl_s=2.0, timeout_s=0.01)  # type: ignore[arg-type]
        assert await probe.failure() == "no answer within 0.01 s"
        release.set()
        assert await probe.failure() is None
