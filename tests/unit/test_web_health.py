"""Health, and what Prometheus is told."""

from __future__ import annotations

import asyncio
import time

import pytest

from streams.domain.errors import KafkaAccessError, KafkaUnavailableError, RegistryUnavailableError
from tests.web_gateway import EVENT, gateway
from web.health import Probe
from web.metrics import DURATION_BOUNDS_S, Metrics


async def test_all_is_well():
    async with gateway() as g:
        for path in ("/health", "/health/ready", "/api/v1/health", "/api/v1/health/ready"):
            response = await g.client.get(path)
            assert response.status == 200
            assert await response.json() == {
                "status": "ok",
                "checks": {name: {"ok": True} for name in ("startup", "kafka", "registry", "tables", "agents")},
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


async def test_kafka_that_hangs_makes_it_not_ready_soon():
    async with gateway() as g:
        g.admin.hangs = True
        began = time.monotonic()
        responses = await asyncio.gather(*[g.client.get("/health/ready") for _ in range(5)])
        assert time.monotonic() - began < 2.5
        assert {response.status for response in responses} == {503}
        assert g.admin.pings == 1


async def test_readiness_is_logged_when_it_changes_and_only_then(caplog):
    caplog.set_level("INFO", "web.health")
    async with gateway() as g:
        for waiting in (None, None, "Kafka", "Kafka", None):
            g.state.waiting_for = waiting
            await g.client.get("/health/ready")
    assert [record.levelname for record in caplog.records if record.name == "web.health"] == ["INFO", "WARNING", "INFO"]


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


class TestMetrics:
    async def test_requests_are_counted_by_template_method_and_status(self):
        async with gateway() as g:
            await g.post(str(EVENT))
            await g.client.get("/api/v1/events/iot/latest", headers=g.headers())
            await g.client.request("PROPFIND", "/pot", headers=g.headers())
            response = await g.client.get("/metrics")
            assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            page = await response.text()
        assert 'streams_http_requests_total{method="POST",route="/api/v1/events/{topic}",status="400"} 1' in page
        assert 'streams_http_requests_total{method="GET",route="/api/v1/events/{topic}/latest",status="200"} 1' in page
        assert 'streams_http_requests_total{method="other",route="unmatched",status="404"} 1' in page
        assert 'streams_http_request_duration_seconds_count{method="POST",route="/api/v1/events/{topic}"} 1' in page
        assert "streams_http_requests_in_flight 1" in page
        assert "streams_events_in_flight 0" in page
        assert "/pot" not in page

    def test_buckets_hold_what_is_less_or_equal(self):
        metrics = Metrics()
        for seconds in (0.0, 0.001, 0.0011, 9.9, 100.0):
            metrics.request("GET", "/x", 200, seconds)
        page = metrics.render(3).decode()
        name = "streams_http_request_duration_seconds"
        for bound, count in ((0.001, 2), (0.0025, 3), (5.0, 3), (10.0, 4), ("+Inf", 5)):
            assert f'{name}_bucket{{le="{bound}",method="GET",route="/x"}} {count}.0' in page
        assert page.count(f"{name}_bucket") == len(DURATION_BOUNDS_S) + 1
        assert "streams_events_in_flight 3" in page

    def test_every_metric_has_help_and_type(self):
        page = Metrics().render(0).decode()
        assert page.count("# HELP streams_") == page.count("# TYPE streams_") == 9
