"""Property 1: gateway, agents and fastavro agree on every event, valid or not."""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams import schemas
from streams.batches import BatchFormat, read_batch
from streams.codecs import AvroCodec, Format, read_event, write_event
from streams.domain.envelope import Event
from streams.domain.errors import InvalidEventError
from streams.domain.naming import INGRESS, event_topic
from streams.domain.validation import EventRules, event_from_fields, event_from_json, parse_timestamp
from streams.intake import read_ingress
from streams.kafka.consumer import Record
from streams.publishing import Publisher, TopicCatalog
from streams.registry import SchemaLoader, SchemaRegistry
from streams.settings import Settings
from tests.strategies import NOW_MS, Document, documents, events

RULES = EventRules()
SCHEMA = fastavro.parse_schema(json.loads(schemas.EVENT))
NEW_ID = "00000000-0000-4000-8000-000000000001"


def from_json(body: bytes) -> Event:
    return event_from_json(body, RULES, NOW_MS, lambda: NEW_ID)


def verdict(read: Callable[[], Event]) -> Event | set[str]:
    """The event, or the paths of what is wrong with it."""
    try:
        return read()
    except InvalidEventError as exc:
        return {error.path for error in exc.errors}


def as_avro_datum(fields: dict) -> dict:
    """What a client in another language would hand to its Avro library for this document."""
    datum = {"user_id": None, "device_id": None, "value": None, "source": None, "payload": {}, **fields}
    datum["event_id"] = datum.get("event_id") or NEW_ID
    if isinstance(datum["payload"], dict):
        datum["payload"] = json.dumps(datum["payload"])
    if isinstance(datum["value"], int) and not isinstance(datum["value"], bool):
        datum["value"] = float(datum["value"])
    return datum


@given(documents())
@example(
    Document({"event_type": "a", "timestamp": "0001-01-01T00:00:00+14:00", "user_id": "u"}, frozenset({"/timestamp"}))
)
def test_a_document_is_refused_exactly_for_the_rules_it_breaks(document):
    if not document.broken:
        event = from_json(document.body)
        assert event.timestamp == parse_timestamp(document.fields["timestamp"])
        assert event.event_id == (document.fields.get("event_id") or NEW_ID).lower()
        assert json.loads(event.payload) == document.fields.get("payload", {})
        return
    with pytest.raises(InvalidEventError) as refused:
        from_json(document.body)
    assert {error.path for error in refused.value.errors} == document.broken


@given(documents())
def test_what_is_accepted_is_a_datum_of_the_registered_schema(document):
    try:
        event = from_json(document.body)
    except InvalidEventError:
        return
    datum = as_avro_datum(document.fields) | {"timestamp": event.timestamp}
    assert fastavro.validate(datum, SCHEMA, strict=True)


@given(documents())
def test_what_avro_cannot_hold_is_refused(document):
    """fastavro as the judge of types: where it refuses a field's type, so do we."""
    datum = as_avro_datum(document.fields)
    if isinstance(datum.get("timestamp"), str):
        try:
            datum["timestamp"] = parse_timestamp(datum["timestamp"])
        except ValueError:
            datum["timestamp"] = "not a time"
    if fastavro.validate(datum, SCHEMA, strict=True, raise_errors=False):
        return
    with pytest.raises(InvalidEventError):
        from_json(document.body)


@given(documents())
def test_json_and_binary_fields_get_the_same_verdict(document):
    """The agents' way in from Avro and Protobuf (fields) against the way in from JSON."""
    fields = dict(document.fields)
    if "payload" in fields:
        fields["payload"] = json.dumps(fields["payload"])
    from_fields = verdict(lambda: event_from_fields(fields, RULES, NOW_MS, lambda: NEW_ID))
    assert from_fields == verdict(lambda: from_json(document.body))


@given(events())
def test_fastavro_reads_what_we_write_and_the_other_way_round(event):
    """Another Avro client with logical types sees the same event, and we see what it writes."""
    codec = AvroCodec()
    codec.add_schema(7, schemas.EVENT)
    ours = codec.encode_event(event, 7)
    theirs: Any = fastavro.schemaless_reader(io.BytesIO(ours[5:]), SCHEMA, None)
    assert theirs["event_id"] == uuid.UUID(event.event_id)
    assert isinstance(theirs["timestamp"], datetime)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, SCHEMA, theirs)
    assert out.getvalue() == ours[5:]
    assert codec.decode_event(b"\x00\x00\x00\x00\x07" + out.getvalue()) == event


@given(st.lists(documents(), min_size=1, max_size=4), st.sampled_from([BatchFormat.NDJSON, BatchFormat.JSON]))
def test_a_batch_has_for_each_document_the_verdict_that_it_has_alone(batch, format_):
    bodies = [document.body for document in batch]
    body = b"\n".join(bodies) if format_ is BatchFormat.NDJSON else b"[" + b",".join(bodies) + b"]"
    results = list(
        read_batch(body, format_, rules=RULES, now_ms=NOW_MS, new_event_id=lambda _: NEW_ID, max_records=len(bodies))
    )
    found = [{e.path for e in result.errors} if isinstance(result, InvalidEventError) else result for result in results]
    assert found == [verdict(partial(from_json, body)) for body in bodies]


@given(st.binary(max_size=300), st.sampled_from(Format))
def test_arbitrary_bytes_are_refused_as_malformed_or_invalid_and_never_crash(data, format_):
    codec = AvroCodec()
    codec.add_schema(7, schemas.EVENT)
    if format_ is Format.AVRO:
        data = b"\x00\x00\x00\x00\x07" + data
    try:
        event = read_event(data, format_, codec, rules=RULES, now_ms=NOW_MS, new_event_id=lambda: NEW_ID)
    except InvalidEventError as exc:
        refused = exc
    else:
        assert from_json(write_event(event, Format.JSON, codec, 7)) == event
        return
    assert refused.errors


@pytest.mark.parametrize(
    ("body", "path", "code"),
    [
        (b"", "", "malformed"),
        (b"\xef\xbb\xbf{}", "", "malformed"),
        (b'{"event_type":"a","timestamp":1,"user_id":"u","payload":{"a":"\xff"}}', "", "malformed"),
        (b'{"event_type":"a","timestamp":1,"user_id":"\\ud800"}', "", "malformed"),
        (b'{"event_type":"a","timestamp":1,"user_id":"u","value":1e999}', "/value", "invalid_type"),
        (b'{"event_type":"a","timestamp":1,"user_id":"u","value":NaN}', "", "malformed"),
        (b"[" * 100_000, "", "invalid_type"),
        (b'{"event_type":"a","timestamp":1,"user_id":"u","payload":{"a":' + b"[" * 63 + b"]" * 63 + b"}}", None, None),
        (
            b'{"event_type":"a","timestamp":1,"user_id":"u","payload":{"a":' + b"[" * 64 + b"]" * 64 + b"}}",
            "/payload",
            "too_deep",
        ),
        (b'{"event_type":"a","timestamp":1,"user_id":"u","payload":{"a":"' + b"[" * 99 + b'"}}', None, None),
        (
            b'{"event_type":"a","timestamp":1,"user_id":"u","payload":{"a":' + b"[" * 99_999 + b"]" * 99_999 + b"}}",
            "",
            "too_deep",
        ),
    ],
)
def test_the_edges_of_json(body, path, code):
    if path is None:
        assert from_json(body).event_type == "a"
        return
    with pytest.raises(InvalidEventError) as refused:
        from_json(body)
    assert [(error.path, error.code) for error in refused.value.errors] == [(path, code)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_cannot_say_are_refused_in_binary_formats_too(value):
    with pytest.raises(InvalidEventError) as refused:
        event_from_fields({"event_type": "a", "timestamp": 1, "user_id": "u", "value": value}, RULES, NOW_MS, str)
    assert [error.path for error in refused.value.errors] == ["/value"]


class OneTopic(TopicCatalog):
    """A catalog that knows every topic, without asking Kafka."""

    def __init__(self) -> None:
        pass

    async def require(
        self, name: str, *, certain: bool = False, since: float | None = None, create: bool = False
    ) -> str:
        return event_topic(name)


def publisher(codec: AvroCodec) -> Publisher:
    settings = Settings()
    made = Publisher(settings, codec, SchemaLoader(SchemaRegistry(settings), codec), clock_ms=lambda: NOW_MS)
    made.use_schema(7)
    return made


@given(documents())
def test_the_ingest_agent_gives_the_verdict_of_the_gateways_validator(document):
    """The gateway's own verdicts over HTTP are compared with the validator in test_web_bodies.py."""
    codec = AvroCodec()
    codec.add_schema(7, schemas.EVENT)
    record = Record(INGRESS, 0, 5, NOW_MS, None, document.body, (("event-topic", b"iot"),))

    def by_agent() -> Event:
        routed = asyncio.run(read_ingress(record, OneTopic(), publisher(codec)))
        event = codec.decode_event(routed.value or b"")
        assert (routed.topic, routed.key) == ("events.iot", event.key)
        return event if document.fields.get("event_id") else msgspec.structs.replace(event, event_id=NEW_ID)

    assert verdict(by_agent) == verdict(lambda: from_json(document.body))


@pytest.mark.parametrize("own", [True, False])
def test_a_cloudevent_of_ingress_goes_on_with_its_own_trace_or_its_records(own):
    traces = [f"00-{digit * 32}-{digit * 16}-01" for digit in "ab"]
    attributes = {"specversion": "1.0", "id": NEW_ID, "source": "/s", "type": "a", "subject": "d"}
    body = json.dumps(attributes | ({"traceparent": traces[0]} if own else {})).encode()
    headers = (
        ("event-topic", b"iot"),
        ("content-type", Format.CLOUDEVENTS.value.encode()),
        ("traceparent", traces[1].encode()),
    )
    codec = AvroCodec()
    codec.add_schema(7, schemas.EVENT)
    routed = asyncio.run(read_ingress(Record(INGRESS, 0, 5, NOW_MS, None, body, headers), OneTopic(), publisher(codec)))
    assert codec.decode_event(routed.value or b"").device_id == "d"
    assert ("traceparent", traces[0 if own else 1].encode()) in routed.headers
    assert ("content-type", Format.CLOUDEVENTS.value.encode()) in routed.headers
