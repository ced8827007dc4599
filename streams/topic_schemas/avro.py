"""A topic's own Avro schema: events are written with it, so that every Avro reader gets the payload typed."""

from __future__ import annotations

import io
import json
from typing import Any, Final

import fastavro
import msgspec

from streams.codecs import parse
from streams.domain.avro_json import AvroType, avro_type
from streams.domain.envelope import Event
from streams.domain.envelope_schema import PAYLOAD, avro_errors
from streams.domain.errors import FieldError, InvalidEventError, InvalidSchemaError
from streams.topic_schemas.definition import payload_of, refuse

_PATH: Final = f"/{PAYLOAD}"
_MAX_FILLED: Final = 1_000_000
"""What the defaults weigh, by `avro_json.MAX_DEFAULT`, that the objects of one payload may be filled with."""


class AvroDefinition:
    """The envelope with a payload that is a record, or JSON text."""

    def __init__(self, text: str) -> None:
        schema = _parsed(text)
        if errors := avro_errors(schema):
            raise InvalidSchemaError(errors)
        try:
            self._schema = parse(text)
            [payload] = [field["type"] for field in self._schema["fields"] if field["name"] == PAYLOAD]
            is_text = (payload["type"] if isinstance(payload, dict) else payload) == "string"
            self._payload: AvroType | None = None if is_text else avro_type(payload)
        # fastavro lets names pass that are no text.
        except (ValueError, TypeError, RecursionError) as exc:
            raise InvalidSchemaError([FieldError(_PATH, f"it cannot be used: {exc}", "unsafe")]) from exc

    def check(self, event: Event) -> None:
        """Return if the payload is what the record wants. Raises InvalidEventError."""
        self._typed(event)

    def body(self, event: Event) -> bytes:
        """The Avro body of an event. Raises InvalidEventError."""
        out = io.BytesIO()
        fastavro.schemaless_writer(out, self._schema, msgspec.structs.asdict(event) | {PAYLOAD: self._typed(event)})
        return out.getvalue()

    def _typed(self, event: Event) -> Any:
        if self._payload is None:
            return event.payload
        # A pair of brackets may stand for a whole record of defaults: a small body must not become a huge one.
        if event.payload.count("{") * self._payload.filled > _MAX_FILLED:
            raise InvalidEventError(
                [FieldError(_PATH, "too many objects, each to be filled with defaults", "too_long")]
            )
        errors: list[FieldError] = []
        payload = self._payload.convert(payload_of(event), _PATH, errors)
        refuse(errors)
        return payload


def _parsed(text: str) -> Any:
    """The schema as JSON, known to be Avro. Raises InvalidSchemaError."""
    try:
        schema = json.loads(text)
        fastavro.parse_schema(schema)
    # Of what is no schema fastavro raises whatever it stumbles over: KeyError, TypeError, SchemaParseException,
    # UnknownType, RecursionError; they have no common base.
    except Exception as exc:
        message = f"not an Avro schema: {type(exc).__name__}: {exc}"
        raise InvalidSchemaError([FieldError("", message, "malformed")]) from exc
    # What was parsed is not what is returned: that lacks nothing, but has marks of fastavro's.
    return json.loads(text)
