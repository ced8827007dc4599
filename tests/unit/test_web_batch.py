"""Batches, dry runs and repetitions over HTTP, on a platform of memory."""

from __future__ import annotations

import asyncio
import gzip
import json
import uuid
from functools import partial

import pytest

from streams.codecs import events_to_avro_container
from streams.domain.errors import KafkaUnavailableError, OverloadedError, RecordRejectedError
from streams.domain.headers import CONTENT_TYPE, EVENT_ID, TRACEPARENT, header
from streams.domain.validation import EventRules, event_from_fields
from streams.kafka.producer import EventProducer
from tests.strategies import NOW_MS
from tests.web_gateway import EVENT, SCHEMA_ID, STORED_AT, gateway, problem_of
from web.publish import turns

NDJSON = "application/x-ndjson"
PATH = "/api/v1/events/iot/batch"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(number=None, **fields):
    named = {} if number is None else {"event_id": str(uuid.UUID(int=number))}
    return EVENT | named | fields


def lines(*events):
    return b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in events)


async def send(g, body, content_type=NDJSON, path=PATH, **headers):
    response = await g.client.post(path, data=body, headers=g.headers(**{"Content-Type": content_type}) | headers)
    return response.status, await response.json(), response.headers


async def test_a_batch_is_stored_and_each_place_told_in_order():
    async with gateway() as g:
        status, answer, _ = await send(g, lines(event(1), event(2), event(3)))
        assert status == 200
        assert answer == {
            "topic": "iot",
            "schema_id": SCHEMA_ID,
            "stored": 3,
            "failed": 0,
            "results": [
                {
                    "ok": True,
                    "event_id": str(uuid.UUID(int=number)),
                    "partition": 1,
                    "offset": number - 1,
                    "stored_at": STORED_AT,
                }
                for number in (1, 2, 3)
            ],
        }
        assert [header(r.headers, EVENT_ID) for r in g.producer.sent] == [str(uuid.UUID(int=n)) for n in (1, 2, 3)]


async def test_a_bad_record_never_spoils_its_neighbours():
    async with gateway() as g:
        status, answer, _ = await send(g, lines(event(1), b"{oops", event(2, value="x"), event(3)))
        assert (status, answer["stored"], answer["failed"]) == (207, 2, 2)
        good, malformed, invalid, last = answer["results"]
        assert good["ok"]
        assert last["ok"]
        assert (malformed["status"], malformed["code"], malformed["retriable"]) == (400, "malformed_event", False)
        assert (invalid["status"], invalid["code"]) == (422, "invalid_event")
        assert [error["path"] for error in invalid["errors"]] == ["/value"]
        assert len(g.producer.sent) == 2


@pytest.mark.parametrize(
    ("content_type", "body", "received"),
    [
        ("application/json", json.dumps([event(1), event(2)]).encode(), "application/json"),
        ("application/ndjson", lines(event(1), event(2)) + b"\n", "application/json"),
        (
            "application/cloudevents-batch+json",
            json.dumps(
                [
                    {"specversion": "1.0", "id": str(uuid.UUID(int=n)), "source": "s", "type": "a", "deviceid": "d"}
                    for n in (1, 2)
                ]
            ).encode(),
            "application/cloudevents+json",
        ),
    ],
)
async def test_every_format_of_a_batch(content_type, body, received):
    async with gateway() as g:
        status, answer, _ = await send(g, body, content_type)
        assert (status, answer["stored"]) == (200, 2), answer
        assert [header(r.headers, CONTENT_TYPE) for r in g.producer.sent] == [received] * 2


async def test_an_avro_container_is_a_batch():
    rules = EventRules()
    events = [event_from_fields(event(n) | {"payload": "{}"}, rules, NOW_MS, lambda: "") for n in (1, 2)]
    async with gateway() as g:
        status, answer, _ = await send(g, events_to_avro_container(events), "application/avro")
        assert (status, answer["stored"]) == (200, 2)


async def test_a_compressed_batch():
    async with gateway() as g:
        body = gzip.compress(lines(*[event(n) for n in range(50)]))
        status, answer, _ = await send(g, body, **{"Content-Encoding": "gzip"})
        assert (status, answer["stored"]) == (200, 50)


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        (NDJSON, b"", 400, "malformed_event"),
        (NDJSON, b"\n \n", 400, "malformed_event"),
        ("application/json", b"{}", 400, "malformed_event"),
        ("text/csv", b"a,b", 415, "unsupported_format"),
        (NDJSON, lines(*[event(n) for n in range(4)]), 413, "too_many_records"),
        (NDJSON, b"x" * 2_000, 413, "body_too_large"),
    ],
)
async def test_a_body_that_is_no_batch_is_refused_as_a_whole(content_type, body, status, code):
    async with gateway(max_batch_events=3, max_batch_bytes=1_024) as g:
        found, document, _ = await send(g, body, content_type)
        assert (found, document["code"]) == (status, code)
        assert not g.producer.sent


async def test_kafka_away_is_503_with_what_became_of_each():
    async with gateway() as g:
        g.producer.fails = KafkaUnavailableError("10.0.0.7 is away")
        status, document, headers = await send(g, lines(event(1), event(2)))
        assert (status, document["code"], headers["Retry-After"]) == (503, "kafka_unavailable", "1")


async def test_no_acknowledgement_in_time_is_503_and_says_so_of_each():
    async with gateway(request_deadline_s=0.3) as g:
        g.producer.hangs = True
        status, document, headers = await send(g, lines(event(1), event(2)))
        assert (status, headers["Retry-After"]) == (503, "1")
        assert [result["retriable"] for result in document["results"]] == [True, True]
        assert "10.0.0" not in json.dumps(document)


async def test_one_that_kafka_never_takes_is_kept_and_its_neighbours_are_stored():
    async with gateway() as g:
        g.producer.refuses = lambda r: (
            RecordRejectedError("large") if b"large" in (r.value or b"")[:400] and r.topic == "events.iot" else None
        )
        status, answer, _ = await send(g, lines(event(1), event(2, source="large"), event(3)))
        assert (status, answer["stored"], answer["failed"]) == (207, 2, 1)
        refused = answer["results"][1]
        assert (refused["status"], refused["code"], refused["retriable"]) == (422, "record_rejected", False)
        letter = g.producer.sent[-1]
        assert letter.topic == "platform.dlq"
        assert refused["dead_letter"] == {"partition": 1, "offset": 2}


async def test_one_that_can_be_kept_nowhere_is_to_be_sent_again():
    async with gateway() as g:
        g.producer.refuses = lambda r: (
            RecordRejectedError("large") if r.topic == "events.iot" else OverloadedError("full")
        )
        status, document, _ = await send(g, lines(event(1)))
        assert (status, document["code"]) == (503, "kafka_unavailable")
        assert document["results"][0]["retriable"]


async def test_events_are_charged_to_the_subject():
    async with gateway(subject_events_per_s=1, subject_burst_events=2) as g:
        assert (await send(g, lines(event(1), event(2))))[0] == 200
        status, document, headers = await send(g, lines(event(3)))
        assert (status, document["code"]) == (429, "rate_limited")
        assert int(headers["Retry-After"]) >= 1


@pytest.mark.parametrize("record", [EVENT, EVENT | {"value": "x"}], ids=["good", "bad"])
@pytest.mark.parametrize(("path", "loops"), [(PATH, 3), (PATH.replace("batch", "validate"), 2)])
async def test_a_batch_lets_others_have_their_turns(monkeypatch, path, loops, record):
    monkeypatch.setattr(turns, "TURN_S", 0)
    number = 200
    passed = 0

    async def others():
        nonlocal passed
        while True:
            await asyncio.sleep(0)
            passed += 1

    async with gateway() as g:
        await g.post(json.dumps(EVENT))
        running = asyncio.create_task(others())
        assert (await send(g, lines(*[record] * number), path=path))[0] in {200, 207}
        running.cancel()
        # It is read, stored and answered, or read and told, record by record.
        assert passed >= loops * number


async def test_a_batch_that_is_refused_counts_in_the_metrics():
    async with gateway() as g:
        await send(g, lines(event(1), b"{oops"))
        page = await (await g.client.get("/metrics")).text()
        assert 'streams_events_total{outcome="accepted",topic="iot"} 1' in page
        assert 'streams_events_total{outcome="malformed_event",topic="iot"} 1' in page


async def test_the_trace_goes_on_with_every_record():
    async with gateway() as g:
        await send(g, lines(event(1), event(2)), traceparent=TRACE)
        assert [header(r.headers, TRACEPARENT) for r in g.producer.sent] == [TRACE, TRACE]


class TestRepetitions:
    async def test_a_repeated_event_gets_the_first_receipt(self):
        async with gateway() as g:
            first = await (await g.post(json.dumps(event(1)))).json()
            again = await g.post(json.dumps(event(1)))
            assert again.status == 201
            assert await again.json() == first | {"duplicate": True}
            assert len(g.producer.sent) == 1

    async def test_the_same_event_written_otherwise_is_the_same(self):
        async with gateway() as g:
            await g.post(json.dumps(event(1)))
            again = await g.post(
                json.dumps(dict(reversed(event(1).items())), indent=2).replace("[\n      1\n    ]", "[1]")
            )
            # A payload is kept as it was sent: written otherwise, it is another one.
            assert again.status == 409
            without = event(2, payload={})
            await g.post(json.dumps(without))
            again = await g.post(json.dumps(dict(reversed(without.items())), indent=2))
            assert (again.status, (await again.json())["duplicate"]) == (201, True)

    async def test_another_event_under_the_same_id_is_refused(self):
        async with gateway() as g:
            await g.post(json.dumps(event(1)))
            response = await g.post(json.dumps(event(1, value=2)))
            problem = await problem_of(response)
            assert (response.status, problem["code"], problem["retriable"]) == (409, "idempotency_conflict", False)

    async def test_topics_do_not_share_ids(self):
        async with gateway() as g:
            await g.post(json.dumps(event(1)))
            assert (await g.post(json.dumps(event(1, value=2)), topic="none")).status == 404

    async def test_one_in_flight_is_waited_for(self):
        async with gateway() as g:
            body = json.dumps(event(1))
            answers = await asyncio.gather(*(g.post(body) for _ in range(5)))
            documents = [await response.json() for response in answers]
            assert sorted(document["duplicate"] for document in documents) == [False, True, True, True, True]
            assert len({document["offset"] for document in documents}) == 1
            assert len(g.producer.sent) == 1

    async def test_repetitions_within_a_batch_and_across_batches(self):
        async with gateway() as g:
            status, answer, _ = await send(g, lines(event(1), event(1), event(1, value=9), event(2)))
            first, second, other, third = answer["results"]
            assert status == 207
            assert "duplicate" not in first
            assert second == first | {"duplicate": True}
            assert (other["status"], other["code"]) == (409, "idempotency_conflict")
            assert third["ok"]
            _, answer, _ = await send(g, lines(event(2), event(3)))
            assert [result.get("duplicate", False) for result in answer["results"]] == [True, False]

    async def test_an_idempotency_key_makes_the_id(self):
        async with gateway() as g:
            key = {"Idempotency-Key": "order 17"}
            path = "/api/v1/events/iot"
            first = await send(g, json.dumps(EVENT), "application/json", path, **key)
            again = await send(g, json.dumps(EVENT), "application/json", path, **key)
            assert (first[0], again[0]) == (201, 201)
            assert again[1] == first[1] | {"duplicate": True}
            other = await send(g, json.dumps(EVENT | {"value": 3}), "application/json", path, **key)
            assert (other[0], other[1]["code"]) == (409, "idempotency_conflict")
            # Another worker, that knows nothing of it, makes the same id.
            async with gateway() as elsewhere:
                status, answer, _ = await send(elsewhere, json.dumps(EVENT), "application/json", path, **key)
                assert (status, answer["event_id"]) == (201, first[1]["event_id"])

    async def test_a_key_that_comes_with_another_id_is_refused(self):
        async with gateway() as g:
            key = {"Idempotency-Key": "k"}
            path = "/api/v1/events/iot"
            assert (await send(g, json.dumps(event(1)), "application/json", path, **key))[0] == 201
            assert (await send(g, json.dumps(event(2)), "application/json", path, **key))[0] == 409

    async def test_a_key_that_comes_with_a_repetition_is_bound_by_it(self):
        async with gateway() as g:
            key = {"Idempotency-Key": "k"}
            path = "/api/v1/events/iot"
            assert (await g.post(json.dumps(event(1)))).status == 201
            again = await send(g, json.dumps(event(1)), "application/json", path, **key)
            assert (again[0], again[1]["duplicate"]) == (201, True)
            assert (await send(g, json.dumps(event(2)), "application/json", path, **key))[0] == 409

    async def test_a_key_names_each_event_of_a_batch(self):
        async with gateway() as g:
            key = {"Idempotency-Key": "k"}
            _, first, _ = await send(g, lines(EVENT, EVENT | {"value": 1}), **key)
            _, again, _ = await send(g, lines(EVENT, EVENT | {"value": 1}), **key)
            assert len({result["event_id"] for result in first["results"]}) == 2
            assert again["results"] == [result | {"duplicate": True} for result in first["results"]]

    async def test_a_record_that_is_put_right_gives_its_neighbours_no_other_ids(self):
        async with gateway() as g:
            key = {"Idempotency-Key": "k"}
            status, first, _ = await send(g, lines(b"{oops", EVENT), **key)
            assert (status, first["stored"]) == (207, 1)
            status, again, _ = await send(g, lines(EVENT | {"value": 1}, EVENT), **key)
            assert (status, again["stored"]) == (200, 2)
            assert again["results"][1] == first["results"][1] | {"duplicate": True}
            assert len(g.producer.sent) == 2

    @pytest.mark.parametrize("key", ["", "x" * 256, "ü"])
    async def test_a_key_that_cannot_be_one(self, key):
        async with gateway() as g:
            status, document, _ = await send(g, lines(EVENT), **{"Idempotency-Key": key})
            assert (status, document["code"]) == (400, "invalid_request")

    async def test_a_cloudevent_without_a_time_may_come_again(self):
        async with gateway() as g:
            document = {"specversion": "1.0", "id": "a", "source": "/s", "type": "t", "deviceid": "d", "data": {"a": 1}}
            found = []
            for data in ({"a": 1}, {"a": 1}, {"a": 2}):
                response = await g.post(
                    json.dumps(document | {"data": data}), content_type="application/cloudevents+json"
                )
                found.append((response.status, (await response.json()).get("duplicate")))
            assert found == [(201, False), (201, True), (409, None)]

    async def test_what_kafka_did_not_take_may_be_sent_again(self):
        async with gateway() as g:
            g.producer.refuses = lambda r: KafkaUnavailableError("away")
            assert (await g.post(json.dumps(event(1)))).status == 503
            g.producer.refuses = lambda r: None
            again = await g.post(json.dumps(event(1)))
            assert (again.status, (await again.json())["duplicate"]) == (201, False)


class TestValidation:
    PATH = "/api/v1/events/iot/validate"

    async def test_a_dry_run_says_what_would_happen_and_writes_nothing(self):
        async with gateway() as g:
            status, answer, _ = await send(g, json.dumps(event(1, user_id="u")), "application/json", self.PATH)
            assert status == 200
            [verdict] = answer.pop("results")
            assert answer == {"topic": "iot", "exists": True, "valid": 1, "invalid": 0, "schema_id": SCHEMA_ID}
            assert verdict.pop("bytes") > 20
            assert verdict.pop("partition") in {0, 1}
            assert verdict == {
                "valid": True,
                "event_id": str(uuid.UUID(int=1)),
                "event_type": "sensor.reading",
                "timestamp": NOW_MS,
                "key": "u",
            }
            assert not g.producer.sent
            # Nor does it take the id.
            response = await g.post(json.dumps(event(1, value=2)))
            assert (await response.json())["duplicate"] is False

    async def test_what_is_wrong_is_told_with_its_path(self):
        async with gateway() as g:
            status, answer, _ = await send(g, json.dumps(event(value="x")), "application/json", self.PATH)
            assert (status, answer["valid"], answer["invalid"]) == (200, 0, 1)
            assert answer["results"][0]["code"] == "invalid_event"
            assert [error["path"] for error in answer["results"][0]["errors"]] == ["/value"]

    async def test_a_batch_is_looked_at_one_by_one(self):
        async with gateway() as g:
            _, answer, _ = await send(g, lines(EVENT, b"{", event(2)), NDJSON, self.PATH)
            assert [verdict["valid"] for verdict in answer["results"]] == [True, False, True]
            assert "event_id" not in answer["results"][0]
            _, answer, _ = await send(g, json.dumps([EVENT, EVENT]), "application/json", self.PATH)
            assert answer["valid"] == 2

    async def test_an_unknown_topic_would_be_created_where_that_is_allowed(self):
        path = self.PATH.replace("iot", "new")
        async with gateway() as g:
            status, document, _ = await send(g, json.dumps(EVENT), "application/json", path)
            assert (status, document["code"]) == (404, "unknown_topic")
        async with gateway(topic_creation="auto") as g:
            status, answer, _ = await send(g, json.dumps(EVENT), "application/json", path)
            assert (status, answer["exists"], answer["valid"]) == (200, False, 1)
            assert "schema_id" not in answer
            assert "partition" not in answer["results"][0]

    async def test_a_topic_that_is_deleted_meanwhile_has_no_partition(self, monkeypatch):
        async with gateway() as g:

            async def prepare(topics, deadline):
                for topic in topics:
                    g.producer._partitions[topic] = (0, deadline)

            monkeypatch.setattr(g.producer, "prepare", prepare)
            monkeypatch.setattr(g.producer, "partition_of", partial(EventProducer.partition_of, g.producer))
            status, answer, _ = await send(g, json.dumps(EVENT), "application/json", self.PATH)
            assert (status, answer["valid"]) == (200, 1)
            assert "partition" not in answer["results"][0]

    async def test_an_unsupported_format_is_told_as_ever(self):
        async with gateway() as g:
            assert (await send(g, b"a", "text/plain", self.PATH))[0] == 415


@pytest.mark.parametrize("path", [PATH, "/api/v1/events/iot/validate"])
async def test_a_small_batch_gets_no_huge_answer(path):
    """Each record has a hundred errors that are told, of 150 bytes: 8 MiB of them would be answered with 150 MiB."""
    wrong = b"{%b}" % b",".join(b'"%d":1' % number for number in range(200))
    async with gateway() as g:
        _, answer, _ = await send(g, lines(*[wrong] * 500, event(1)), path=path)
        told = [len(result["errors"]) for result in answer["results"][:-1]]
        assert told == [100] * 10 + [1] * 490
        assert {result["code"] for result in answer["results"][:-1]} == {"invalid_event"}
        assert "errors" not in answer["results"][-1]
