"""Bytes to events and back: JSON, Protobuf and CloudEvents at the edge, Avro in Confluent's wire format inside.

Pure: a writer schema that is not known yet is asked for by raising `SchemaNeededError`; whoever can
reach the registry loads it and calls again.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

import fastavro
import msgspec
from fastavro.schema import parse_schema
from google.protobuf.message import DecodeError, Message

from streams import avro_event, cloudevents, schemas
from streams.domain.aggregates import AggregatedEvent
from streams.domain.avro_bounds import check_bounded
from streams.domain.dead_letters import DeadLetter
from streams.domain.envelope import Event
from streams.domain.errors import FieldError, InvalidEventError, MalformedEventError, UnsupportedFormatError
from streams.domain.headers import media_type
from streams.domain.validation import EventRules, event_from_fields, event_from_json
from streams.schemas import event_pb2

Schema = Any
"""A schema as fastavro parses it."""

T = TypeVar("T")

_HEADER: Final = struct.Struct(">bI")
HEADER_BYTES: Final = _HEADER.size
_DIGITS: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
# The registry's ids are Java's int, though the wire has room for more.
_MAX_SCHEMA_ID: Final = 2**31 - 1

_PAYLOAD: Final = "payload"
_WHITESPACE: Final = b" \t\r\n"
_CONTROL: Final = re.compile(rb"[^\t\r\n -\xff]")


class Format(StrEnum):
    """The formats an event may come and go in, by content type."""

    JSON = "application/json"
    AVRO = "application/avro"
    PROTOBUF = "application/x-protobuf"
    CLOUDEVENTS = "application/cloudevents+json"

    @classmethod
    def of(cls, content_type: str) -> Format:
        """The format of a Content-Type, its parameters ignored. Raises UnsupportedFormatError."""
        name = media_type(content_type)
        try:
            return cls(_OTHER_NAMES.get(name, name))
        except ValueError:
            raise UnsupportedFormatError(content_type, tuple(cls)) from None

    @classmethod
    def detect(cls, data: bytes) -> Format:
        """The format of bytes that came without a content type.

        - Avro: a zero byte and at least four more (Confluent's wire format).
        - JSON: the first byte that is no whitespace is `{`; or there is nothing, or text of any other kind, so that
          the error for an array, a number or a forgotten brace is the one about JSON. A CloudEvent is JSON too: it must
          come with its content type.
        - Protobuf: the rest. A valid event is always among it, whatever field it begins with (0x22 is the tag of
          `user_id` and a quote): the tags of the required fields, 0x12 and 0x18, are control characters, which no
          text has; and where it begins with whitespace, the tag 0x0a of `event_id`, a UUID's length follows.
        """
        if data.startswith(b"\x00") and len(data) >= HEADER_BYTES:
            return cls.AVRO
        if data.lstrip(_WHITESPACE).startswith(b"{") or not _CONTROL.search(data):
            return cls.JSON
        return cls.PROTOBUF


# The name that Protobuf's own types are being registered under; `x-` is the usual one so far.
_OTHER_NAMES: Final = {"application/protobuf": Format.PROTOBUF.value}


class SchemaNeededError(Exception):
    """The writer schema with this id must be loaded before the record can be read."""

    def __init__(self, schema_id: int) -> None:
        self.schema_id = schema_id
        super().__init__(f"schema {schema_id} is not loaded")


def parse(text: str) -> Schema:
    """A schema ready for reading and writing, without logical types.

    The bytes are the same, but times stay milliseconds and ids stay text: no datetime or UUID is made
    only to be taken apart again. Raises fastavro's SchemaParseException (a ValueError).
    """
    return parse_schema(_without_logical_types(json.loads(text)))


def under_name_of(writer: Schema, reader: Schema) -> Schema:
    """The reader's schema under the writer's name: a topic may call its own record what it likes.

    And with the writer's payload, where that is a record; `text_payload` makes text of it.
    """
    if not isinstance(writer, dict):
        return reader
    own = {k: v for k, v in reader.items() if not k.startswith("__")}
    typed = [f for f in writer.get("fields", ()) if f["name"] == _PAYLOAD and _is_record(f["type"])]
    if typed and any(field["name"] == _PAYLOAD for field in own["fields"]):
        # Without the default, which is a text's.
        payload = {"name": _PAYLOAD, "type": typed[0]["type"]}
        own["fields"] = [payload if field["name"] == _PAYLOAD else field for field in own["fields"]]
    return parse_schema(own | {"name": writer["name"]})


def text_payload(record: dict[str, object]) -> dict[str, object]:
    """The record of an event whose payload is JSON text, also where its topic has a record there; bytes are base64."""
    payload = record.get(_PAYLOAD)
    if isinstance(payload, dict):
        record[_PAYLOAD] = msgspec.json.encode(payload).decode()
    return record


def _is_record(type_: Any) -> bool:
    return isinstance(type_, dict) and type_["type"] == "record"


def is_event(text: str) -> bool:
    """Whether records of an Avro schema are laid out as our own `Event`, whatever it is called."""
    return _layout(parse(text)) == _layout(parse(schemas.EVENT))


def frame(schema_id: int, body: bytes) -> bytes:
    """Confluent's wire format: a zero byte, the schema id (4 bytes, big endian), the Avro body."""
    return _HEADER.pack(0, schema_id) + body


def schema_id_of(text: str) -> int:
    """The id in a header that names the schema of a bare Avro body. Raises MalformedEventError."""
    if not _DIGITS.fullmatch(text) or int(text) > _MAX_SCHEMA_ID:
        raise MalformedEventError(f"the schema id {text[:20]!r} is no number from 0 to {_MAX_SCHEMA_ID}")
    return int(text)


def unframe(data: bytes) -> tuple[int, bytes]:
    """The schema id and the body of a framed record. Raises MalformedEventError."""
    if len(data) < HEADER_BYTES or data[0] != 0:
        raise MalformedEventError("not Avro in Confluent wire format: no magic byte and schema id")
    return _HEADER.unpack_from(data)[1], data[HEADER_BYTES:]


class AvroCodec:
    """Reads and writes the platform's Avro records, given the writer schemas it has been told of."""

    def __init__(self) -> None:
        self._event = parse(schemas.EVENT)
        self._aggregate = parse(schemas.AGGREGATED_EVENT)
        self._dead_letter = parse(schemas.DLQ_MESSAGE)
        self._writers: dict[int, Schema] = {}
        self._readers: dict[tuple[int, str], Schema] = {}
        # What the records begin with that are laid out as our own `Event`: most of them, and read without fastavro.
        self._event_heads: set[bytes] = set()

    def add_schema(self, schema_id: int, text: str) -> None:
        """Learn a writer schema. Raises ValueError where the text is no Avro schema, or none that is safe to read by.

        Clients name schemas by their ids: any that the registry has, whoever put it there.
        """
        try:
            writer = parse(text)
            check_bounded(writer)
        # What fastavro raises besides for what is no schema, or nests without end.
        except (TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise ValueError(f"fastavro cannot take it: {type(exc).__name__}") from exc
        self._writers[schema_id] = writer
        if _layout(writer) == _layout(self._event):
            self._event_heads.add(frame(schema_id, b""))
        else:
            self._event_heads.discard(frame(schema_id, b""))

    def knows(self, schema_id: int) -> bool:
        """Whether records of this schema can be read without asking the registry."""
        return schema_id in self._writers

    def encode_event(self, event: Event, schema_id: int) -> bytes:
        """A framed event, written with the schema `Event` under this id."""
        return frame(schema_id, avro_event.encode(event))

    def event_fields(self, data: bytes) -> Mapping[str, object]:
        """The envelope of a framed event, whatever schema it was written with; not validated.

        Raises SchemaNeededError, or MalformedEventError where the bytes do not fit their schema.
        """
        if data[:HEADER_BYTES] in self._event_heads:
            return msgspec.structs.asdict(self._own_event(data))
        return text_payload(self._read(self._event, data))

    def decode_event(self, data: bytes) -> Event:
        """An event of a topic `events.*`, which was validated before it was stored. Raises as `event_fields`."""
        if data[:HEADER_BYTES] not in self._event_heads:
            return self._struct(Event, self.event_fields(data))
        return self._own_event(data)

    def _own_event(self, data: bytes) -> Event:
        """An event that is laid out as our own, read without fastavro; not validated. Raises MalformedEventError."""
        try:
            return avro_event.decode(data, HEADER_BYTES)
        except MalformedEventError as exc:
            raise MalformedEventError(f"not a record of schema {unframe(data)[0]}: {exc.errors[0].message}") from exc

    def encode_aggregate(self, aggregate: AggregatedEvent, schema_id: int) -> bytes:
        """A framed window result."""
        return self._write(self._aggregate, msgspec.structs.asdict(aggregate), schema_id)

    def decode_aggregate(self, data: bytes) -> AggregatedEvent:
        """A record of `platform.aggregates`. Raises as `event_fields`."""
        return self._struct(AggregatedEvent, self._read(self._aggregate, data))

    def encode_dead_letter(self, letter: DeadLetter, schema_id: int) -> bytes:
        """A framed dead letter."""
        record = msgspec.structs.asdict(letter)
        record["headers"] = [{"name": name, "value": value} for name, value in letter.headers]
        return self._write(self._dead_letter, record, schema_id)

    def decode_dead_letter(self, data: bytes) -> DeadLetter:
        """A record of `platform.dlq`. Raises as `event_fields`."""
        record = dict(self._read(self._dead_letter, data))
        headers: Any = record["headers"]
        record["headers"] = tuple((header["name"], header["value"]) for header in headers)
        return self._struct(DeadLetter, record)

    def _write(self, schema: Schema, record: dict[str, Any], schema_id: int) -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema, record)
        return frame(schema_id, out.getvalue())

    def _read(self, reader: Schema, data: bytes) -> dict[str, object]:
        schema_id, body = unframe(data)
        writer = self._writers.get(schema_id)
        if writer is None:
            raise SchemaNeededError(schema_id)
        source = io.BytesIO(body)
        try:
            record = fastavro.schemaless_reader(source, writer, self._reader(reader, schema_id, writer))
        # On bytes of strangers fastavro raises whatever its parser stumbles over: EOFError, IndexError,
        # UnicodeDecodeError, OverflowError, SchemaResolutionError; they have no common base.
        except Exception as exc:
            raise MalformedEventError(f"not a record of schema {schema_id}: {type(exc).__name__}: {exc}") from exc
        if source.read(1):
            raise MalformedEventError(f"not a record of schema {schema_id}: bytes are left over")
        if not isinstance(record, dict):
            raise MalformedEventError(f"schema {schema_id} is not a record")
        return record

    def _reader(self, reader: Schema, schema_id: int, writer: Schema) -> Schema:
        key = (schema_id, reader["name"])
        if key not in self._readers:
            self._readers[key] = under_name_of(writer, reader)
        return self._readers[key]

    @staticmethod
    def _struct(type_: type[T], record: Mapping[str, object]) -> T:
        try:
            return msgspec.convert(record, type_)
        except msgspec.ValidationError as exc:
            raise MalformedEventError(str(exc)) from exc


class _JsonEvent(msgspec.Struct):
    event_id: str
    event_type: str
    timestamp: int
    user_id: str | None
    device_id: str | None
    value: float | None
    source: str | None
    payload: msgspec.Raw


def event_to_json(event: Event) -> bytes:
    """The event as a JSON document; the payload is an object in it, not a text."""
    return msgspec.json.encode(
        _JsonEvent(
            event.event_id,
            event.event_type,
            event.timestamp,
            event.user_id,
            event.device_id,
            event.value,
            event.source,
            msgspec.Raw(event.payload.encode()),
        )
    )


def event_to_protobuf(event: Event) -> bytes:
    """The event as `streams.Event` of `event.proto`."""
    return event_pb2.Event(**msgspec.structs.asdict(event)).SerializeToString()


def events_to_protobuf(events: Iterable[Event]) -> bytes:
    """The events as `streams.EventList` of `event.proto`."""
    return event_pb2.EventList(
        events=[event_pb2.Event(**msgspec.structs.asdict(event)) for event in events]
    ).SerializeToString()


def events_to_avro_container(events: Iterable[Event]) -> bytes:
    """The events as an Avro object container file, with the schema `Event` in it, logical types included."""
    out = io.BytesIO()
    fastavro.writer(out, parse_schema(json.loads(schemas.EVENT)), map(msgspec.structs.asdict, events))
    return out.getvalue()


def protobuf_fields(data: bytes) -> Mapping[str, object]:
    """The fields that a `streams.Event` message has; not validated. Raises MalformedEventError."""
    message = event_pb2.Event()
    try:
        message.ParseFromString(data)
    except DecodeError as exc:
        raise MalformedEventError(f"not a Protobuf streams.Event: {exc}") from exc
    refuse_unknown_fields(message)
    return {field.name: value for field, value in message.ListFields()}


def refuse_unknown_fields(message: Message) -> None:
    """Return if a message has no field that its type does not know: it would be dropped in silence. Raises InvalidEventError."""
    size = message.ByteSize()
    message.DiscardUnknownFields()
    if message.ByteSize() != size:
        detail = f"there is a field that {message.DESCRIPTOR.full_name} does not have"
        raise InvalidEventError([FieldError("", detail, "unknown_field")])


def read_event(
    data: bytes,
    format_: Format,
    avro: AvroCodec,
    *,
    rules: EventRules,
    now_ms: int,
    new_event_id: Callable[[], str],
) -> Event:
    """The valid event in these bytes, in any format: the one way in, for gateway and agents alike.

    Raises MalformedEventError, InvalidEventError, or SchemaNeededError for Avro of an unknown schema.
    """
    if format_ is Format.JSON:
        return event_from_json(data, rules, now_ms, new_event_id)
    if format_ is Format.CLOUDEVENTS:
        return cloudevents.structured(data, rules=rules, now_ms=now_ms, new_event_id=new_event_id)
    fields = avro.event_fields(data) if format_ is Format.AVRO else protobuf_fields(data)
    return event_from_fields(fields, rules, now_ms, new_event_id)


def write_event(event: Event, format_: Format, avro: AvroCodec, schema_id: int) -> bytes:
    """The event in any format; the schema id is used by Avro only."""
    match format_:
        case Format.JSON:
            return event_to_json(event)
        case Format.AVRO:
            return avro.encode_event(event, schema_id)
        case Format.PROTOBUF:
            return event_to_protobuf(event)
        case Format.CLOUDEVENTS:
            return cloudevents.event_to_cloudevent(event)


def _layout(schema: Schema) -> object:
    """What decides how a record's bytes are laid out: the names and types of its fields, in their order.

    The record's own name, docs, defaults and aliases do not count; nor does anything but a record have one.
    """
    if not isinstance(schema, dict) or schema["type"] != "record":
        return None
    return [(field["name"], _bare(field["type"])) for field in schema["fields"]]


def _bare(type_: Any) -> Any:
    """A type by its name alone: `{"type": "string", ...}` is `"string"`, and a fixed of any size is `"fixed"`.

    That tells apart what `Event` consists of, primitive types and unions of them, from everything else.
    """
    if isinstance(type_, list):
        return [_bare(branch) for branch in type_]
    return type_["type"] if isinstance(type_, dict) else type_


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_logical_types(branch) for branch in schema]
    if isinstance(schema, dict):
        return {
            key: value if key == "default" else _without_logical_types(value)
            for key, value in schema.items()
            if key != "logicalType"
        }
    return schema
