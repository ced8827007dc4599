"""A topic's own JSON Schema: it describes the event as the API answers with it. In Kafka the event is as any other."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

import jsonschema_rs
import msgspec

from streams.domain.envelope import Event
from streams.domain.envelope_schema import JSON_DRAFTS, PAYLOAD, json_errors
from streams.domain.errors import FieldError, InvalidSchemaError
from streams.topic_schemas.definition import payload_of, refuse

_SMALL: Final = 4_096
_FEW: Final = 64
"""Of a payload with more characters, or more values, only the first error is told: the validator makes all before it gives
the first, each with a copy of what is wrong, which is seconds and gigabytes for a body of a megabyte."""
_MAX_MESSAGE: Final = 500


class JsonDefinition:
    """The envelope with rules for the payload, and for the other fields where they are stricter."""

    def __init__(self, text: str) -> None:
        try:
            schema = json.loads(text)
            if isinstance(schema, dict):
                # What is not said must be one thing to the registry and to us, and its own draft is an old one.
                schema.setdefault("$schema", JSON_DRAFTS[0])
            self._validator = jsonschema_rs.validator_for(
                schema,
                # A schema may name others by URL: this one must be whole, or who registers it makes us ask anybody.
                retriever=_refuse_reference,
                # Linear in time, whatever the pattern.
                pattern_options=jsonschema_rs.RegexOptions(),
            )
        except (ValueError, RecursionError, jsonschema_rs.ReferencingError) as exc:
            # Of a ValidationError the text quotes the schema; its message does not.
            message = f"not a JSON Schema: {getattr(exc, 'message', exc)}"
            raise InvalidSchemaError([FieldError("", message, "malformed")]) from exc
        if errors := json_errors(schema):
            raise InvalidSchemaError(errors)

    def check(self, event: Event) -> None:
        """Return if the event is valid. Fields that it does not have are absent, not null. Raises InvalidEventError."""
        document = {name: value for name, value in msgspec.structs.asdict(event).items() if value is not None}
        document[PAYLOAD] = payload_of(event)
        if self._validator.is_valid(document):
            return
        if len(event.payload) <= _SMALL and sum(map(event.payload.count, ",[{")) <= _FEW:
            refuse([_field_error(error) for error in self._validator.iter_errors(document)])
        try:
            self._validator.validate(document)
        except jsonschema_rs.ValidationError as error:
            refuse([_field_error(error)])


def _field_error(error: Any) -> FieldError:
    path = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in error.instance_path)
    message = error.message
    return FieldError(path, message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "…", "schema")


def _refuse_reference(uri: str) -> NoReturn:
    raise ValueError(f"it refers to {uri}: a schema must be whole, with all that it needs in its $defs")
