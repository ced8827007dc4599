"""One thing to be sent, and what must become of it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Intent(StrEnum):
    """Why an event is sent."""

    VALID = "valid"
    """On time and seen for the first time."""
    INVALID = "invalid"
    """Breaks a rule; must be rejected."""
    LATE = "late"
    """Valid, but its event time is behind any watermark."""
    DUPLICATE = "duplicate"
    """The bytes of a valid event sent moments ago."""


class Draft(msgspec.Struct, frozen=True, gc=False):
    """What a kind makes up of one event, before it becomes bytes."""

    event_type: str
    user_id: str | None
    device_id: str | None
    value: float | None
    """At most three decimals, so that sums can be exact."""
    source: str
    payload: dict[str, object]


class ExpectedError(msgspec.Struct, frozen=True, gc=False):
    """How an invalid event must be rejected."""

    fault: str
    """What was done to it: a name of `streams.generators.faults`."""
    reason: str
    """The code of the error: the `code` of an HTTP answer, the `dlq-reason` of a dead letter."""
    code: str
    """The code of the broken field's `FieldError`."""
    path: str
    """The JSON Pointer of the broken field."""


class Emission(msgspec.Struct, frozen=True, gc=False):
    """One event as it is sent."""

    topic: str
    """The API's name of the topic."""
    body: bytes
    """The JSON document, or what is left of it."""
    key: bytes | None
    """The message key in Kafka; None where the event has none."""
    send_at_s: float
    """When it is due, in seconds from the start; below 0: at once."""
    event_id: str
    event_type: str
    event_time_ms: int
    user_id: str | None
    value: float | None
    intent: Intent
    error: ExpectedError | None = None
    """Given where the intent is INVALID, and only there."""
