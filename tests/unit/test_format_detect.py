"""What a record is taken for that came without a content type."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import schemas
from streams.codecs import AvroCodec, Format, event_to_protobuf, frame, read_event, write_event
from streams.domain.errors import InvalidEventError
from streams.domain.validation import EventRules
from streams.schemas import event_pb2
from tests.strategies import NOW_MS, events

ID = "00000000-0000-4000-8000-000000000001"


def codec() -> AvroCodec:
    made = AvroCodec()
    made.add_schema(7, schemas.EVENT)
    return made


@given(events(), st.sampled_from([Format.JSON, Format.AVRO, Format.PROTOBUF]))
def test_an_event_is_known_in_every_format_of_ours(event, format_):
    assert Format.detect(write_event(event, format_, codec(), 7)) is format_


@given(events())
def test_a_cloudevent_is_taken_for_json_and_must_name_its_content_type(event):
    assert Format.detect(write_event(event, Format.CLOUDEVENTS, codec(), 7)) is Format.JSON


@given(events(), st.permutations(range(8)))
def test_a_protobuf_event_is_known_whatever_field_it_begins_with(event, order):
    """Also where the first tag is whitespace (0x0a), a quote (0x22) or a digit (0x31) in a text."""
    fields = [event_pb2.Event(**{name: getattr(event, name)}) for name in event.__struct_fields__]
    data = b"".join(fields[number].SerializeToString() for number in order)
    assert event_pb2.Event.FromString(data) == event_pb2.Event.FromString(event_to_protobuf(event))
    assert Format.detect(data) is Format.PROTOBUF


@given(events())
def test_a_protobuf_event_without_an_id_is_known(event):
    message = event_pb2.Event.FromString(event_to_protobuf(event))
    message.ClearField("event_id")
    assert Format.detect(message.SerializeToString()) is Format.PROTOBUF


@pytest.mark.parametrize(
    ("data", "format_"),
    [
        (b"\x00\x00\x00\x00\x07", Format.AVRO),
        (b"\x00{}{}{}", Format.AVRO),
        (b"\x00\x00\x00\x07", Format.PROTOBUF),
        (b"\x00", Format.PROTOBUF),
        (b"", Format.JSON),
        (b" \t\r\n", Format.JSON),
        (b"{", Format.JSON),
        (b" \t\r\n{}", Format.JSON),
        (b'{"event_type": "\x12\x18"}', Format.JSON),
        (b'\r\n{"event_type": "\x12\x18"}', Format.JSON),
        (b"\x0b{}", Format.PROTOBUF),
        (b"[]", Format.JSON),
        (b'"event"', Format.JSON),
        (b"17", Format.JSON),
        (b"1750000000000", Format.JSON),
        (b"-1.5e3", Format.JSON),
        (b"null", Format.JSON),
        (b"\n true", Format.JSON),
        (b'"event_type": "a"}', Format.JSON),
        (codecs.BOM_UTF8 + b"{}", Format.JSON),
        ("größer".encode(), Format.JSON),
        (b"\x12\x01a", Format.PROTOBUF),
        (b"\x18\x01", Format.PROTOBUF),
        (b"\x22\x01u", Format.PROTOBUF),
        (b"\x31" + bytes(8), Format.PROTOBUF),
        (b"\x1f\x8b\x08", Format.PROTOBUF),
    ],
)
def test_bytes_are_taken_for_a_format(data, format_):
    assert Format.detect(data) is format_


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "truncated"),
        (b"[]", "expected a JSON object"),
        (b'"event"', "expected a JSON object"),
        (b"event", "JSON is malformed"),
        (b"\x12\x01", "not a Protobuf"),
        (frame(7, b""), "not a record of schema 7"),
    ],
)
def test_the_error_is_about_the_format_that_was_meant(data, says):
    with pytest.raises(InvalidEventError, match=says):
        read_event(data, Format.detect(data), codec(), rules=EventRules(), now_ms=NOW_MS, new_event_id=lambda: ID)


@given(st.binary(max_size=60))
def test_all_bytes_have_a_format(data):
    format_ = Format.detect(data)
    assert (format_ is Format.AVRO) == (data.startswith(b"\x00") and len(data) >= 5)
    if data.strip(b" \t\r\n").startswith(b"{"):
        assert format_ is Format.JSON
