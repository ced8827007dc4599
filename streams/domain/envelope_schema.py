"""What the schema of a topic's own must keep: the envelope, so that everybody can read it and skip the payload.

Pure: a schema comes in as parsed JSON, and goes out as a list of what is wrong with it, each with the path of the
event's field. The rules for Protobuf are with its descriptors, in `streams.topic_schemas.protobuf`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from streams.domain.errors import FieldError

PAYLOAD: Final = "payload"

AVRO_ENVELOPE: Final[Mapping[str, tuple[str, ...]]] = {
    "event_id": ("string",),
    "event_type": ("string",),
    "timestamp": ("long",),
    "user_id": ("null", "string"),
    "device_id": ("null", "string"),
    "value": ("null", "double"),
    "source": ("null", "string"),
}
"""The fields of the envelope but `payload`, and their types in Avro: several are a union, in this order."""

JSON_ENVELOPE: Final[Mapping[str, str]] = {
    "event_id": "string",
    "event_type": "string",
    "timestamp": "integer",
    "user_id": "string",
    "device_id": "string",
    "value": "number",
    "source": "string",
    PAYLOAD: "object",
}
"""The type that each property must allow: that in which the platform has it."""

JSON_DRAFTS: Final = tuple(f"http://json-schema.org/draft-0{number}/schema#" for number in (7, 6, 4))
"""What `$schema` may be. Apicurio Registry 3.3.3 takes a first version in a later draft, and no second one: it answers 500
for ever, so the first is refused. Without `$schema` it is the first of these."""

_LOGICAL: Final = {"event_id": (None, "uuid"), "timestamp": (None, "timestamp-millis")}
_NOT_OURS: Final = "not in the envelope; data of your own goes into payload"
_MAX_REFERENCES: Final = 16


class SchemaKind(StrEnum):
    """The languages a topic's own schema may be written in, as registries name them."""

    AVRO = "AVRO"
    JSON = "JSON"
    PROTOBUF = "PROTOBUF"

    def subject(self, topic: str) -> str:
        """The registry's subject for a Kafka topic. `-value` is that of the records as they are in Kafka."""
        return f"{topic}-{'value' if self is SchemaKind.AVRO else self.value.lower()}"


def avro_errors(schema: Any) -> list[FieldError]:
    """What keeps a valid Avro schema from having the envelope: its fields, of the same types, and no others.

    `payload` is a string, which holds JSON, or a record.
    """
    if not isinstance(schema, dict) or schema.get("type") != "record":
        return [FieldError("", "expected a record with the fields of the envelope", "invalid_type")]
    # fastavro lets names pass that are no text.
    fields = {str(field["name"]): field["type"] for field in schema["fields"]}
    errors = [_missing(name) for name in (*AVRO_ENVELOPE, PAYLOAD) if name not in fields]
    for name, type_ in fields.items():
        if name == PAYLOAD:
            if _avro_name(type_) not in {"string", "record"}:
                errors.append(_mistyped(name, "a string or a record"))
        elif name not in AVRO_ENVELOPE:
            errors.append(FieldError(f"/{name}", _NOT_OURS, "unknown_field"))
        elif _branches(type_) != AVRO_ENVELOPE[name] or _logical_type(type_) not in _LOGICAL.get(name, (None,)):
            errors.append(_mistyped(name, _avro_text(name)))
    return errors


def json_errors(schema: Any) -> list[FieldError]:
    """What keeps a JSON Schema from describing the envelope: its properties, allowing the same types, and no others.

    It describes the event as the API answers with it: `timestamp` in epoch milliseconds, absent fields left out.
    """
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return [FieldError("", 'expected a schema with "type": "object"', "invalid_type")]
    if str(schema.get("$schema", JSON_DRAFTS[0])).rstrip("#") + "#" not in JSON_DRAFTS:
        message = f"the registry cannot compare versions in this draft: expected one of {', '.join(JSON_DRAFTS)}"
        return [FieldError("/$schema", message, "invalid_choice")]
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return [FieldError("", "expected properties: those of the envelope", "invalid_type")]
    errors = [_missing(name) for name in JSON_ENVELOPE if name not in properties]
    for name, property_ in properties.items():
        if name not in JSON_ENVELOPE:
            errors.append(FieldError(f"/{name}", _NOT_OURS, "unknown_field"))
        elif JSON_ENVELOPE[name] not in _json_types(schema, property_):
            errors.append(_mistyped(name, f"a type that allows {JSON_ENVELOPE[name]}"))
    return errors


def _missing(name: str) -> FieldError:
    return FieldError(f"/{name}", "required: every event has the envelope", "required")


def _mistyped(name: str, expected: str) -> FieldError:
    return FieldError(f"/{name}", f"expected {expected}", "invalid_type")


def _avro_name(type_: Any) -> object:
    """The name of a type: `{"type": "string", ...}` is a `string`, and a union has none."""
    return type_.get("type") if isinstance(type_, dict) else None if isinstance(type_, list) else type_


def _branches(type_: Any) -> tuple[object, ...]:
    return tuple(map(_avro_name, type_)) if isinstance(type_, list) else (_avro_name(type_),)


def _logical_type(type_: Any) -> object:
    return type_.get("logicalType") if isinstance(type_, dict) else None


def _avro_text(name: str) -> str:
    types = AVRO_ENVELOPE[name]
    text = types[0] if len(types) == 1 else "[" + ", ".join(types) + "]"
    logical = _LOGICAL.get(name)
    return text if logical is None else f"{text}, with the logical type {logical[1]} or none"


def _json_types(root: Mapping[str, Any], property_: Any) -> tuple[object, ...]:
    """The types that a property names; references within the document are followed."""
    for _ in range(_MAX_REFERENCES):
        if not isinstance(property_, dict) or not isinstance(reference := property_.get("$ref"), str):
            break
        property_ = _at(root, reference)
    named = property_.get("type") if isinstance(property_, dict) else None
    return tuple(named) if isinstance(named, list) else (named,)


def _at(root: Any, reference: str) -> Any:
    """What a local reference, `#/$defs/reading`, points to; None where that is nothing, or another document."""
    if not reference.startswith("#/"):
        return None
    found = root
    for step in reference[2:].split("/"):
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found
