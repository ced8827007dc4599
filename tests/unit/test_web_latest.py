"""GET /events/{topic}/latest, and how the log is read backwards."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from streams.domain.errors import KafkaUnavailableError
from streams.kafka.consumer import Partition, Record, Span
from tests.strategies import NOW_MS
from tests.web_gateway import gateway, make_record, problem_of
from web.latest import BackwardScan

PATH = "/api/v1/events/iot/latest"


def places(answer):
    return [(event["partition"], event["offset"]) for event in answer["events"]]


async def get(g, query="", status=200):
    response = await g.client.get(PATH + query, headers=g.headers("events:read:iot"))
    assert response.status == status, await response.text()
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
        assert places(answer) == [(1, 6), (0, 1), (1, 5), (0, 0)]
        assert (answer["topic"], answer["truncated"]) == ("iot", False)
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
        assert places(await get(g, "?limit=2")) == [(1, 6), (0, 1)]


async def test_an_empty_topic_has_nothing():
    async with gateway() as g:
        assert await get(g) == {"topic": "iot", "events": [], "truncated": False}


async def test_only_what_is_wanted():
    async with gateway() as g:
        g.reader.log = [
            make_record(g.codec, n, timestamp_ms=NOW_MS + n, device_id=f"d{n % 2}", event_type=f"type.{n % 3}")
            for n in range(12)
        ]
        assert places(await get(g, "?key=d1&limit=2")) == [(0, 11), (0, 9)]
        assert places(await get(g, "?event_type=type.0")) == [(0, 9), (0, 6), (0, 3), (0, 0)]
        assert places(await get(g, "?event_type=type.0&key=d1")) == [(0, 9), (0, 3)]


async def test_few_of_many_are_found_without_reading_all():
    async with gateway() as g:
        record = make_record(g.codec, 0)
        g.reader.log = [replace(record, offset=n, timestamp_ms=NOW_MS + n) for n in range(3_000)]
        assert places(await get(g, "?limit=3")) == [(0, 2999), (0, 2998), (0, 2997)]
        assert g.reader.scanned < 50


async def test_a_scan_that_gives_up_says_so():
    async with gateway() as g:
        record = make_record(g.codec, 0)
        g.reader.log = [replace(record, offset=n, timestamp_ms=NOW_MS + n) for n in range(20_100)]
        g.reader.log[0] = make_record(g.codec, 0, device_id="rare")
        answer = await get(g, "?key=rare")
        assert (answer["events"], answer["truncated"]) == ([], True)
        assert g.reader.scanned == 20_000


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


async def test_one_reader_serves_all_and_is_closed_at_the_end():
    async with gateway() as g:
        g.reader.log = [make_record(g.codec, 0)]
        await asyncio.gather(*[get(g) for _ in range(5)])
        assert (g.reader.started, g.reader.stopped) == (1, 0)
    assert g.reader.stopped == 1


async def test_a_question_that_takes_too_long_ends_at_its_deadline():
    async with gateway(request_deadline_s=0.2) as g:
        g.admin.hangs = True
        assert (await get(g, status=503))["code"] == "deadline_exceeded"


def test_a_scan_stays_within_its_bytes():
    partition = Partition("events.iot", 0)
    scan = BackwardScan({partition: Span(0, 10_000)}, 1_000, lambda r: True, max_bytes=100_000)
    read = 0
    record = _large(0)
    while windows := scan.next_windows():
        [span] = windows.values()
        read += span.end - span.start
        scan.add([replace(record, offset=n, timestamp_ms=n) for n in range(*span)])
    assert read * len(record.value or b"") <= 300_000
    assert scan.result().truncated


def _large(offset):
    return Record("events.iot", 0, offset, offset, b"k", b"x" * 1_000, ())


def test_a_partition_is_left_only_when_nothing_newer_can_be_in_it():
    #  partition 0:   6  6 | 6  6      limit 4: the first windows hold 6 6 and 5 5,
    #  partition 1:   5  5 | 5  5      but the four newest are all in partition 0
    log = {
        Partition("events.iot", number): [
            replace(_large(offset), partition=number, timestamp_ms=timestamp) for offset in range(4)
        ]
        for number, timestamp in ((0, 6), (1, 5))
    }
    scan = BackwardScan({partition: Span(0, 4) for partition in log}, 4, lambda r: True)
    while windows := scan.next_windows():
        for partition, span in windows.items():
            scan.add(log[partition][span.start : span.end])
    assert [(r.partition, r.offset) for r in scan.result().records] == [(0, 3), (0, 2), (0, 1), (0, 0)]
