"""GET /dlq and its letters, POST /dlq/redrive, and what GET /dlq/redrives tells of it."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from streams import schemas
from streams.codecs import event_to_protobuf
from streams.domain.errors import KafkaUnavailableError, RegistryUnavailableError
from streams.domain.headers import header
from streams.domain.naming import DLQ, REDRIVES
from streams.kafka.consumer import Record
from streams.kafka.producer import OutgoingRecord
from tests.dead_letters import BODY, Log, gateway_on, make_letter
from tests.platform import eventually
from tests.strategies import NOW_MS
from tests.web_gateway import make_record, problem_of

PATH = "/api/v1/dlq"


async def get(g, path="", status=200, scopes="dlq:read"):
    response = await g.client.get(PATH + path, headers=g.headers(scopes))
    assert response.status == status, await response.text()
    return await response.json() if status == 200 else await problem_of(response)


async def redrive(g, status, body=None, scopes="dlq:admin"):
    data = body if isinstance(body, bytes) else json.dumps(body or {})
    response = await g.client.post(f"{PATH}/redrive", data=data, headers=g.headers(scopes))
    assert response.status == status, await response.text()
    return await response.json() if status < 300 else await problem_of(response)


def places(answer):
    return [(letter["partition"], letter["offset"]) for letter in answer["letters"]]


# Browsing


async def test_letters_come_newest_first_with_what_one_wants_to_know():
    log = Log()
    async with gateway_on(log, *[make_letter(failed_at=NOW_MS + n) for n in range(3)]) as g:
        answer = await get(g)
        assert places(answer) == [(0, 2), (0, 1), (0, 0)]
        assert (answer["before"], answer["truncated"]) == (None, False)
        assert answer["letters"][2] == {
            "partition": 0, "offset": 0, "stored_at": NOW_MS, "reason": "invalid_event", "detail": "as it was then",
            "source_topic": "platform.ingress", "source_partition": 3, "source_offset": 14, "event_topic": "iot",
            "attempts": 1, "replays": 0, "failed_at": NOW_MS, "key": {"text": "k"}, "value_bytes": len(BODY),
            "error": None,
        }  # fmt: skip
    assert log.open_readers == 0


async def test_pages_follow_each_other():
    async with gateway_on(Log(), *[make_letter(failed_at=NOW_MS + n) for n in range(5)]) as g:
        first = await get(g, "?limit=2")
        second = await get(g, f"?limit=2&before={first['before']}")
        third = await get(g, f"?limit=2&before={second['before']}")
        assert [places(page) for page in (first, second, third)] == [[(0, 4), (0, 3)], [(0, 2), (0, 1)], [(0, 0)]]
        assert third["before"] is None


@pytest.mark.parametrize(
    ("query", "offsets"),
    [
        ("?reason=unknown_topic", [1]),
        ("?reason=unknown_topic,malformed_event", [2, 1]),
        ("?source_topic=events.iot", [3]),
        ("?event_topic=clickstream", [4]),
        (f"?from={NOW_MS + 2}&to={NOW_MS + 4}", [3, 2]),
        ("?from=2200-01-01T00:00:00Z", []),
        ("?reason=unknown_topic&event_topic=clickstream", []),
    ],
)
async def test_only_what_is_asked_for(query, offsets):
    letters = [
        make_letter(),
        make_letter(reason="unknown_topic", failed_at=NOW_MS + 1),
        make_letter(reason="malformed_event", failed_at=NOW_MS + 2),
        make_letter(source_topic="events.iot", failed_at=NOW_MS + 3),
        make_letter(headers=(("event-topic", b"clickstream"),), failed_at=NOW_MS + 4),
    ]
    async with gateway_on(Log(), *letters) as g:
        assert [offset for _, offset in places(await get(g, query))] == offsets


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        ("?limit=0", {"?limit"}),
        ("?limit=501", {"?limit"}),
        ("?before=17", {"?before"}),
        ("?from=yesterday&to=1.5&size=1", {"?from", "?to", "?size"}),
        ("?reason=" + "x" * 257, {"?reason"}),
    ],
)
async def test_wrong_parameters_are_told_by_name(query, paths):
    async with gateway_on(Log()) as g:
        problem = await get(g, query, status=400)
        assert {error["path"] for error in problem["errors"]} == paths


async def test_a_letter_that_cannot_be_read_is_told_not_left_out():
    log = Log()
    log.records[DLQ, 0].append(Record(DLQ, 0, 0, NOW_MS, b"\xff", b"garbage", (("dlq-reason", b"internal"),)))
    async with gateway_on(log) as g:
        [letter] = (await get(g))["letters"]
        assert (letter["reason"], letter["error"], letter["key"]) == ("internal", "malformed_event", {"base64": "/w=="})
        view = await get(g, "/0/0")
        assert base64.b64decode(view["raw"]["value"]) == b"garbage"
        assert view["decoded"]["error"] == "malformed_event"


# One letter


async def view_of(letter, schema=None):
    async with gateway_on(Log(), letter) as g:
        if schema is not None:

            async def known(_):
                if isinstance(schema, Exception):
                    raise schema
                return schema

            g.registry.schema = known  # type: ignore[method-assign]
        return await get(g, "/0/0")


async def test_json_is_shown_as_it_was_written_valid_event_or_not():
    body = b'{"event_type": 7, "n": 12345678901234567890.10, "n": 2}'
    headers = (("event-topic", b"iot"), ("note", b"a"), ("note", b"\xfe"))
    view = await view_of(make_letter(body, headers=headers, key=None))
    assert view["decoded"] == {
        "format": "application/json",
        "document": json.loads(body),
        "error": None,
        "detail": None,
    }
    assert view["raw"] == {
        "key": None,
        "value": base64.b64encode(body).decode(),
        "headers": [
            {"name": "event-topic", "value": {"text": "iot"}},
            {"name": "note", "value": {"text": "a"}},
            {"name": "note", "value": {"base64": "/g=="}},
        ],
    }
    assert (view["letter"]["reason"], view["redriven_by"]) == ("invalid_event", None)


@pytest.mark.parametrize(
    ("body", "headers", "format_", "error"),
    [
        (b"{", (), "application/json", "malformed_event"),
        (b'{"a": "\xff"}', (), "application/json", "malformed_event"),
        (b"[" * 100_000, (), "application/json", "malformed_event"),
        (b"{}", (("content-type", b"text/plain"),), None, "unsupported_format"),
        (b"\x01\xff\xff", (), "application/x-protobuf", "malformed_event"),
        (b"\x00\x00\x00\x00\x63x", (), "application/avro", "unknown_schema"),
        (b"short", (("content-type", b"application/avro"),), "application/avro", "malformed_event"),
    ],
)
async def test_what_cannot_be_decoded_says_why_and_is_there_raw(body, headers, format_, error):
    view = await view_of(make_letter(body, headers=headers))
    assert (view["decoded"]["format"], view["decoded"]["error"]) == (format_, error)
    assert view["decoded"]["document"] is None
    assert base64.b64decode(view["raw"]["value"]) == body


async def test_protobuf_is_shown_by_its_fields():
    async with gateway_on(Log()) as g:
        event = g.codec.decode_event(make_record(g.codec, 1).value or b"")
    view = await view_of(make_letter(event_to_protobuf(event)))
    assert view["decoded"]["format"] == "application/x-protobuf"
    assert view["decoded"]["document"]["device_id"] == "d1"


async def test_avro_is_shown_by_the_schema_it_was_written_with():
    schema = {
        "type": "record", "name": "Other",
        "fields": [{"name": "colour", "type": "string"}, {"name": "blob", "type": "bytes"}],
    }  # fmt: skip
    body = b"\x00\x00\x00\x00\x63" + b"\x08blue" + b"\x04\xff\x00"
    view = await view_of(make_letter(body, source_topic="events.iot"), json.dumps(schema))
    assert view["decoded"]["document"] == {"colour": "blue", "blob": "/wA="}
    view = await view_of(make_letter(body, source_topic="events.iot"), schemas.EVENT)
    assert view["decoded"]["error"] == "malformed_event"
    view = await view_of(make_letter(body), RegistryUnavailableError("10.0.0.7 is away"))
    assert view["decoded"]["error"] == "registry_unavailable"


@pytest.mark.parametrize("path", ["/0/1", "/2/0", "/x/0", "/0/x", "/0/-1", "/0/" + "9" * 30, "/redrives/nobody"])
async def test_what_is_not_there_is_not_found(path):
    async with gateway_on(Log(), make_letter()) as g:
        assert (await get(g, path, status=404))["code"] == "not_found"


# Redriving


async def test_without_a_word_it_is_a_dry_run_and_nothing_is_written():
    log = Log()
    async with gateway_on(log, make_letter(), make_letter(b"{"), make_letter(replays=5)) as g:
        answer = await redrive(g, 200)
        assert (answer["dry_run"], answer["complete"]) == (True, True)
        assert answer["totals"] == {
            "redriven": 1, "already_redriven": 0, "invalid": {"malformed_event": 1}, "refused": {"loop_guard": 1},
        }  # fmt: skip
        assert [(one["outcome"], one["code"]) for one in answer["sample"]] == [
            ("redriven", None), ("invalid", "malformed_event"), ("refused", "loop_guard"),
        ]  # fmt: skip
        assert await redrive(g, 200, {"dry_run": True}) == answer
    assert (log.writer, log.events(), log.records[REDRIVES, 0]) == (0, [], [])


async def ended(g, run_id):
    async def check():
        found = await get(g, f"/redrives/{run_id}")
        return None if found["running_here"] else found

    return await eventually(check, 5)


async def test_a_run_is_accepted_done_and_told():
    log = Log()
    letters = [make_letter(), make_letter(b"{"), make_letter(reason="unknown_topic"), make_letter()]
    async with gateway_on(log, *letters) as g:
        body = {
            "dry_run": False, "rate": 100, "limit": 5,
            "filter": {"reasons": ["invalid_event"], "from": "2000-01-01T00:00:00Z", "letters": ["0@0", "0@1", "0@2"]},
        }  # fmt: skip
        response = await g.client.post(f"{PATH}/redrive", json=body, headers=g.headers("dlq:admin"))
        assert response.status == 202
        run_id = (await response.json())["run"]["id"]
        assert response.headers["Location"] == f"{PATH}/redrives/{run_id}"
        answer = await ended(g, run_id)
        assert answer["letters"] == ["0@0"]
        run = answer["run"]
        assert (run["who"], run["rate"], run["limit"], run["state"]) == ("tester", 100.0, 5, "completed")
        assert run["filter"]["from_ms"] == 946_684_800_000
        assert run["totals"]["invalid"] == {"malformed_event": 1}
        assert (await get(g, "/redrives"))["redrives"] == [run]
        assert (await get(g, "/0/0"))["redriven_by"] == run_id
        assert (await get(g, "/0/1"))["redriven_by"] is None
    assert [header(record.headers, "dlq-origin") for record in log.events()] == ["0@0"]


async def test_one_run_at_a_time():
    log = Log()
    log.hangs = asyncio.Event()
    async with gateway_on(log, make_letter()) as g:
        first = await redrive(g, 202, {"dry_run": False})
        problem = await redrive(g, 409, {"dry_run": False})
        assert (problem["code"], problem["retriable"]) == ("redrive_running", True)
        assert (await redrive(g, 200))["totals"]["redriven"] == 1
        log.hangs.set()
        await ended(g, first["run"]["id"])
        second = await redrive(g, 202, {"dry_run": False})
        await ended(g, second["run"]["id"])
        assert [run["id"] for run in (await get(g, "/redrives"))["redrives"]] == [
            second["run"]["id"], first["run"]["id"],
        ]  # fmt: skip


async def test_a_run_that_cannot_begin_is_the_answer_s_error():
    log = Log()
    async with gateway_on(log, make_letter(), retry_base_s=0.001, retry_cap_s=0.001) as g:
        log.append(REDRIVES, 0, OutgoingRecord(REDRIVES, None, b"who wrote this?"))
        assert (await redrive(g, 500, {"dry_run": False}))["code"] == "redrive_log"
        assert (await redrive(g, 500))["code"] == "redrive_log"
    assert log.events() == []


async def test_a_run_that_waits_for_kafka_is_accepted_and_told_of():
    log = Log()
    async with gateway_on(log, make_letter(), request_deadline_s=0.3, retry_base_s=0.01, retry_cap_s=0.01) as g:
        log.fails = KafkaUnavailableError("away")
        answer = await redrive(g, 202, {"dry_run": False})
        assert (answer["run"]["state"], answer["running_here"]) == ("open", True)
        log.fails = None
        found = await ended(g, answer["run"]["id"])
        assert (found["run"]["state"], found["run"]["redriven"]) == ("completed", 1)


async def test_a_run_is_finished_in_order_when_the_worker_stops():
    log = Log()
    log.hangs = asyncio.Event()
    async with gateway_on(log, *[make_letter()] * 30) as g:
        await redrive(g, 202, {"dry_run": False, "rate": 10})
        asyncio.get_running_loop().call_later(0.1, log.hangs.set)
    assert len(log.events()) == 10
    assert b'"ending":"stopped"' in (log.records[REDRIVES, 0][-1].value or b"")


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b'{"dry_run": "no"}', b'{"dryrun": false}', b'{"rate": 0}', b'{"limit": 0}', b'{"limit": 1.5}',
        b'{"filter": {"reason": "x"}}', b'{"filter": {"letters": ["0"]}}', b'{"filter": {"from": "yesterday"}}',
        b'{"filter": {"to": 1e400}}', b"\xff", b'{"filter": {"reasons": [""]}}',
    ],
)  # fmt: skip
async def test_a_body_that_is_not_understood_starts_nothing(body):
    log = Log()
    async with gateway_on(log, make_letter()) as g:
        assert (await redrive(g, 400, body))["code"] == "invalid_request"
    assert log.writer == 0


async def test_the_scopes_are_reading_and_administering():
    async with gateway_on(Log(), make_letter()) as g:
        for path in ("", "/0/0", "/redrives", "/redrives/x"):
            await get(g, path, status=403, scopes="dlq:admin events:* admin")
        await redrive(g, 403, scopes="dlq:read admin")
        await redrive(g, 200, scopes="dlq:*")


async def test_nothing_is_read_before_the_worker_has_started():
    async with gateway_on(Log()) as g:
        g.state.waiting_for = "Kafka"
        for path in ("", "/0/0", "/redrives", "/redrives/x"):
            await get(g, path, status=503)
        await redrive(g, 503)
