"""GET /events/{topic}/latest, and how the log is read backwards."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import fastavro
import pytest
from yarl import URL

from streams.domain.errors import KafkaUnavailableError
from streams.schemas import event_pb2
from tests.strategies import NOW_MS
from tests.web_gateway import SCHEMA_ID, gateway, make_record, problem_of
from web.read.reading import UNREADABLE

PATH = "/api/v1/events/iot/latest"


def places(answer):
    return [(event["partition"], event["offset"]) for event in answer["events"]]


async def ask(g, query="", status=200, path=PATH, **headers):
    response = await g.client.get(path + query, headers=g.headers("events:read:iot", **headers))
    assert response.status == status, await response.text()
    return response


async def get(g, query="", status=200, path=PATH):
    response = await ask(g, query, status, path)
    return await response.json() if status == 200 else await problem_of(response)


async def test_the_newest_come_first_across_partitions():
    async with gateway() as g:
        g.reader.log = [
            make_record(g.codec, 0, timestamp_ms=NOW_MS, value=1.5, payload='{"n": 12345678901234567890}'),
            make_record(g.codec, 1, timestamp_ms=NOW_MS + 30),
            make_record(g.codec, 5, partition=1, timestamp_ms=NOW_MS + 20),
            make_record(g.codec, 6, partition=1, timestamp_ms=NOW_MS + 30),
        ]
        answer = await get(g)
        assert places(answer) == [(0, 1), (1, 6), (1, 5), (0, 0)]
        assert (answer["topic"], answer["before"], answer["truncated"]) == ("iot", None, False)
        assert answer["events"][3] == {
            "partition": 0,
            "offset": 0,
            "stored_at": NOW_MS,
            "event": {
                "event_id": "00000000-0000-4000-8000-000000000000",
                "event_type": "sensor.reading",
                "timestamp": NOW_MS,
                "user_id": None,
                "device_id": "d1",
                "value": 1.5,
                "source": None,
                "payload": {"n": 12345678901234567890},
            },
        }
        assert places(await get(g, "?limit=2")) == [(0, 1), (1, 6)]


async def test_an_empty_topic_has_nothing():
    async with gateway() as g:
        assert await get(g) == {"topic": "iot", "events": [], "before": None, "truncated": False}


async def test_only_what_is_wanted():
    async with gateway() as g:
        g.reader.log = [
            make_record(g.codec, n, timestamp_ms=NOW_MS + n, device_id=f"d{2 + n % 2}", event_type=f"type.{n % 3}")
            for n in range(12)
        ]
        assert places(await get(g, "?key=d3&limit=2")) == [(0, 11), (0, 9)]
        assert places(await get(g, "?event_type=type.0")) == [(0, 9), (0, 6), (0, 3), (0, 0)]
        assert places(await get(g, "?event_type=type.0&key=d3")) == [(0, 9), (0, 3)]


async def test_few_of_many_are_found_without_reading_all():
    async with gateway() as g:
        record = make_record(g.codec, 0)
        g.reader.log = [replace(record, offset=n, timestamp_ms=NOW_MS + n) for n in range(3_000)]
        assert places(await get(g, "?limit=3")) == [(0, 2999), (0, 2998), (0, 2997)]
        assert g.reader.scanned < 50
        g.reader.scanned = 0
        assert len((await get(g, "?limit=400"))["events"]) == 400
        assert g.reader.scanned == 400


async def test_a_scan_that_gives_up_says_so():
    async with gateway() as g:
        record = make_record(g.codec, 0)
        g.reader.log = [replace(record, offset=n, timestamp_ms=NOW_MS + n) for n in range(20_100)]
        g.reader.log[0] = make_record(g.codec, 0, device_id="d2")
        answer = await get(g, "?key=d2")
        assert (answer["events"], answer["truncated"]) == ([], True)
        assert g.reader.scanned == 20_000
        older = await get(g, f"?key=d2&before={answer['before']}")
        assert (places(older), older["before"]) == ([(0, 0)], None)


async def test_a_scan_that_takes_long_ends_in_time_and_the_next_page_goes_on():
    async with gateway(request_deadline_s=0.4) as g:
        record = make_record(g.codec, 0)
        g.reader.log = [replace(record, offset=n) for n in range(5_000)]
        g.reader.log[0] = make_record(g.codec, 0, device_id="d2")
        g.reader.delay_s = 0.11
        answer = await get(g, "?key=d2")
        assert (answer["events"], answer["truncated"]) == ([], True)
        while answer["before"]:
            answer = await get(g, f"?key=d2&before={answer['before']}")
        assert places(answer) == [(0, 0)]


async def test_a_record_that_nobody_can_read_is_told():
    async with gateway() as g:
        g.reader.log = [replace(make_record(g.codec, 0), value=b"\x00\x00\x00\x00\x07garbage")]
        [event] = (await get(g))["events"]
        assert (event["event"], event["error"]) == (None, "malformed_event")


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        ("?limit=0", {"?limit"}),
        ("?limit=1001", {"?limit"}),
        ("?limit=ten", {"?limit"}),
        ("?limit=%D9%A1", {"?limit"}),
        ("?limit=1&limit=2", {"?limit"}),
        ("?key=", {"?key"}),
        ("?key=" + "k" * 257, {"?key"}),
        ("?size=1&limit=-1", {"?size", "?limit"}),
    ],
)
async def test_wrong_parameters_are_told_by_name(query, paths):
    async with gateway() as g:
        problem = await get(g, query, status=400)
        assert problem["code"] == "invalid_parameter"
        assert {error["path"] for error in problem["errors"]} == paths


async def test_an_unknown_topic_is_not_found():
    async with gateway() as g:
        response = await g.client.get("/api/v1/events/nowhere/latest", headers=g.headers())
        assert response.status == 404


async def test_kafka_away_is_503_and_the_next_question_connects_anew():
    async with gateway() as g:
        g.reader.fails = KafkaUnavailableError("10.0.0.7 is away")
        problem = await get(g, status=503)
        assert problem["code"] == "kafka_unavailable"
        g.reader.fails = None
        g.reader.log = [make_record(g.codec, 0)]
        await get(g)
        g.reader.fails = KafkaUnavailableError("away in the middle")
        await get(g, status=503)
        g.reader.fails = None
        assert places(await get(g)) == [(0, 0)]
        assert g.reader.started == 3


async def test_a_few_readers_serve_all_and_are_closed_at_the_end():
    async with gateway(read_concurrency=2) as g:
        g.reader.log = [make_record(g.codec, 0)]
        for _ in range(3):
            await asyncio.gather(*[get(g) for _ in range(8)])
        assert 1 <= g.reader.started <= 2
        assert g.reader.stopped == 0
        started = g.reader.started
    assert g.reader.stopped == started


async def test_a_question_that_takes_too_long_ends_at_its_deadline():
    async with gateway(request_deadline_s=0.2) as g:
        g.admin.hangs = True
        assert (await get(g, status=503))["code"] == "deadline_exceeded"


class TestPages:
    async def test_they_follow_each_other_in_every_form(self):
        async with gateway() as g:
            g.reader.log = [make_record(g.codec, n, timestamp_ms=NOW_MS + n) for n in range(5)]
            response = await ask(g, "?limit=2&event_type=sensor.reading")
            first = await response.json()
            assert places(first) == [(0, 4), (0, 3)]
            assert response.links["next"]["url"].path == PATH
            second = await g.client.get(
                URL(response.links["next"]["url"]).path_qs, headers=g.headers(Accept="application/x-ndjson")
            )
            lines = (await second.text()).splitlines()
            assert [json.loads(line)["offset"] for line in lines] == [2, 1]
            last = await g.client.get(URL(second.links["next"]["url"]).path_qs, headers=g.headers())
            assert (places(await last.json()), last.links.get("next")) == ([(0, 0)], None)

    async def test_since_ends_the_scan(self):
        async with gateway() as g:
            record = make_record(g.codec, 0)
            g.reader.log = [replace(record, offset=n, timestamp_ms=NOW_MS + n) for n in range(3_000)]
            assert places(await get(g, f"?since={NOW_MS + 2_998}")) == [(0, 2999), (0, 2998)]
            assert places(await get(g, f"?since={NOW_MS + 3_000}")) == []
            assert g.reader.scanned == 2

    async def test_since_is_kept_where_a_clock_ran_backwards(self):
        async with gateway() as g:
            times = [NOW_MS, NOW_MS + 9, NOW_MS + 1, NOW_MS + 8]
            g.reader.log = [make_record(g.codec, n, timestamp_ms=at) for n, at in enumerate(times)]
            assert places(await get(g, f"?since={NOW_MS + 5}")) == [(0, 3), (0, 1)]


class TestForms:
    EVENTS = 3

    @asynccontextmanager
    async def log(self):
        async with gateway() as g:
            g.reader.log = [make_record(g.codec, n, timestamp_ms=NOW_MS + n, value=n / 2) for n in range(self.EVENTS)]
            g.reader.log.append(replace(make_record(g.codec, 9), value=b"\x00\x00\x00\x00\x07garbage"))
            yield g

    async def test_ndjson_is_one_event_a_line(self):
        async with self.log() as g:
            response = await ask(g, Accept="application/x-ndjson")
            lines = [json.loads(line) for line in (await response.text()).splitlines()]
            assert response.content_type == "application/x-ndjson"
            assert lines == (await get(g))["events"]

    async def test_avro_is_a_container_that_anyone_can_read(self):
        async with self.log() as g:
            response = await ask(g, Accept="application/avro")
            reader = fastavro.reader(io.BytesIO(await response.read()))
            found = [cast("dict[str, Any]", event) for event in reader]
            assert cast("dict[str, Any]", reader.writer_schema)["name"] == "streams.Event"
            assert [event["value"] for event in found] == [1.0, 0.5, 0.0]
            assert found[0]["timestamp"] == datetime.fromtimestamp(NOW_MS / 1000, UTC)
            assert (response.content_type, response.headers[UNREADABLE]) == ("application/avro", "1")

    async def test_protobuf_is_a_list(self):
        async with self.log() as g:
            response = await ask(g, Accept="application/x-protobuf")
            found = event_pb2.EventList.FromString(await response.read()).events
            assert [event.value for event in found] == [1.0, 0.5, 0.0]
            assert (response.content_type, response.headers[UNREADABLE]) == ("application/x-protobuf", "1")

    async def test_any_other_is_not_acceptable(self):
        async with self.log() as g:
            problem = await problem_of(await ask(g, status=406, Accept="text/csv"))
            assert problem["code"] == "not_acceptable"
            assert "application/x-ndjson" in problem["detail"]


class TestOneRecord:
    AT = "/api/v1/events/iot/1/7"

    async def test_it_comes_with_its_headers(self):
        async with gateway() as g:
            record = make_record(g.codec, 7, partition=1, value=1.5)
            record = replace(record, headers=(*record.headers, ("own", b"\xff"), ("own", b"twice")))
            g.reader.log = [make_record(g.codec, 6, partition=1), record, make_record(g.codec, 8, partition=1)]
            answer = await get(g, path=self.AT)
            assert answer == {
                "topic": "iot", "partition": 1, "offset": 7, "stored_at": NOW_MS, "key": {"text": "d1"},
                "headers": [
                    {"name": "event-id", "value": {"text": "00000000-0000-4000-8000-000000000007"}},
                    {"name": "event-type", "value": {"text": "sensor.reading"}},
                    {"name": "content-type", "value": {"text": "application/json"}},
                    {"name": "ingested-at", "value": {"text": str(NOW_MS)}},
                    {"name": "own", "value": {"base64": "/w=="}},
                    {"name": "own", "value": {"text": "twice"}},
                ],
                "content_type": "application/json", "schema_id": SCHEMA_ID, "event": answer["event"], "error": None,
            }  # fmt: skip
            assert (answer["event"]["event_id"], answer["event"]["value"]) == (
                "00000000-0000-4000-8000-000000000007",
                1.5,
            )
            raw = await ask(g, path=self.AT, Accept="application/avro")
            assert await raw.read() == record.value
            proto = await ask(g, path=self.AT, Accept="application/x-protobuf")
            assert event_pb2.Event.FromString(await proto.read()).value == 1.5

    async def test_one_that_nobody_can_read_is_there_as_it_is(self):
        async with gateway() as g:
            g.reader.log = [replace(make_record(g.codec, 7, partition=1), value=b"no Avro", key=None)]
            answer = await get(g, path=self.AT)
            assert (answer["event"], answer["error"], answer["schema_id"], answer["key"]) == (
                None,
                "malformed_event",
                None,
                None,
            )
            assert await (await ask(g, path=self.AT, Accept="application/avro")).read() == b"no Avro"
            problem = await problem_of(await ask(g, status=406, path=self.AT, Accept="application/x-protobuf"))
            assert "application/avro" in problem["detail"]

    @pytest.mark.parametrize(
        ("place", "code", "detail"),
        [
            ("1/9", "unknown_offset", "holds offsets 7 to 8, not 9"),
            ("1/6", "unknown_offset", "holds offsets 7 to 8, not 6"),
            ("0/0", "unknown_offset", "partition 0 of iot is empty"),
            ("2/0", "unknown_offset", "there are 2, counted from 0"),
            ("999999999999999999/0", "unknown_offset", "there are 2, counted from 0"),
            ("1/-1", "not_found", ""),
            ("one/0", "not_found", ""),
            ("1/\u0661", "not_found", ""),
        ],
    )
    async def test_what_is_not_there_is_told_with_what_is(self, place, code, detail):
        async with gateway() as g:
            g.reader.log = [make_record(g.codec, offset, partition=1) for offset in (7, 8)]
            problem = await get(g, path=f"/api/v1/events/iot/{place}", status=404)
            assert problem["code"] == code
            assert detail in problem["detail"]

    async def test_a_mark_of_a_transaction_is_no_event(self):
        async with gateway() as g:
            g.reader.log = [make_record(g.codec, offset, partition=1) for offset in (6, 8)]
            problem = await get(g, path=self.AT, status=404)
            assert "holds no event" in problem["detail"]
