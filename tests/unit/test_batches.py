"""Batches: one result a record, in order, whatever its neighbours are."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from streams import cloudevents
from streams.batches import BatchFormat, read_batch
from streams.domain.envelope import Event
from streams.domain.errors import InvalidEventError, MalformedEventError, TooManyRecordsError, UnsupportedFormatError
from streams.domain.validation import EventRules
from tests.strategies import NOW_MS

ID = "00000000-0000-7000-8000-{:012d}"
GOOD = b'{"event_type":"a","timestamp":1,"user_id":"u%d"}'


def read(body: bytes, format_: BatchFormat, max_records: int = 100) -> list[Event | InvalidEventError]:
    numbers = iter(range(1_000))
    return list(
        read_batch(
            body,
            format_,
            rules=EventRules(),
            now_ms=NOW_MS,
            new_event_id=lambda _: ID.format(next(numbers)),
            max_records=max_records,
        )
    )


def users(results: list[Event | InvalidEventError]) -> list[str | None]:
    return [result.user_id if isinstance(result, Event) else type(result).__name__ for result in results]


def test_a_line_that_is_no_json_is_that_lines_error():
    lines = [GOOD % 0, b"{", b"\xff", b'{"event_type":"a"}', b"[" * 9_999, GOOD % 5]
    results = read(b"\n".join(lines), BatchFormat.NDJSON)
    assert users(results) == [
        "u0",
        "MalformedEventError",
        "MalformedEventError",
        "InvalidEventError",
        "InvalidEventError",
        "u5",
    ]


def test_an_element_that_is_no_event_is_that_elements_error():
    elements = [GOOD % 0, b"7", b"null", b'{"event_type":"a","source":"\xff"}', b"[]", GOOD % 5]
    results = read(b" [" + b" , ".join(elements) + b"]\n", BatchFormat.JSON)
    bad = "InvalidEventError"
    assert users(results) == ["u0", bad, bad, "MalformedEventError", bad, "u5"]


def test_a_cloudevent_that_is_none_is_that_ones_error():
    good = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a", "userid": "u1"}
    results = read(json.dumps([good, {**good, "type": None}, 7, good]).encode(), BatchFormat.CLOUDEVENTS)
    assert users(results) == ["u1", "InvalidEventError", "InvalidEventError", "u1"]
    assert isinstance(results[1], InvalidEventError)
    assert [error.path for error in results[1].errors] == ["/type"]


def test_each_record_without_an_id_has_one_of_its_own():
    results = read(b"\n".join([GOOD % 0, GOOD % 1]), BatchFormat.NDJSON)
    assert [r.event_id for r in results if isinstance(r, Event)] == [ID.format(0), ID.format(1)]


def test_blank_lines_and_other_line_ends_are_no_records():
    assert users(read(b"\n \r\n" + GOOD % 0 + b"\r\n\n\t\n" + GOOD % 1 + b"\n", BatchFormat.NDJSON)) == ["u0", "u1"]


@pytest.mark.parametrize(
    ("format_", "body"),
    [
        (BatchFormat.NDJSON, b""),
        (BatchFormat.NDJSON, b"\n \r\n"),
        (BatchFormat.JSON, b""),
        (BatchFormat.JSON, b"[]"),
        (BatchFormat.JSON, b"{}"),
        (BatchFormat.JSON, b'"["'),
        (BatchFormat.JSON, b"[" + GOOD % 0),
        (BatchFormat.JSON, b"[" + GOOD % 0 + b",]"),
        (BatchFormat.JSON, b"[" * 100_000),
        (BatchFormat.JSON, b"\xef\xbb\xbf[]"),
        (BatchFormat.CLOUDEVENTS, b"[]"),
        (BatchFormat.AVRO, b""),
    ],
)
def test_what_cannot_be_taken_apart_or_has_no_record_is_malformed(format_, body):
    with pytest.raises(MalformedEventError):
        read(body, format_)


def arrays(records: int) -> bytes:
    return b"[" + b",".join([GOOD % 0] * records) + b"]"


@pytest.mark.parametrize(
    ("format_", "full", "too_many"),
    [
        (BatchFormat.NDJSON, b"\n".join([GOOD % 0] * 5), b"\n".join([GOOD % 0] * 6)),
        (BatchFormat.NDJSON, b"\n".join([GOOD % 0, b""] * 5), b"\n" * 11 + GOOD % 0),
        (BatchFormat.JSON, arrays(5), arrays(6)),
        (BatchFormat.CLOUDEVENTS, arrays(5), arrays(6)),
    ],
)
def test_there_may_be_so_many_records_and_no_more(format_, full, too_many):
    assert len(read(full, format_, 5)) == 5
    with pytest.raises(TooManyRecordsError, match="5 records"):
        read(too_many, format_, 5)


@pytest.mark.parametrize(
    ("format_", "body"),
    [
        (BatchFormat.NDJSON, b"1\n" * 1_000_000),
        (BatchFormat.NDJSON, b"\n" * 1_000_000 + b"1"),
        (BatchFormat.JSON, b"[" + b"1," * 1_000_000 + b"1]"),
    ],
)
def test_a_million_tiny_records_are_refused_before_they_are_made(format_, body):
    tracemalloc.start()
    try:
        with pytest.raises(TooManyRecordsError):
            read(body, format_, 1_000)
        assert tracemalloc.get_traced_memory()[1] < len(body) + 1_000_000
    finally:
        tracemalloc.stop()


def test_a_long_event_in_an_array_is_read_like_any_other():
    """Its numbers are looked at in its bytes, which an array's elements must have as well."""
    event = b'{"event_type":"a","timestamp":1,"user_id":"u","payload":{"n":[' + b"1," * 500 + b"%s]}}"
    good, bad = read(b"[" + event % b"1" + b"," + event % (b"1" * 401) + b"]", BatchFormat.JSON)
    assert isinstance(good, Event)
    assert isinstance(bad, InvalidEventError)
    assert [(error.path, error.code) for error in bad.errors] == [("/payload", "number_too_long")]


@pytest.mark.parametrize(
    ("content_type", "format_"),
    [
        ("application/x-ndjson", BatchFormat.NDJSON),
        ("application/ndjson", BatchFormat.NDJSON),
        ("Application/JSONL; charset=utf-8", BatchFormat.NDJSON),
        ("application/x-jsonlines", BatchFormat.NDJSON),
        ("application/json", BatchFormat.JSON),
        ("application/cloudevents-batch+json; charset=utf-8", BatchFormat.CLOUDEVENTS),
        ("application/avro", BatchFormat.AVRO),
    ],
)
def test_a_batchs_format_is_known_by_its_content_type(content_type, format_):
    assert BatchFormat.of(content_type) is format_


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/cloudevents+json", "application/x-protobuf"])
def test_another_content_type_is_no_batchs(content_type):
    with pytest.raises(UnsupportedFormatError) as refused:
        BatchFormat.of(content_type)
    assert refused.value.supported == tuple(BatchFormat)


def test_a_repeated_cloudevent_has_the_same_id():
    one = json.dumps({"specversion": "1.0", "id": "1", "source": "/s", "type": "a", "subject": "d"}).encode()
    [first, again] = read(b"[" + one + b"," + one + b"]", BatchFormat.CLOUDEVENTS)
    single = cloudevents.structured(one, rules=EventRules(), now_ms=NOW_MS, new_event_id=str)
    assert first == again == single
