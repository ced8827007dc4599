"""A topic's own schema, compiled: what it asks of an event beyond the rules of the envelope."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from streams.domain.envelope import Event
from streams.domain.envelope_schema import PAYLOAD
from streams.domain.errors import FieldError, InvalidEventError
from streams.domain.validation import MAX_ERRORS


class Definition(Protocol):
    """One compiled schema. To make one raises InvalidSchemaError, which says what it lacks."""

    def check(self, event: Event) -> None:
        """Return if the event keeps to the schema. Raises InvalidEventError, with paths such as `/payload/unit`."""
        ...


def payload_of(event: Event) -> Any:
    """The payload as parsed JSON. Raises InvalidEventError.

    Its syntax was checked when the event was made, but not whether each text and number in it can be had.
    """
    try:
        return msgspec.json.decode(event.payload.encode())
    except (msgspec.DecodeError, UnicodeEncodeError) as exc:
        raise InvalidEventError([FieldError(f"/{PAYLOAD}", str(exc), "malformed")]) from exc


def refuse(errors: list[FieldError]) -> None:
    """Return if there are no errors. Raises InvalidEventError."""
    if errors:
        raise InvalidEventError(errors[:MAX_ERRORS])
