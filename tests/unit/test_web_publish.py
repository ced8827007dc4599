"""POST /events/{topic}."""

from __future__ import annotations

import asyncio
import gzip
import json
import time

import pytest

from streams.codecs import Format, write_event
from streams.domain.errors import (
    KafkaAccessError,
    KafkaUnavailableError,
    OverloadedError,
    RecordRejectedError,
    RegistryUnavailableError,
)
from streams.domain.validation import EventRules, event_from_json
from tests.strategies import NOW_MS
from tests.web_gateway import EVENT, SCHEMA_ID, STORED_AT, gateway, problem_of

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BODY = json.dumps(EVENT).encode()


async def test_an_event_is_stored_and_its_place_is_told():
    async with gateway() as g:
        response = await g.post(BODY)
        assert response.status == 201
        assert response.content_type == "application/json"
        answer = await response.json()
        [record] = g.producer.sent
        stored = g.codec.decode_event(record.value or b"")
        assert answer == {
            "event_id": stored.event_id,
            "topic": "iot",
            "partition": 1,
            "offset": 0,
            "timestamp": NOW_MS,
            "stored_at": STORED_AT,
            "schema_id": SCHEMA_ID,
            "duplicate": False,
        }
        assert (record.topic, record.key) == ("events.iot", b"d1")
        assert json.loads(stored.payload) == EVENT["payload"]


async def test_the_client_s_own_id_is_kept():
    event_id = "6b0e5a52-1111-4d7c-9d4e-0d1a5b1f8c11"
    async with gateway() as g:
        answer = await (await g.post(json.dumps(EVENT | {"event_id": event_id}))).json()
        assert answer["event_id"] == event_id


async def test_traceparent_goes_on_into_kafka():
    async with gateway() as g:
        headers = g.headers(traceparent=TRACEPARENT, **{"Content-Type": "application/json"})
        await g.client.post("/api/v1/events/iot", data=BODY, headers=headers)
        assert ("traceparent", TRACEPARENT.encode()) in g.producer.sent[0].headers


@pytest.mark.parametrize("format_", list(Format))
async def test_every_format_is_taken(format_):
    async with gateway() as g:
        event = event_from_json(BODY, EventRules(), NOW_MS, lambda: "6b0e5a52-1111-4d7c-9d4e-0d1a5b1f8c11")
        response = await g.post(write_event(event, format_, g.codec, SCHEMA_ID), content_type=format_.value)
        assert response.status == 201
        assert g.codec.decode_event(g.producer.sent[0].value or b"") == event
        assert ("content-type", format_.value.encode()) in g.producer.sent[0].headers


async def test_an_invalid_event_is_refused_with_every_path_and_nothing_is_produced():
    async with gateway() as g:
        response = await g.post(json.dumps({"timestamp": "yesterday", "value": "1", "user_id": "u", "colour": "blue"}))
        problem = await problem_of(response)
        assert (response.status, problem["code"], problem["retriable"]) == (422, "invalid_event", False)
        assert {e["path"] for e in problem["errors"]} == {"/event_type", "/timestamp", "/value", "/colour"}
        assert all(e["message"] and e["code"] for e in problem["errors"])
        assert problem["instance"] == "/api/v1/events/iot"
        assert g.producer.sent == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a":1}x', BODY[:-3] + b'"\xff"]}}'])
async def test_what_is_no_json_is_malformed(body):
    async with gateway() as g:
        response = await g.post(body)
        problem = await problem_of(response)
        assert (response.status, problem["code"]) == (400, "malformed_event")
        assert [e["path"] for e in problem["errors"]] == [""]
        assert g.producer.sent == []


@pytest.mark.parametrize(
    "topic", ["nowhere", "platform.dlq", "UPPER", "a%2Fb", "..%2Fdlq", "%F0%9F%92%A9", "dlq%0d%0aX:1"]
)
async def test_an_unknown_topic_is_not_found(topic):
    async with gateway() as g:
        response = await g.post(BODY, topic=topic)
        assert response.status == 404
        assert (await problem_of(response))["code"] in ("unknown_topic", "not_found")
        assert g.producer.sent == []


async def test_platform_topics_are_out_of_reach():
    async with gateway() as g:
        problem = await problem_of(await g.post(BODY, topic="platform.dlq"))
        assert problem["code"] == "unknown_topic"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "\xff"]
)
async def test_another_content_type_is_refused_and_told_what_is_taken(content_type):
    async with gateway() as g:
        response = await g.post(BODY, content_type=content_type)
        assert response.status == 415
        assert (
            response.headers["Accept"]
            == "application/json, application/avro, application/x-protobuf, application/cloudevents+json"
        )
        assert (await problem_of(response))["code"] == "unsupported_format"


async def test_content_type_is_read_without_its_parameters_and_case():
    async with gateway() as g:
        assert (await g.post(BODY, content_type="Application/JSON; charset=utf-8")).status == 201


class TestSize:
    async def test_content_length_over_the_limit(self):
        async with gateway(max_body_bytes=1024) as g:
            response = await g.post(b" " * 1025)
            assert response.status == 413
            assert (await problem_of(response))["code"] == "body_too_large"

    async def test_chunked_over_the_limit_is_not_read_to_its_end(self):
        read = 0

        async def endless():
            nonlocal read
            while True:
                read += 1024
                yield b" " * 1024
                await asyncio.sleep(0)

        async with gateway(max_body_bytes=4096) as g:
            response = await g.post(endless())
            assert response.status == 413
            assert response.headers["Connection"] == "close"
            assert (await problem_of(response))["code"] == "body_too_large"
            assert g.producer.sent == []
        assert read < 10_000_000

    async def test_a_body_of_exactly_the_limit_is_taken(self):
        async with gateway(max_body_bytes=1024) as g:
            assert (await g.post(BODY + b" " * (1024 - len(BODY)))).status == 201

    async def test_a_gzip_bomb_is_measured_as_it_unfolds(self):
        async with gateway(max_body_bytes=4096) as g:
            headers = g.headers(**{"Content-Type": "application/json", "Content-Encoding": "gzip"})
            bomb = gzip.compress(b" " * 3_000_000)
            response = await g.client.post("/api/v1/events/iot", data=bomb, headers=headers)
            assert response.status == 413

    async def test_gzip_is_taken(self):
        async with gateway() as g:
            headers = g.headers(**{"Content-Type": "application/json", "Content-Encoding": "gzip"})
            response = await g.client.post("/api/v1/events/iot", data=gzip.compress(BODY), headers=headers)
            assert response.status == 201

    async def test_broken_gzip_is_the_client_s_fault(self):
        async with gateway() as g:
            headers = g.headers(**{"Content-Type": "application/json", "Content-Encoding": "gzip"})
            response = await g.client.post("/api/v1/events/iot", data=b"\x1f\x8bnonsense", headers=headers)
            assert response.status == 400

    async def test_another_encoding_is_refused(self):
        async with gateway() as g:
            headers = g.headers(**{"Content-Type": "application/json", "Content-Encoding": "lzma"})
            response = await g.client.post("/api/v1/events/iot", data=BODY, headers=headers)
            assert response.status == 415
            assert (await problem_of(response))["code"] == "unsupported_encoding"
            assert "gzip" in response.headers["Accept-Encoding"]


class TestKafkaAway:
    @pytest.mark.parametrize(
        ("error", "status", "code", "retry_after"),
        [
            (KafkaUnavailableError("broker 10.0.0.7 is away"), 503, "kafka_unavailable", "1"),
            (RegistryUnavailableError("http://10.0.0.7 is away", retry_after_s=2.1), 503, "registry_unavailable", "3"),
            (OverloadedError("10000 events are waiting for Kafka", retry_after_s=0.01), 429, "overloaded", "1"),
            (RecordRejectedError("10.0.0.7 says no"), 422, "record_rejected", None),
            (KafkaAccessError("10.0.0.7 says no to user x"), 500, "kafka_access", None),
            (ZeroDivisionError("10.0.0.7"), 500, "internal", None),
        ],
    )
    async def test_each_failure_has_its_answer_and_tells_nothing_of_our_insides(self, error, status, code, retry_after):
        async with gateway() as g:
            g.producer.fails = error
            response = await g.post(BODY)
            problem = await problem_of(response)
            assert (response.status, problem["code"]) == (status, code)
            assert response.headers.get("Retry-After") == retry_after
            assert problem["retriable"] is (retry_after is not None)
            assert "10.0.0.7" not in await response.text()

    async def test_kafka_that_never_answers_ends_within_the_deadline(self):
        async with gateway(request_deadline_s=0.2) as g:
            g.producer.hangs = True
            began = time.monotonic()
            response = await g.post(BODY)
            assert time.monotonic() - began < 1.5
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert (await problem_of(response))["code"] == "kafka_unavailable"

    async def test_a_list_of_topics_that_never_comes_ends_within_the_deadline(self):
        async with gateway(request_deadline_s=0.2) as g:
            g.admin.hangs = True
            response = await g.post(BODY)
            assert (response.status, response.headers["Retry-After"]) == (503, "1")

    async def test_a_worker_that_starts_says_what_it_waits_for(self):
        async with gateway() as g:
            g.state.waiting_for = "Kafka"
            response = await g.post(BODY)
            assert (response.status, response.headers["Retry-After"]) == (503, "2")
            assert "Kafka" in (await problem_of(response))["detail"]

    async def test_a_body_that_trickles_ends_within_the_deadline(self):
        async def trickle():
            yield BODY[:5]
            await asyncio.sleep(30)
            yield BODY[5:]

        async with gateway(request_deadline_s=0.2) as g:
            response = await g.post(trickle())
            assert response.status == 408
            assert response.headers["Connection"] == "close"
            assert (await problem_of(response))["code"] == "request_timeout"


async def test_an_unknown_schema_id_is_told():
    async with gateway() as g:
        response = await g.post(b"\x00\x00\x00\x00\x63xx", content_type="application/avro")
        assert response.status == 422
        assert (await problem_of(response))["code"] == "unknown_schema"


async def test_the_registry_away_is_not_the_client_s_fault():
    async with gateway() as g:
        g.registry.fails = RegistryUnavailableError("away")
        response = await g.post(b"\x00\x00\x00\x00\x63xx", content_type="application/avro")
        assert (response.status, response.headers["Retry-After"]) == (503, "1")


async def test_outcomes_are_counted_by_topic_but_never_by_a_name_that_a_client_made_up():
    async with gateway() as g:
        await g.post(BODY)
        await g.post(json.dumps(EVENT | {"value": "1"}))
        await g.post(BODY, topic="made-up")
        page = await (await g.client.get("/metrics")).text()
        assert 'streams_events_total{outcome="accepted",topic="iot"} 1' in page
        assert 'streams_events_total{outcome="invalid_event",topic="iot"} 1' in page
        assert 'streams_events_total{outcome="unknown_topic",topic="unknown"} 1' in page
        assert 'streams_validation_failures_total{code="invalid_type"} 1' in page
        assert "made-up" not in page
