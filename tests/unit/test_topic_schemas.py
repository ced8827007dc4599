"""What a topic's own schema must keep, what it asks of events, and how long it is known."""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import schemas
from streams.codecs import AvroCodec, frame, protobuf_fields, unframe
from streams.domain.avro_json import avro_type
from streams.domain.envelope import Event
from streams.domain.envelope_schema import SchemaKind
from streams.domain.errors import (
    FieldError,
    IncompatibleSchemaError,
    InvalidEventError,
    InvalidSchemaError,
    MalformedEventError,
    PlatformError,
    RegistryUnavailableError,
    UnavailableError,
)
from streams.domain.naming import INGRESS
from streams.intake import event_record
from streams.kafka.consumer import Record
from streams.publishing import Publisher
from streams.registry import RegisteredSchema, SchemaLoader, incompatibilities
from streams.schemas import event_pb2
from streams.settings import Settings
from streams.topic_schemas.avro import AvroDefinition
from streams.topic_schemas.json_schema import JsonDefinition
from streams.topic_schemas.protobuf import ProtobufDefinition
from streams.topic_schemas.store import TopicSchemas
from tests.strategies import NOW_MS, json_values
from tests.topic_schemas import JSON_SCHEMA, PROTO, typed_avro, with_payload
from tests.web_gateway import MemoryRegistry

ID = "00000000-0000-4000-8000-000000000000"


def event(payload: Any) -> Event:
    return Event(ID, "order.placed", NOW_MS, "u", payload=json.dumps(payload))


IMPORT = 'import "google/protobuf/{}.proto"; '
DEFAULTED = [{"name": "n", "type": "int", "default": 1}]


def refused(make, *arguments) -> set[str]:
    """The paths of what is wrong."""
    try:
        make(*arguments)
    except (InvalidSchemaError, InvalidEventError) as exc:
        return {error.path for error in exc.errors}
    raise AssertionError("nothing is wrong")


def changed(change) -> str:
    """The schema `Event`, and what a test does to its fields by name."""
    schema = json.loads(schemas.EVENT)
    fields = {field["name"]: field for field in schema["fields"]}
    change(fields)
    return json.dumps(schema | {"fields": list(fields.values())})


class TestAvroEnvelope:
    def test_our_own_schema_has_it_in_any_order_and_under_any_name(self):
        AvroDefinition(schemas.EVENT)
        schema = json.loads(typed_avro())
        schema["fields"].reverse()
        body = AvroDefinition(json.dumps(schema | {"doc": "mine"})).body(event({"order": "o", "lines": []}))
        codec = AvroCodec()
        codec.add_schema(5, json.dumps(schema))
        assert codec.decode_event(frame(5, body)).event_id == ID

    @pytest.mark.parametrize("name", [field["name"] for field in json.loads(schemas.EVENT)["fields"]])
    def test_each_field_is_required_and_has_its_type(self, name):
        assert refused(AvroDefinition, changed(lambda fields: fields.pop(name))) == {f"/{name}"}
        assert refused(
            AvroDefinition, changed(lambda fields: fields.update({name: {"name": name, "type": "int"}}))
        ) == {f"/{name}"}

    @pytest.mark.parametrize(
        ("name", "type_"),
        [
            ("timestamp", {"type": "long", "logicalType": "timestamp-micros"}),
            ("user_id", ["string", "null"]),
            ("user_id", "string"),
            ("value", ["null", "float"]),
            ("event_id", {"type": "fixed", "name": "Uuid", "size": 16}),
            ("payload", ["null", "string"]),
            ("payload", {"type": "map", "values": "string"}),
        ],
    )
    def test_a_type_that_is_nearly_right_is_refused(self, name, type_):
        text = changed(lambda fields: fields.update({name: {"name": name, "type": type_}}))
        assert refused(AvroDefinition, text) == {f"/{name}"}

    def test_a_field_beside_the_envelope_is_refused(self):
        text = changed(lambda fields: fields.update(colour={"name": "colour", "type": "string", "default": ""}))
        assert refused(AvroDefinition, text) == {"/colour"}

    @pytest.mark.parametrize("text", ["", "{", "{}", "[]", '"string"', "7", "null", '{"type": "recrd"}', "[" * 10_000])
    def test_what_is_no_record_is_refused(self, text):
        assert refused(AvroDefinition, text) == {""}

    @pytest.mark.parametrize(
        "field",
        [
            {"type": {"type": "array", "items": "null"}},
            {"type": ["null", "Order"]},
            {"type": {"type": "array", "items": {"type": "record", "name": "Empty", "fields": []}}},
            {"type": {"type": "fixed", "name": "Nothing", "size": 0}},
            {"type": ["null", "shop.Placed"]},
            {"type": {"type": "record", "name": "Odd", "fields": [{"name": ["a"], "type": "int"}]}},
        ],
    )
    def test_types_that_a_stranger_s_bytes_could_blow_up_are_refused(self, field):
        assert refused(AvroDefinition, typed_avro({"name": "more"} | field)) == {"/payload"}

    def test_a_name_that_is_no_text_is_refused(self):
        assert "/['payload']" in refused(AvroDefinition, changed(lambda f: f["payload"].update(name=["payload"])))

    @pytest.mark.parametrize(
        ("type_", "default"),
        [
            ({"type": "enum", "name": "E", "symbols": ["A"]}, "B"),
            ({"type": "fixed", "name": "F", "size": 2}, "a"),
            ("int", 2**31),
            ("double", "NaN"),
            ("Line", {"sku": "a"}),
            (["null", "Line"], {}),
            ({"type": "array", "items": "int"}, [2**31]),
            ({"type": "map", "values": "int"}, {"a": 2**31}),
            ("string", "a" * 100_000),
        ],
    )
    def test_a_default_that_no_event_could_be_written_with_is_refused(self, type_, default):
        more = {"name": "more", "type": type_, "default": default}
        assert refused(AvroDefinition, typed_avro(more)) == {"/payload"}

    def test_defaults_that_double_each_time_are_refused(self):
        type_: Any = "int"
        for level in range(40):
            fields = [{"name": "a", "type": type_, "default": {} if level else 1}]
            fields.append(fields[0] | {"name": "b", "type": f"N{level - 1}" if level else "int"})
            type_ = {"type": "record", "name": f"N{level}", "fields": fields}
        assert refused(AvroDefinition, with_payload(type_)) == {"/payload"}


class TestAvroPayload:
    def test_defaults_are_written_whole_wherever_their_types_are_named(self):
        inner = {"type": "record", "name": "In", "fields": [{"name": "b", "type": "bytes"}, *DEFAULTED]}
        fields = [
            {"name": "first", "type": inner, "default": {"b": "\u00ff"}},
            {"name": "second", "type": "In", "default": {"b": "\u00fe", "n": 2}},
            {"name": "third", "type": ["null", "In"], "default": {"b": ""}},
            {"name": "fourth", "type": {"type": "map", "values": "In"}, "default": {"k": {"b": "a"}}},
        ]
        text = with_payload({"type": "record", "name": "P", "fields": fields})
        codec = AvroCodec()
        codec.add_schema(5, text)
        stored = codec.decode_event(frame(5, AvroDefinition(text).body(event({}))))
        assert json.loads(stored.payload) == {
            "first": {"b": "/w==", "n": 1},
            "second": {"b": "/g==", "n": 2},
            "third": {"b": "", "n": 1},
            "fourth": {"k": {"b": "YQ==", "n": 1}},
        }

    def test_a_small_body_is_not_filled_with_defaults_to_a_huge_one(self):
        line = {"type": "record", "name": "L", "fields": [f | {"name": f"f{n}"} for n in range(100) for f in DEFAULTED]}
        fields = [{"name": "lines", "type": {"type": "array", "items": line}}]
        definition = AvroDefinition(with_payload({"type": "record", "name": "P", "fields": fields}))
        definition.check(event({"lines": [{}] * 5_000}))
        assert refused(definition.check, event({"lines": [{}] * 300_000})) == {"/payload"}

    @pytest.mark.parametrize(
        ("payload", "wrong"),
        [
            ({"order": "o", "lines": []}, set()),
            ({"order": "o", "lines": [{"sku": "a", "count": 1}], "note": "n"}, set()),
            ({}, {"/payload/order", "/payload/lines"}),
            ({"order": None, "lines": {}}, {"/payload/order", "/payload/lines"}),
            ({"order": "o", "lines": [], "x/y~z": 1}, {"/payload/x~1y~0z"}),
            (
                {"order": "o", "lines": [{"sku": "a", "count": True}, {"count": 2**31}]},
                {"/payload/lines/0/count", "/payload/lines/1/count", "/payload/lines/1/sku"},
            ),
            ({"order": "o", "lines": [], "note": 7}, {"/payload/note"}),
        ],
    )
    def test_everything_that_is_wrong_is_told_with_its_place(self, payload, wrong):
        definition = AvroDefinition(typed_avro())
        if wrong:
            assert refused(definition.check, event(payload)) == wrong
            assert refused(definition.body, event(payload)) == wrong
        else:
            definition.check(event(payload))

    def test_a_text_that_no_reader_could_have_is_refused_and_is_no_error_of_ours(self):
        broken = msgspec.structs.replace(event({}), payload='{"order": "\\ud800", "lines": []}')
        for definition in (
            AvroDefinition(typed_avro()),
            JsonDefinition(json.dumps(JSON_SCHEMA)),
            ProtobufDefinition(PROTO),
        ):
            assert refused(definition.check, broken) == {"/payload"}

    def test_of_several_records_it_is_the_one_whose_fields_the_object_has(self):
        records = [
            {"type": "record", "name": name, "fields": [{"name": name.lower(), "type": "long"}]} for name in ("A", "B")
        ]
        codec = AvroCodec()
        text = with_payload({"type": "record", "name": "P", "fields": [{"name": "any", "type": ["null", *records]}]})
        codec.add_schema(5, text)
        definition = AvroDefinition(text)
        for value in ({"a": 1}, {"b": 2}, None):
            stored = codec.decode_event(frame(5, definition.body(event({"any": value}))))
            assert json.loads(stored.payload) == {"any": value}
        assert refused(definition.check, event({"any": {"c": 1}})) == {"/payload/any"}


@pytest.mark.parametrize(
    ("union", "value"),
    [(["float", "int"], 2**24 + 1), (["float", "double"], 0.1), (["null", "double", "long"], 2**53 + 1)],
)
def test_of_several_numbers_it_is_the_one_that_holds_the_value(union, value):
    errors: list[FieldError] = []
    out = io.BytesIO()
    fastavro.schemaless_writer(out, union, avro_type(union).convert(value, "", errors))
    assert errors == []
    assert fastavro.schemaless_reader(io.BytesIO(out.getvalue()), union, None) == value


primitives = st.sampled_from(["boolean", "int", "long", "float", "double", "string", "bytes"])


@st.composite
def avro_schemas(draw: st.DrawFn) -> Any:
    """A type that our rules allow, with names of its own."""
    names = (f"N{number}" for number in range(1_000))

    def one(depth: int) -> Any:
        kind = draw(
            st.sampled_from(["primitive", "enum", "fixed", "array", "map", "union", "record"][: 7 if depth else 3])
        )
        match kind:
            case "enum":
                return {"type": "enum", "name": next(names), "symbols": ["A", "B"]}
            case "fixed":
                return {"type": "fixed", "name": next(names), "size": draw(st.integers(1, 4))}
            case "array":
                return {"type": "array", "items": one(depth - 1)}
            case "map":
                return {"type": "map", "values": one(depth - 1)}
            case "union":
                return ["null", *draw(st.lists(primitives, min_size=1, max_size=3, unique=True))]
            case "record":
                fields = [{"name": f"f{number}", "type": one(depth - 1)} for number in range(draw(st.integers(1, 3)))]
                return {"type": "record", "name": next(names), "fields": fields}
            case _:
                return draw(primitives)

    return one(3)


def base64(size: int, most: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=size, max_size=most).map(lambda data: json.loads(msgspec.json.encode(data)))


FITTING = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "string": st.text(max_size=5),
    "bytes": base64(0, 5),
}


def fitting(schema: Any) -> st.SearchStrategy[Any]:
    """JSON that a type takes."""
    if isinstance(schema, list):
        return st.one_of([fitting(branch) for branch in schema])
    if isinstance(schema, str):
        return FITTING[schema]
    match schema["type"]:
        case "fixed":
            return base64(schema["size"], schema["size"])
        case "enum":
            return st.sampled_from(schema["symbols"])
        case "array":
            return st.lists(fitting(schema["items"]), max_size=3)
        case "map":
            return st.dictionaries(st.text(max_size=3), fitting(schema["values"]), max_size=3)
        case _:
            return st.fixed_dictionaries({field["name"]: fitting(field["type"]) for field in schema["fields"]})


@given(st.data())
def test_json_that_fits_comes_back_from_avro_as_it_went_in(data):
    schema = data.draw(avro_schemas())
    value = data.draw(fitting(schema))
    parsed = fastavro.parse_schema(schema)
    errors: list[FieldError] = []
    datum = avro_type(parsed).convert(value, "", errors)
    assert errors == []
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parsed, datum)
    back = json.loads(msgspec.json.encode(fastavro.schemaless_reader(io.BytesIO(out.getvalue()), parsed, None)))
    if not isinstance(schema, list):
        # Of a union's branches several may fit: 1 is an int and a double. What is chosen is equal, if not the same.
        assert back == value


@given(st.data())
def test_what_is_taken_is_what_fastavro_calls_valid(data):
    """Bytes apart, which are no JSON."""
    schema = data.draw(
        avro_schemas().filter(lambda s: '"bytes"' not in json.dumps(s) and '"fixed"' not in json.dumps(s))
    )
    value = data.draw(fitting(schema) | json_values)
    parsed = fastavro.parse_schema(schema)
    errors: list[FieldError] = []
    avro_type(parsed).convert(value, "", errors)
    valid = fastavro.validation.validate(value, parsed, raise_errors=False, strict=True)
    # A number that single precision cannot have is valid to fastavro, and then cannot be written.
    if '"float"' not in json.dumps(schema):
        assert (errors == []) == valid
    elif errors == []:
        assert valid


class TestJsonSchema:
    def test_fields_that_are_stricter_are_checked_as_well(self):
        schema = json.loads(json.dumps(JSON_SCHEMA))
        schema["properties"]["event_type"] = {"type": "string", "enum": ["order.placed"]}
        schema["required"] = ["device_id"]
        definition = JsonDefinition(json.dumps(schema))
        wrong = msgspec.structs.replace(event({"order": 1}), event_type="other")
        assert refused(definition.check, wrong) == {"", "/event_type", "/payload/order"}
        definition.check(msgspec.structs.replace(event({"order": "o"}), device_id="d"))

    def test_of_a_large_payload_the_first_error_is_told_in_few_words(self):
        lines = {"type": "array", "items": {"type": "string"}}
        properties = JSON_SCHEMA["properties"] | {"payload": {"type": "object", "properties": {"a": lines, "b": lines}}}
        definition = JsonDefinition(json.dumps(JSON_SCHEMA | {"properties": properties}))
        assert refused(definition.check, event({"a": [1, "x", 2]})) == {"/payload/a/0", "/payload/a/2"}
        # Of each error the validator makes a copy of what is wrong, all before the first is had.
        assert refused(definition.check, event({"a": [1] * 100_000})) == {"/payload/a/0"}
        with pytest.raises(InvalidEventError) as caught:
            definition.check(event({"b": "x" * 900_000}))
        [error] = caught.value.errors
        assert (error.path, len(error.message) < 1_000) == ("/payload/b", True)

    @pytest.mark.parametrize("name", JSON_SCHEMA["properties"])
    def test_each_property_is_required_and_allows_what_the_platform_has(self, name):
        for properties in ({name: {"type": "null"}}, {name: {}}):
            text = json.dumps(JSON_SCHEMA | {"properties": JSON_SCHEMA["properties"] | properties})
            assert refused(JsonDefinition, text) == {f"/{name}"}
        fewer = {key: value for key, value in JSON_SCHEMA["properties"].items() if key != name}
        assert refused(JsonDefinition, json.dumps(JSON_SCHEMA | {"properties": fewer})) == {f"/{name}"}

    def test_a_reference_within_the_schema_is_followed_and_one_without_end_is_not(self):
        for target, is_good in (({"type": "object"}, True), ({"$ref": "#/definitions/p"}, False)):
            properties = JSON_SCHEMA["properties"] | {"payload": {"$ref": "#/definitions/p"}}
            text = json.dumps(JSON_SCHEMA | {"properties": properties, "definitions": {"p": target}})
            if is_good:
                JsonDefinition(text)
            else:
                assert refused(JsonDefinition, text) <= {"", "/payload"}

    async def test_no_other_document_is_asked_for(self):
        asked = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readline())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/schema"
        async with server:
            properties = JSON_SCHEMA["properties"] | {"payload": {"type": "object", "allOf": [{"$ref": url}]}}
            text = json.dumps(JSON_SCHEMA | {"properties": properties})
            assert await asyncio.to_thread(refused, JsonDefinition, text) == {""}
        assert asked == []

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "7", "true", "{}", '{"type": "object", "properties": 7}', "[" * 10_000]
    )
    def test_what_is_no_object_is_refused(self, text):
        assert refused(JsonDefinition, text) == {""}

    def test_a_draft_that_the_registry_cannot_compare_is_refused(self):
        text = json.dumps(JSON_SCHEMA | {"$schema": "https://json-schema.org/draft/2020-12/schema"})
        assert refused(JsonDefinition, text) == {"/$schema"}


class TestProtobuf:
    def test_a_message_of_its_own_is_read_and_its_payload_is_json(self):
        definition = ProtobufDefinition(PROTO)
        message: Any = definition._message(event_type="a", timestamp=5)
        message.payload.order, message.payload.count = "ö", 7
        assert definition.fields(message.SerializeToString()) == {
            "event_type": "a",
            "timestamp": 5,
            "payload": '{"order": "ö", "count": 7}',
        }
        with pytest.raises(MalformedEventError):
            definition.fields(b"\xff\xff")

    def test_json_is_checked_as_protobuf_has_it(self):
        definition = ProtobufDefinition(PROTO)
        definition.check(event({"order": "o", "count": "7"}))
        for payload in ({"order": 7}, {"x": 1}, {"count": 2**31}):
            assert refused(definition.check, event(payload)) == {"/payload"}

    def test_a_field_that_no_message_of_ours_has_is_not_dropped_in_silence(self):
        known = event_pb2.Event(event_type="a", timestamp=5).SerializeToString()
        assert protobuf_fields(known) == {"event_type": "a", "timestamp": 5}
        for unknown in (b"\x4a\x01x", b"\x48\x00", b"\xf8\x07\x01"):
            assert refused(protobuf_fields, known + unknown) == {""}

    def test_what_protobuf_s_json_stumbles_over_is_the_event_s_fault(self):
        text = PROTO.replace("package shop;", "package shop; " + "".join(map(IMPORT.format, ("any", "struct"))))
        fields = "optional string order = 1; google.protobuf.Any any = 3; google.protobuf.Struct struct = 4;"
        definition = ProtobufDefinition(text.replace("optional string order = 1;", fields))
        for broken in ('{"any": {"@type": 5}}', '{"struct": {"n": 1' + "0" * 390 + "}}"):
            assert refused(definition.check, msgspec.structs.replace(event({}), payload=broken)) == {"/payload"}
        newer: Any = ProtobufDefinition(PROTO.replace("count = 2;", "count = 2; optional string x = 3;"))._message()
        newer.payload.x = "lost?"
        assert refused(ProtobufDefinition(PROTO).fields, newer.SerializeToString()) == {""}
        message: Any = definition._message()
        for _ in range(400):
            inner = message.payload.SerializeToString()
            message.payload.any.type_url, message.payload.any.value = "type.googleapis.com/shop.Order", inner
        with pytest.raises(MalformedEventError):
            definition.fields(message.SerializeToString())

    @pytest.mark.parametrize(
        ("old", "new", "wrong"),
        [
            ("optional string source = 7;", "", {"/source"}),
            ("optional string source = 7;", "optional string source = 9;", {"/source"}),
            ("optional int64 timestamp", "optional int32 timestamp", {"/timestamp"}),
            ("optional string user_id", "repeated string user_id", {"/user_id"}),
            ("Order payload = 8", "map<string, Order> payload = 8", {"/payload"}),
            ("Order payload = 8;", "Order payload = 8; string colour = 9;", {"/colour"}),
            ("Order payload = 8", "optional string payload = 8", set()),
            ("syntax = ", "syntx = ", {""}),
            ("package shop;", 'package shop; import "/etc/hosts";', {""}),
            ("package shop;", 'package shop; import "../../x.proto";', {""}),
            ("package shop;", 'package shop; import "google/protobuf/timestamp.proto";', set()),
        ],
    )
    def test_the_envelope_is_compared_by_number_and_type_and_nothing_of_ours_is_imported(self, old, new, wrong):
        text = PROTO.replace(old, new)
        assert text != PROTO
        if wrong:
            assert refused(ProtobufDefinition, text) == wrong
        else:
            ProtobufDefinition(text)


class Registry(MemoryRegistry):
    """The platform's registry of memory, which has nothing yet."""

    def __init__(self) -> None:
        super().__init__()
        self.registered.clear()


class Store:
    """A store on a registry of memory, whose clock a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.registry = Registry()
        self.codec = AvroCodec()
        self.schemas = TopicSchemas(self.registry, self.codec, max_age_s=30, clock=lambda: self.now)
        self.publisher = Publisher(Settings(), self.codec, SchemaLoader(self.registry, self.codec), self.schemas)

    async def looked(self) -> None:
        """Wait for what is looked up in the background."""
        await asyncio.gather(*self.schemas._looking.values(), return_exceptions=True)


class TestStore:
    async def test_many_who_ask_at_once_ask_the_registry_once(self):
        store = Store()
        await asyncio.gather(*(store.publisher.prepare("events.a") for _ in range(100)))
        assert store.registry.calls.count("register events.a-value") == 1
        asked = len(store.registry.calls)
        await store.publisher.prepare("events.a")
        assert len(store.registry.calls) == asked

    async def test_a_caller_that_gives_up_takes_it_from_nobody_else(self):
        store = Store()
        first, second = (asyncio.create_task(store.publisher.prepare("events.a")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert store.publisher.value("events.a", event({}))

    async def test_without_preparation_nothing_is_written_by_a_guess(self):
        with pytest.raises(UnavailableError):
            Store().publisher.value("events.a", event({}))

    async def test_an_old_schema_is_looked_up_again_beside_the_caller_and_stays_while_the_registry_is_away(self):
        store = Store()
        await store.publisher.prepare("events.a")
        store.registry.registered["events.a-json"] = [RegisteredSchema(SchemaKind.JSON, 1, 50, json.dumps(JSON_SCHEMA))]
        store.registry.fails = RegistryUnavailableError("away")
        for store.now in (29.0, 31.0, 62.0):
            await store.publisher.prepare("events.a")
            await store.looked()
            store.publisher.check("events.a", event({}))
        store.registry.fails = None
        store.now = 93.0
        await store.publisher.prepare("events.a")
        await store.looked()
        assert refused(store.publisher.check, "events.a", event({})) == {"/payload"}

    async def test_an_event_that_an_old_schema_refuses_has_it_looked_up_again(self):
        store = Store()
        await store.schemas.register("events.a", SchemaKind.AVRO, typed_avro())
        more = {"name": "currency", "type": "string", "default": "EUR"}
        newer = RegisteredSchema(SchemaKind.AVRO, 2, 51, typed_avro(more))
        store.registry.registered["events.a-value"].append(newer)
        new = {"order": "o", "lines": [], "currency": "CHF"}
        value = json.dumps({"event_type": "a", "timestamp": NOW_MS, "user_id": "u", "payload": new}).encode()
        record = Record(INGRESS, 0, 0, NOW_MS, None, value, ())
        # Whoever looks into every refusal asks the registry for each bad event.
        with pytest.raises(InvalidEventError):
            await event_record(record, "events.a", store.publisher)
        store.now = 2.0
        # By the agent, which buries what is refused for good; the gateway's next event finds the new one.
        made = await event_record(record, "events.a", store.publisher)
        assert made.value is not None
        assert unframe(made.value)[0] == 51
        store.registry.fails = RegistryUnavailableError("away")
        store.now = 4.0
        assert refused(store.publisher.value, "events.a", event({"order": 1})) >= {"/payload/order"}
        assert not await store.publisher.renewed("events.a")

    async def test_a_topic_has_schemas_of_one_kind(self):
        store = Store()
        await store.schemas.register("events.a", SchemaKind.JSON, json.dumps(JSON_SCHEMA))
        for kind, text in ((SchemaKind.PROTOBUF, PROTO), (SchemaKind.AVRO, typed_avro())):
            with pytest.raises(IncompatibleSchemaError) as caught:
                await store.schemas.register("events.a", kind, text)
            assert caught.value.reasons == ("the topic has a schema in JSON: so must be its next version",)
        assert set(store.registry.registered) == {"events.a-json", "events.a-value"}

    async def test_a_look_up_that_began_before_a_new_version_neither_fails_nor_brings_the_old_one_back(self):
        store = Store()
        held = asyncio.Event()
        quick = store.registry.version

        async def slow(subject: str, version: int | None = None) -> RegisteredSchema | None:
            found = await quick(subject, version)
            await held.wait()
            return found

        await store.publisher.prepare("events.a")
        store.now = 31.0
        store.registry.version = slow  # type: ignore[method-assign]
        await store.publisher.prepare("events.a")
        [old] = store.schemas._looking.values()
        await asyncio.sleep(0.01)
        store.registry.version = quick  # type: ignore[method-assign]
        await store.schemas.register("events.a", SchemaKind.JSON, json.dumps(JSON_SCHEMA))
        held.set()
        await old
        assert refused(store.publisher.check, "events.a", event({})) == {"/payload"}

    async def test_what_is_no_schema_reaches_no_registry(self):
        store = Store()
        for kind in SchemaKind:
            with pytest.raises(InvalidSchemaError):
                await store.schemas.register("events.a", kind, "{")
        assert store.registry.calls == []

    async def test_a_schema_that_came_past_us_and_cannot_be_used_makes_its_events_wait(self):
        store = Store()
        text = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}'
        store.registry.registered["events.a-value"] = [RegisteredSchema(SchemaKind.AVRO, 1, 9, text)]
        with pytest.raises(PlatformError) as caught:
            await store.publisher.prepare("events.a")
        assert caught.value.retriable
        assert "version 1" in str(caught.value)

    async def test_events_are_written_with_the_schema_of_their_topic(self):
        store = Store()
        registered = await store.schemas.register("events.typed", SchemaKind.AVRO, typed_avro())
        await store.publisher.prepare("events.plain")
        payload = {"order": "o", "lines": [], "note": None}
        typed = store.publisher.value("events.typed", event(payload))
        assert typed[:5] == frame(registered.id, b"")
        assert json.loads(store.codec.decode_event(typed).payload) == payload
        plain = store.publisher.value("events.plain", event(payload))
        assert plain == store.codec.encode_event(event(payload), store.registry.registered["events.plain-value"][0].id)


@pytest.mark.parametrize(
    ("message", "reasons"),
    [
        (
            (
                "io.apicurio.registry.rules.violation.RuleViolationException: Incompatible artifact: events.j-json [JSON], "
                "num of incompatible diffs: {2}, list of diff types: [Subschema type changed at /properties/a, "
                "A new required property was added at /required]"
            ),
            ["Subschema type changed at /properties/a", "A new required property was added at /required"],
        ),
        (
            "a.b.C: list of diff types: [Field type changed, message E , before: string , after int32 at /E]",
            ["Field type changed, message E , before: string , after int32 at /E"],
        ),
        ("Schema being registered is incompatible", ["Schema being registered is incompatible"]),
        ("", [""]),
    ],
)
def test_reasons_of_a_registry_are_told_one_by_one_where_they_can_be(message, reasons):
    assert incompatibilities(message) == reasons


@pytest.mark.parametrize(
    "message", ["x list of diff types: [" + "a at /b c " * 5_000 + "x]", "list of diff types: [" * 5_000]
)
def test_what_a_registry_says_is_taken_apart_in_one_go(message):
    """It has names in it that clients choose; two regular expressions took half a minute for these."""
    began = time.process_time()
    assert incompatibilities(message) == [message]
    assert time.process_time() - began < 1
