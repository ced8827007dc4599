"""A real worker answers as its OpenAPI document says; fewer requests than those of the property, on the real Kafka and registry."""

from __future__ import annotations

import time

import httpx
import pytest
from hypothesis import HealthCheck, settings

from tests.conformance import EXISTING, api, check, schema_ids
from tests.platform import running_worker
from tests.served_gateway import FAR_FUTURE_S

# They change what other tests share: topics, their schemas, and what is redriven. Tests of their own are about them.
unchanging = api.exclude(operation_id=["createTopic", "evolveTopicSchema", "redrive"])


@pytest.fixture(scope="module")
def worker(kafka_broker, schema_registry):
    values = {"kafka_bootstrap_servers": kafka_broker.bootstrap_servers, "registry_url": schema_registry.url}
    with running_worker(**values, event_max_future_s=FAR_FUTURE_S) as it:
        event = {"event_type": "test.event", "timestamp": time.time_ns() // 1_000_000, "device_id": "d1"}
        headers = {"Authorization": f"Bearer {it.token()}"}
        receipt = httpx.post(f"{it.url}/api/v1/events/{EXISTING['topic']}", json=event, headers=headers).json()
        before = dict(schema_ids)
        schema_ids["event"] = receipt["schema_id"]
        yield it
        schema_ids.update(before)


def test_the_document_is_that_of_the_worker(worker):
    assert httpx.get(f"{worker.url}/openapi.json").json() == api.raw_schema


@unchanging.parametrize()
@settings(max_examples=5, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_documented(case, worker):
    check(case, worker.url, {"Authorization": f"Bearer {worker.token()}"})
