"""Property 11: every answer of every route, good or bad, has a status, a media type and a form that are documented."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.domain.errors import KafkaAccessError, KafkaUnavailableError, RegistryUnavailableError
from tests.api_requests import Operation, assert_documented, operations, send
from tests.served_gateway import served_gateway
from tests.strategies import json_values

ACCEPTS = (
    None, "*/*", "application/json", "text/html", "text/html;q=0.9, application/json;q=0.8", "application/avro",
    "application/x-protobuf", "application/x-ndjson", "image/png", "application/*;q=0", "nonsense",
)  # fmt: skip

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=12).filter(
    # Dots alone are a way up in a path, by every client.
    lambda word: word.strip(".")
)


@pytest.fixture(scope="module")
def served():
    with served_gateway() as it:
        yield it


@contextmanager
def weather(served, kind):
    """What a platform may be like while it is asked."""
    gateway, state = served.gateway, served.gateway.state
    match kind:
        case "starting":
            state.waiting_for = "Kafka"
        case "tables not ready":
            state.tables.waiting = "partitions are being reassigned"
        case "Kafka away":
            gateway.admin.fails = gateway.producer.fails = served.log.fails = state.tables.fails = (
                KafkaUnavailableError("10.0.0.7")
            )
        case "Kafka refuses":
            gateway.admin.fails = gateway.producer.fails = served.log.fails = KafkaAccessError("no ACL")
        case "registry away":
            gateway.registry.fails = RegistryUnavailableError("10.0.0.8")
    try:
        yield
    finally:
        state.waiting_for = state.tables.waiting = state.tables.fails = None
        gateway.admin.fails = gateway.producer.fails = served.log.fails = gateway.registry.fails = None


WEATHERS = ("fair", "fair", "starting", "tables not ready", "Kafka away", "Kafka refuses", "registry away")


@st.composite
def requests(draw: st.DrawFn) -> tuple[Operation, str, dict[str, Any]]:
    """An operation, a path of it, and a request that may be good or bad in any of its parts."""
    operation = draw(operations)
    path = operation.url(
        **draw(
            st.dictionaries(st.sampled_from(["topic", "table", "key", "id", "partition", "offset"]), words, max_size=2)
        )
    )
    names = st.sampled_from([*operation.query, "unknown"])
    values = words | st.sampled_from(["1", "0", "-1", "1000", "2026-01-01T00:00:00Z", "tumbling-1m", "true", ""])
    request: dict[str, Any] = {
        "params": draw(st.dictionaries(names, values, max_size=3)),
        "scopes": draw(st.sampled_from(["*", "*", "*", "events:*", "nothing", None])),
    }  # fmt: skip
    headers = {}
    if (accept := draw(st.sampled_from(ACCEPTS))) is not None:
        headers["Accept"] = accept
    if operation.body and draw(st.sampled_from([True, False])):
        headers["Content-Type"] = draw(st.sampled_from([*operation.body, "text/plain", ""]))
        documents = json_values.map(lambda value: json.dumps(value).encode())
        request["content"] = draw(st.binary(max_size=40) | documents | st.just(operation.example[1]))
    return operation, path, request | {"headers": headers}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(asked=requests(), kind=st.sampled_from(WEATHERS))
def test_every_answer_has_a_documented_form(served, asked, kind):
    operation, path, request = asked
    with weather(served, kind):
        response = send(served, operation, path, **request)
    assert_documented(operation, response)


@settings(max_examples=60, deadline=None)
@given(asked=requests().filter(lambda asked: asked[0].method == "GET"))
def test_head_is_answered_as_get_without_the_body(served, asked):
    operation, path, request = asked
    got = send(served, operation, path, **request)
    head = send(served, operation, path, method="HEAD", **request)
    assert (head.status_code, head.headers.get("content-type")) == (got.status_code, got.headers.get("content-type"))
    assert head.content == b""


def test_the_same_question_has_the_same_form_wherever_it_is_asked(served):
    """What is open is found with and without the prefix."""
    for path in ("/health", "/health/ready", "/health/live", "/metrics", "/openapi.json", "/asyncapi.json", "/docs"):
        bare, prefixed = served.client.get(path), served.client.get(f"/api/v1{path}")
        assert (bare.status_code, bare.headers["content-type"]) == (
            prefixed.status_code,
            prefixed.headers["content-type"],
        )
