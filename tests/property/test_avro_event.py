"""The hand-laid Avro of an event against fastavro, in both directions, for good bytes and bad."""

from __future__ import annotations

import io
import json
import re
import struct
import tracemalloc
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams import schemas
from streams.avro_event import decode, encode
from streams.codecs import AvroCodec, SchemaNeededError, frame, parse
from streams.domain.envelope import Event
from streams.domain.errors import MalformedEventError
from tests.strategies import events

SCHEMA = parse(schemas.EVENT)
ID = "00000000-0000-4000-8000-000000000001"
EVENT = Event(ID, "reading", 1_750_000_000_000, "ü", "d" * 70, 21.5, "lab", '{"unit": "C"}')

# Where a varint gets one byte more, in a length (zigzagged: 64 and 8192) and in a time, and where ours changes its way.
EDGES = [0, 1, *(2**bits for bits in (6, 13, 20, 34, 35, 41, 42, 48, 62))]
EDGE_LONGS = [2**63 - 1, -(2**63), *(sign * edge + by for edge in EDGES for sign in (1, -1) for by in (-1, 0, 1))]
longs = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EDGE_LONGS)
texts = (
    st.text(st.characters(codec="utf-8"), max_size=80)
    | st.sampled_from([length + by for length in (64, 8192) for by in (-1, 0)]).map("x".__mul__)
    | st.sampled_from([21, 22, 2730, 2731]).map("aü".__mul__)
)
MORE_BRANCHES = parse(
    json.dumps(
        {
            **json.loads(schemas.EVENT),
            "fields": [
                {"name": field["name"], "type": [*type_, "boolean", "bytes"] if isinstance(type_, list) else type_}
                for field in json.loads(schemas.EVENT)["fields"]
                for type_ in [field["type"]]
            ],
        }
    )
)
TEN_CONTINUED = re.compile(rb"[\x80-\xff]{10}")

any_events = st.builds(
    Event, texts, texts, longs, st.none() | texts, st.none() | texts, st.none() | st.floats(), st.none() | texts, texts
)
"""What the schema can hold, though it may break the rules of an event."""


def write(datum: Any, schema: Any = SCHEMA) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, datum)
    return out.getvalue()


def theirs(body: bytes, schema: Any = SCHEMA) -> str | None:
    """The event that fastavro reads, or None where it does not. As text: there NaN is NaN, and -0.0 is not 0.0."""
    source = io.BytesIO(body)
    try:
        event = msgspec.convert(fastavro.schemaless_reader(source, schema, None), Event)
    except Exception:  # noqa: BLE001  (it has no common base for its errors)
        return None
    return None if source.read(1) else repr(event)


def assert_same_verdict(body: bytes) -> None:
    """Both accept, and read the same; or both refuse.

    But for two things that Avro does not allow and fastavro lets through, and we do not: nobody writes them, and
    another reader of the same topic would not read the same event.

    - A negative index of a union's branch, with which fastavro counts from the last. With two more branches, of
      types that are no field of an event, it comes upon those.
    - A number of more than ten bytes, of which fastavro drops what has no place.
    """
    expected = theirs(body)
    if theirs(body, MORE_BRANCHES) is None:
        expected = None
    try:
        # Any other error than that of malformed bytes fails the test.
        got = repr(decode(body))
    except MalformedEventError as exc:
        if "more than 10 bytes" in str(exc) and TEN_CONTINUED.search(body):
            return
        got = None
    assert got == expected


def varint(zigzag: int, padding: int = 0) -> bytes:
    """A number from 0 on, by Avro's specification, with bytes that it does not need."""
    out = []
    while zigzag > 0x7F or padding:
        padding -= zigzag <= 0x7F
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*out, zigzag])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Bodies that have the shape of an event, with anything that may be odd in it: about half are wrong in a place."""
    rarely = st.integers(0, 19).map(lambda drawn: drawn == 0)

    def number(usual: int) -> bytes:
        value = draw(st.integers(0, 2**64 - 1) | st.integers(0, 9)) if draw(rarely) else usual
        return varint(value, draw(st.integers(0, 11)) if draw(rarely) else 0)

    def text() -> bytes:
        raw = draw(st.binary(max_size=12)) if draw(rarely) else draw(texts).encode()
        return number(2 * len(raw)) + raw

    def maybe(value: bytes) -> bytes:
        branch = draw(st.sampled_from([0, 2]))
        return number(branch) + (value if branch else b"")

    parts = [text(), text(), number(draw(longs) % 2**64), maybe(text()), maybe(text())]
    parts += [maybe(struct.pack("<d", draw(st.floats()))), maybe(text()), text()]
    return b"".join(parts)


@given(any_events)
def test_the_bytes_are_those_of_fastavro(event):
    assert encode(event) == write(msgspec.structs.asdict(event))


@given(any_events)
def test_what_fastavro_writes_is_read_as_the_same_event(event):
    assert repr(decode(write(msgspec.structs.asdict(event)), 0)) == repr(event)


@pytest.mark.parametrize("timestamp", EDGE_LONGS)
def test_a_time_of_any_size_has_the_bytes_of_fastavro(timestamp):
    event = msgspec.structs.replace(EVENT, timestamp=timestamp)
    body = write(msgspec.structs.asdict(event))
    assert encode(event) == body
    assert decode(body) == event


@pytest.mark.parametrize("length", [0, 63, 64, 8191, 8192, 2**20 - 1, 2**20])
def test_a_text_of_any_length_has_the_bytes_of_fastavro(length):
    event = Event("a" * length, "b" * length, 0, "c" * length, "d" * length, None, "e" * length, "f" * length)
    body = write(msgspec.structs.asdict(event))
    assert encode(event) == body
    assert decode(body) == event


@given(events(), st.binary(max_size=9), st.sampled_from([bytes, memoryview]))
def test_an_event_is_read_from_where_it_begins(event, before, kind):
    assert decode(kind(before + encode(event)), len(before)) == event


@pytest.mark.parametrize("timestamp", [2**63, -(2**63) - 1, 2**70])
def test_a_time_that_is_no_long_is_not_written(timestamp):
    with pytest.raises(OverflowError):
        encode(msgspec.structs.replace(EVENT, timestamp=timestamp))


@given(st.binary(max_size=80))
def test_of_arbitrary_bytes_both_accept_the_same(data):
    assert_same_verdict(data)


@given(bodies())
def test_of_odd_bodies_both_accept_the_same(body):
    assert_same_verdict(body)


@given(any_events, st.data())
def test_of_changed_bodies_both_accept_the_same(event, data):
    body = bytearray(encode(event))
    for _ in range(data.draw(st.integers(1, 4))):
        # Early bytes are lengths and branches more often than late ones.
        at = data.draw(st.integers(0, len(body) - 1) | st.integers(0, min(20, len(body) - 1)))
        upto = at + data.draw(st.integers(0, 2))
        body[at:upto] = data.draw(st.binary(max_size=2))
        if not body:
            break
    assert_same_verdict(bytes(body))


@given(any_events, st.binary(min_size=1, max_size=20))
@example(Event("", "", 0), b"\x00")
def test_a_prolonged_body_is_refused(event, more):
    with pytest.raises(MalformedEventError, match="left over"):
        decode(encode(event) + more)


@pytest.mark.parametrize("event", [EVENT, Event("", "", 0), msgspec.structs.replace(EVENT, timestamp=-(2**63))])
def test_every_truncated_body_is_refused(event):
    body = encode(event)
    for size in range(len(body)):
        with pytest.raises(MalformedEventError, match=r"too early|not UTF-8"):
            decode(body[:size])
    with pytest.raises(MalformedEventError, match="too early"):
        decode(body, len(body) + 1)


TEXT = b"\x02a"
HEAD = TEXT + TEXT + b"\x02"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "too early"),
        (b"\x01" + TEXT + b"\x02\x00\x00\x00\x00\x00", "negative length"),
        (b"\x83\x80\x00" + HEAD + bytes(5), "negative length"),
        (b"\x06\xed\xa0\x80" + TEXT + b"\x02" + bytes(5), "not UTF-8"),
        (HEAD + bytes(4) + b"\x02\xff", "not UTF-8"),
        (HEAD + b"\x04" + bytes(4), "no such branch"),
        (HEAD + b"\x80\x01" + bytes(4), "no such branch"),
        (HEAD + b"\x00\x00\x02" + bytes(7), "too early"),
    ],
)
def test_a_malformed_body_is_refused_with_what_is_wrong(body, says):
    assert theirs(body) is None
    with pytest.raises(MalformedEventError, match=says):
        decode(body)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (HEAD + b"\x01" + TEXT + bytes(4), "no such branch"),  # -1 of [null, string]
        (HEAD + b"\x03" + bytes(4), "no such branch"),  # -2
        (TEXT + TEXT + b"\x82" + b"\x80" * 9 + b"\x00" + bytes(5), "more than 10 bytes"),
        (b"\x82" + b"\x80" * 9 + b"\x00a" + TEXT + b"\x02" + bytes(5), "more than 10 bytes"),
    ],
)
def test_two_things_that_fastavro_lets_through_are_refused(body, says):
    assert theirs(body) is not None
    with pytest.raises(MalformedEventError, match=says):
        decode(body)


@pytest.mark.parametrize("padding", range(1, 10))
def test_a_number_may_have_bytes_that_it_does_not_need_up_to_ten(padding):
    size, branch, null = varint(2, padding), varint(2, padding), varint(0, padding)
    body = b"".join((size, b"a", size, b"b", varint(2, padding), branch, size, b"u", null, null, null, size, b"p"))
    expected = Event("a", "b", 1, "u", payload="p")
    assert theirs(body) == repr(expected)
    assert decode(body) == expected


@pytest.mark.parametrize("last", [0x00, 0x01, 0x02, 0x7E, 0x7F])
def test_bits_of_a_tenth_byte_that_have_no_place_are_dropped(last):
    body = TEXT + TEXT + b"\xff" * 9 + bytes([last]) + bytes(5)
    assert repr(decode(body)) == theirs(body)


@pytest.mark.parametrize("claimed", [2**31 - 1, 2**40, 2**63 - 1])
@pytest.mark.parametrize("before", [b"", TEXT, HEAD + b"\x02", HEAD + b"\x00\x02", HEAD + bytes(4)])
def test_a_lying_length_costs_nothing(before, claimed):
    body = before + varint(2 * claimed) + b"a" * 100
    tracemalloc.start()
    try:
        with pytest.raises(MalformedEventError, match="too early"):
            decode(body)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_number_without_an_end_is_given_up():
    with pytest.raises(MalformedEventError, match="more than 10 bytes"):
        decode(b"\x80" * 1_000_000)


def schema(**changes: Any) -> dict[str, Any]:
    """The schema of an event, with the types of some fields changed; None takes a field away."""
    made = json.loads(schemas.EVENT)
    for name, type_ in changes.items():
        field = next(field for field in made["fields"] if field["name"] == name)
        field["type"] = type_
        field.pop("default", None)
    return made


def reordered() -> dict[str, Any]:
    made = schema()
    made["fields"][0], made["fields"][1] = made["fields"][1], made["fields"][0]
    return made


def bare() -> dict[str, Any]:
    """Without docs, defaults and logical types, and with what Java's libraries add."""
    made = {"type": "record", "name": "customer.Reading", "fields": json.loads(schemas.EVENT)["fields"]}
    for field in made["fields"]:
        field.pop("default", None)
        field["type"] = {"event_id": {"type": "string", "avro.java.string": "String"}, "timestamp": "long"}.get(
            field["name"], field["type"]
        )
    return made


def refuse(*_args: object) -> None:
    raise AssertionError("fastavro was asked")


@pytest.mark.parametrize("writer", [schema(), bare(), schema() | {"doc": "Theirs.", "namespace": "customer"}])
def test_a_schema_with_the_same_fields_is_read_without_fastavro(writer, monkeypatch):
    codec = AvroCodec()
    codec.add_schema(8, json.dumps(writer))
    data = frame(8, write(msgspec.structs.asdict(EVENT), parse(json.dumps(writer))))
    monkeypatch.setattr(fastavro, "schemaless_reader", refuse)
    assert codec.decode_event(data) == EVENT


@pytest.mark.parametrize(
    "writer",
    [
        reordered(),
        schema(user_id=["string", "null"]),
        schema(user_id="string"),
        schema(value=["null", "float"]),
        schema(value="double"),
        schema(payload="bytes"),
        schema(source=["null", "string", "long"]),
        schema() | {"fields": [*schema()["fields"], {"name": "unit", "type": "string", "default": "C"}]},
        schema() | {"fields": [{"name": "unit", "type": "string", "default": "C"}, *schema()["fields"]]},
        schema() | {"fields": [field for field in schema()["fields"] if field["name"] != "source"]},
    ],
)
def test_a_schema_with_other_fields_is_resolved(writer):
    parsed = parse(json.dumps(writer))
    datum = msgspec.structs.asdict(EVENT)
    if any(field["name"] == "payload" and field["type"] == "bytes" for field in writer["fields"]):
        datum["payload"] = EVENT.payload.encode()
    codec = AvroCodec()
    codec.add_schema(8, json.dumps(writer))
    has_source = any(field["name"] == "source" for field in writer["fields"])
    expected = EVENT if has_source else msgspec.structs.replace(EVENT, source=None)
    assert codec.decode_event(frame(8, write(datum, parsed))) == expected


def test_the_schema_of_an_id_is_the_one_that_was_told_last():
    codec = AvroCodec()
    datum = msgspec.structs.asdict(EVENT)
    for writer in (schema(), reordered(), schema()):
        codec.add_schema(8, json.dumps(writer))
        assert codec.decode_event(frame(8, write(datum, parse(json.dumps(writer))))) == EVENT


def test_a_record_is_framed_with_its_schema():
    assert AvroCodec().encode_event(EVENT, 8) == frame(8, write(msgspec.structs.asdict(EVENT)))


def test_a_refused_record_is_told_with_its_schema_and_an_unknown_schema_is_asked_for():
    codec = AvroCodec()
    codec.add_schema(8, schemas.EVENT)
    with pytest.raises(MalformedEventError, match="not a record of schema 8: the bytes end too early"):
        codec.decode_event(frame(8, b"\x02"))
    with pytest.raises(MalformedEventError, match="wire format"):
        codec.decode_event(b"\x00\x00\x00\x00")
    with pytest.raises(SchemaNeededError):
        codec.decode_event(codec.encode_event(EVENT, 9))
