"""Whatever bytes come in whatever format: an event that keeps the rules, or an error of ours, and nothing else."""

from __future__ import annotations

import io
import json

import fastavro
import msgspec
import pytest
from hypothesis import given, settings
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
    write_event,
)
from streams.domain.envelope import Event
from streams.domain.errors import InvalidEventError, TooManyRecordsError
from streams.domain.validation import EventRules, event_from_json
from tests.strategies import NOW_MS, events, json_values

RULES = EventRules()
NEW_ID = "00000000-0000-7000-8000-000000000000"
MAX_RECORDS = 20

CODEC = AvroCodec()
CODEC.add_schema(7, schemas.EVENT)
# A topic's own: laid out otherwise, so that it is read by fastavro.
RICHER = json.loads(schemas.EVENT)
RICHER["fields"].insert(0, {"name": "tags", "type": {"type": "array", "items": ["null", "double", "string"]}})
CODEC.add_schema(8, json.dumps(RICHER))

small = st.lists(events(), min_size=1, max_size=3)


def keeps_the_rules(event: Event) -> bool:
    """Whether the one validator takes it as it is, and it can be stored."""
    again = event_from_json(write_event(event, Format.JSON, CODEC, 7), RULES, NOW_MS, lambda: "another")
    return again == event == CODEC.decode_event(CODEC.encode_event(event, 7))


def check_one(data: bytes, format_: Format) -> None:
    try:
        event = read_event(data, format_, CODEC, rules=RULES, now_ms=NOW_MS, new_event_id=lambda: NEW_ID)
    except InvalidEventError as exc:
        refused = exc
    except SchemaNeededError:
        assert format_ is Format.AVRO
        return
    else:
        assert keeps_the_rules(event)
        return
    assert refused.errors
    assert all(error.message and error.code for error in refused.errors)


def check_batch(body: bytes, format_: BatchFormat) -> None:
    try:
        results = list(
            read_batch(
                body,
                format_,
                rules=RULES,
                now_ms=NOW_MS,
                new_event_id=lambda _: NEW_ID,
                max_records=MAX_RECORDS,
                max_inflated_bytes=100_000,
            )
        )
    except (InvalidEventError, TooManyRecordsError):
        return
    assert 1 <= len(results) <= MAX_RECORDS + 1
    for result in results:
        assert result.errors if isinstance(result, InvalidEventError) else keeps_the_rules(result)


def container(batch: list[Event], codec: str) -> bytes:
    if codec == "ours":
        return events_to_avro_container(batch)
    out = io.BytesIO()
    records = [msgspec.structs.asdict(event) for event in batch]
    fastavro.writer(out, fastavro.parse_schema(json.loads(schemas.EVENT)), records, codec=codec, sync_interval=1)
    return out.getvalue()


# What a text is damaged with, that bytes by chance would hardly be.
WORDS = [b"7", b"null", b'"', b"{", b"}", b"[", b",", rb"\ud800", b"1e999", b"9" * 500, b'"id":7,', b'"value":"x",',
         b'"payload":[],', b'"data_base64":"e30=",', b"\xef\xbb\xbf", b"[" * 5_000]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Valid bytes, of which some were overwritten, cut out or put in."""
    body = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3) | st.sampled_from(WORDS))
    return bytes(body)


@given(st.binary(max_size=300), st.sampled_from(Format), st.sampled_from([7, 8, None]))
def test_arbitrary_bytes_alone(data, format_, schema_id):
    if format_ is Format.AVRO and schema_id is not None:
        data = frame(schema_id, data)
    check_one(data, format_)


@given(events(), st.sampled_from(Format), st.data())
def test_damaged_events_alone(event, format_, data):
    check_one(data.draw(damaged(write_event(event, format_, CODEC, 7))), format_)


@given(events(), st.data())
def test_damaged_events_of_a_topics_own_schema(event, data):
    out = io.BytesIO()
    record = {**msgspec.structs.asdict(event), "tags": [None, 1.5, "x"]}
    fastavro.schemaless_writer(out, fastavro.parse_schema(RICHER), record)
    check_one(frame(8, data.draw(damaged(out.getvalue()))), Format.AVRO)


ATTRIBUTES = ["specversion", "id", "source", "type", "time", "subject", "userid", "deviceid", "partitionkey", "value",
              "data", "data_base64", "datacontenttype", "other"]  # fmt: skip
# Of any kind, or of the usual one: otherwise it would mostly be the kind that is refused.
any_attribute = json_values | st.text(max_size=8) | st.sampled_from(["e30=", "text/json", "2025-01-01T00:00:00Z"])


@given(st.dictionaries(st.sampled_from(ATTRIBUTES), any_attribute, max_size=3))
def test_cloudevents_of_any_values(attributes):
    valid = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a", "subject": "d"}
    check_one(json.dumps(valid | attributes).encode(), Format.CLOUDEVENTS)


@given(st.dictionaries(st.sampled_from(["specversion", "id", "source", "type", "time", "subject", "userid", "value"]),
       st.text(max_size=20) | st.sampled_from(["1.0", "a", "%", "%ff", '"a\\"', "caf\udce9"])), st.binary(max_size=20), st.text())  # fmt: skip
def test_cloudevents_of_any_headers_and_body(attributes, body, content_type):
    headers = {f"ce-{name}": value for name, value in attributes.items()}
    try:
        found = cloudevents.header_attributes(headers.items())
        event = cloudevents.binary(found, body, content_type, rules=RULES, now_ms=NOW_MS, new_event_id=lambda: NEW_ID)
    except InvalidEventError as exc:
        refused = exc
    else:
        assert keeps_the_rules(event)
        return
    assert refused.errors


@given(st.binary(max_size=300), st.sampled_from(BatchFormat), st.sampled_from([b"", b"[", b"Obj\x01"]))
def test_arbitrary_bytes_as_a_batch(body, format_, head):
    check_batch(head + body, format_)


@given(small, st.sampled_from([BatchFormat.NDJSON, BatchFormat.JSON, BatchFormat.CLOUDEVENTS]), st.data())
def test_damaged_batches(batch, format_, data):
    one = Format.CLOUDEVENTS if format_ is BatchFormat.CLOUDEVENTS else Format.JSON
    between = b"\n" if format_ is BatchFormat.NDJSON else b","
    body = between.join(write_event(event, one, CODEC, 7) for event in batch)
    body = body if format_ is BatchFormat.NDJSON else b"[" + body + b"]"
    check_batch(data.draw(damaged(body)), format_)


@pytest.mark.parametrize("codec", ["ours", "null", "deflate", "snappy", "zstandard"])
@settings(max_examples=40)
@given(batch=small, data=st.data())
def test_damaged_avro_files(codec, batch, data):
    whole = container(batch, codec)
    # The schema is most of a file: half of the damage is done behind it.
    start = data.draw(st.sampled_from([0, whole.index(b"avro.codec")]))
    check_batch(whole[:start] + data.draw(damaged(whole[start:])), BatchFormat.AVRO)


@given(st.binary(max_size=200), st.sampled_from([b"null", b"deflate", b"snappy", b"zstandard"]), st.integers(-2, 30))
def test_arbitrary_bytes_in_the_block_of_an_avro_file(block, codec, count):
    out = io.BytesIO()
    out.write(b"Obj\x01")
    metadata = {"avro.schema": json.dumps(RICHER).encode(), "avro.codec": codec}
    fastavro.schemaless_writer(out, fastavro.parse_schema({"type": "map", "values": "bytes"}), metadata)
    out.write(bytes(16))
    fastavro.schemaless_writer(out, fastavro.parse_schema("long"), count)
    fastavro.schemaless_writer(out, fastavro.parse_schema("bytes"), block)
    check_batch(out.getvalue() + bytes(16), BatchFormat.AVRO)


types = st.recursive(
    st.sampled_from(["null", "int", "string", "R", "Event", "nonsense", 7]),
    lambda inner: st.lists(inner, max_size=3)
    | st.builds(lambda items: {"type": "array", "items": items}, inner)
    | st.builds(lambda values: {"type": "map", "values": values}, inner)
    | st.builds(lambda size: {"type": "fixed", "name": "F", "size": size}, st.integers(-1, 3) | st.none())
    | st.builds(lambda type_: {"type": type_}, inner)
    | st.builds(lambda fields: {"type": "record", "name": "R", "fields": [{"name": f"f{n}", "type": f} for n, f in enumerate(fields)]},
                st.lists(inner, max_size=3)),
    max_leaves=8,
)  # fmt: skip


@given(types, st.binary(max_size=60))
def test_any_schema_in_an_avro_file(type_, block):
    schema = RICHER | {"fields": [{"name": "first", "type": type_}, *RICHER["fields"]]}
    out = io.BytesIO()
    out.write(b"Obj\x01")
    metadata = {"avro.schema": json.dumps(schema).encode()}
    fastavro.schemaless_writer(out, fastavro.parse_schema({"type": "map", "values": "bytes"}), metadata)
    out.write(bytes(16) + b"\x02" + bytes([2 * len(block)]) + block + bytes(16))
    check_batch(out.getvalue(), BatchFormat.AVRO)
