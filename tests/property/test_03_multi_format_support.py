"""Property 3: any event through JSON, Avro, Protobuf and CloudEvents, alone or in a batch, is the same event."""

from __future__ import annotations

import io
import itertools
import json
from urllib.parse import quote

import fastavro
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import cloudevents, schemas
from streams.batches import BatchFormat, read_batch
from streams.codecs import (
    AvroCodec,
    Format,
    SchemaNeededError,
    events_to_avro_container,
    frame,
    read_event,
    schema_id_of,
    unframe,
    write_event,
)
from streams.domain.envelope import Event
from streams.domain.errors import MalformedEventError, UnsupportedFormatError
from streams.domain.validation import EventRules
from tests.strategies import NOW_MS, events

RULES = EventRules()


def codec() -> AvroCodec:
    made = AvroCodec()
    made.add_schema(7, schemas.EVENT)
    return made


# A CloudEvent has a source, and cannot have an empty one.
sourced = events().map(lambda event: msgspec.structs.replace(event, source=event.source or None))


def in_headers(event: Event) -> tuple[dict[str, str], bytes]:
    """The event as a CloudEvent in binary mode: headers and body."""
    document = json.loads(cloudevents.event_to_cloudevent(event))
    headers = {f"ce-{name}": quote(value, safe="") for name, value in document.items() if name != "data"}
    del headers["ce-datacontenttype"]
    return headers, event.payload.encode()


def in_a_batch(batch: list[Event], format_: BatchFormat) -> bytes:
    match format_:
        case BatchFormat.NDJSON:
            return b"\n".join(write_event(event, Format.JSON, codec(), 7) for event in batch)
        case BatchFormat.JSON:
            return b"[" + b",".join(write_event(event, Format.JSON, codec(), 7) for event in batch) + b"]"
        case BatchFormat.CLOUDEVENTS:
            return b"[" + b",".join(cloudevents.event_to_cloudevent(event) for event in batch) + b"]"
        case BatchFormat.AVRO:
            return events_to_avro_container(batch)


@given(sourced, st.permutations(list(Format)))
def test_an_event_is_the_same_after_every_order_of_formats(event, formats):
    avro = codec()
    current = event
    for format_ in formats:
        current = read_event(
            write_event(current, format_, avro, 7), format_, avro, rules=RULES, now_ms=NOW_MS, new_event_id=str
        )
    assert current == event


@given(sourced)
def test_a_cloudevent_in_headers_is_the_same_event(event):
    headers, body = in_headers(event)
    attributes = cloudevents.header_attributes(headers.items())
    read = cloudevents.binary(
        attributes, body, "application/json", rules=RULES, now_ms=NOW_MS, new_event_id=lambda: "never"
    )
    assert read == event


@given(st.lists(sourced, min_size=1, max_size=5), st.sampled_from(BatchFormat))
def test_a_batch_is_the_same_events_in_the_same_order(batch, format_):
    read = list(
        read_batch(
            in_a_batch(batch, format_),
            format_,
            rules=RULES,
            now_ms=NOW_MS,
            new_event_id=lambda _: "never",
            max_records=5,
        )
    )
    assert read == batch


@given(sourced)
def test_a_cloudevent_is_one_by_its_specification(event):
    document = json.loads(cloudevents.event_to_cloudevent(event))
    assert document["specversion"] == "1.0"
    for name, value in document.items():
        # Core specification: names of lower case letters and digits, 20 at most; each required one is there.
        assert name.isascii()
        assert name.isalnum()
        assert name.islower()
        assert len(name) <= 20
        assert value == json.loads(event.payload) if name == "data" else isinstance(value, str) and value
    assert {"id", "source", "type", "specversion"} <= document.keys()


@given(events())
def test_the_payload_is_an_object_in_json_and_the_same_text_elsewhere(event):
    avro = codec()
    assert json.loads(write_event(event, Format.JSON, avro, 7))["payload"] == json.loads(event.payload)
    assert avro.decode_event(avro.encode_event(event, 7)).payload == event.payload


@given(st.integers(0, 2**32 - 1), st.binary(max_size=50))
def test_a_frame_comes_apart_as_it_was_put_together(schema_id, body):
    assert unframe(frame(schema_id, body)) == (schema_id, body)


@given(st.integers(0, 2**31 - 1))
def test_the_schema_of_a_bare_body_is_named_beside_it(schema_id):
    assert schema_id_of(str(schema_id)) == schema_id


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "seven", " 7", "\u0667", str(2**31), "9" * 5_000])
def test_what_names_no_schema_is_malformed(text):
    with pytest.raises(MalformedEventError, match="schema id"):
        schema_id_of(text)


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x00", b"\x01\x00\x00\x00\x07"])
def test_what_is_not_framed_is_malformed(data):
    with pytest.raises(MalformedEventError, match="wire format"):
        unframe(data)


@given(events(), st.integers(0, 20))
def test_a_truncated_or_prolonged_record_is_malformed(event, cut):
    avro = codec()
    data = avro.encode_event(event, 7)
    with pytest.raises(MalformedEventError):
        avro.event_fields(data + b"\x00")
    with pytest.raises(MalformedEventError):
        avro.event_fields(data[: max(5, len(data) - 1 - cut)])


def test_an_unknown_schema_is_asked_for_by_its_id():
    with pytest.raises(SchemaNeededError) as needed:
        AvroCodec().event_fields(frame(99, b""))
    assert needed.value.schema_id == 99


def test_a_record_of_a_newer_schema_is_read_by_its_envelope():
    """A topic's own schema may say more than the envelope; the rest is skipped (Avro schema resolution)."""
    richer = json.loads(schemas.EVENT)
    richer["name"], richer["namespace"] = "Reading", "customer"
    richer["fields"].insert(2, {"name": "unit", "type": {"type": "enum", "name": "Unit", "symbols": ["C", "F"]}})
    body = io.BytesIO()
    datum = {"event_id": "00000000-0000-4000-8000-000000000001", "event_type": "a", "timestamp": 1, "user_id": "u"}
    fastavro.schemaless_writer(body, fastavro.parse_schema(richer), {**datum, "unit": "F"})
    avro = codec()
    avro.add_schema(8, json.dumps(richer))
    read = read_event(frame(8, body.getvalue()), Format.AVRO, avro, rules=RULES, now_ms=NOW_MS, new_event_id=str)
    assert (read.user_id, read.timestamp, json.loads(read.payload)) == ("u", 1, {})


@pytest.mark.parametrize(("upper", "space"), list(itertools.product([True, False], repeat=2)))
@pytest.mark.parametrize("format_", Format)
def test_a_content_type_is_known_by_its_type_alone(format_, upper, space):
    name = format_.value.upper() if upper else format_.value
    assert Format.of(name + (" ; charset=utf-8" if space else "")) is format_


def test_protobuf_has_two_names():
    assert Format.of("application/protobuf") is Format.PROTOBUF


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/jsonx", "application/cloudevents+avro"])
def test_another_content_type_is_refused_with_the_list_of_those_that_are_read(content_type):
    with pytest.raises(UnsupportedFormatError) as refused:
        Format.of(content_type)
    assert refused.value.supported == tuple(Format)
