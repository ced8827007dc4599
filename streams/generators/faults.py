"""Ways to break an event: one for each rule that `streams.domain.validation` has for JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from streams.domain.errors import InvalidEventError, MalformedEventError
from streams.generators.emission import ExpectedError

Document = dict[str, object]

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break an event."""

    spoil: Callable[[Document], bytes]
    """The bytes of the broken event, given the fields of a sound one (which it may change)."""
    expected: ExpectedError
    keyless: bool = False
    """Whether no message key can be told from it."""


def _with(**fields: object) -> Callable[[Document], bytes]:
    return lambda document: _encode(document | fields)


def _without(*names: str) -> Callable[[Document], bytes]:
    return lambda document: _encode({k: v for k, v in document.items() if k not in names})


def _truncated(document: Document) -> bytes:
    # Without its last byte no object is whole.
    return _encode(document)[:-1]


def _not_utf8(document: Document) -> bytes:
    return _encode(document | {"source": "caf?"}).replace(b"caf?", b"caf\xe9")


def _empty_key(document: Document) -> bytes:
    return _encode(document | {"user_id": ""})


def _nested(levels: int) -> Document:
    deep: Document = {}
    for _ in range(levels):
        deep = {"in": deep}
    return deep


def _fault(name: str, spoil: Callable[[Document], bytes], code: str, path: str = "", *, keyless: bool = False) -> Fault:
    reason = MalformedEventError.code if code == "malformed" else InvalidEventError.code
    return Fault(spoil, ExpectedError(name, reason, code, path), keyless)


FAULTS: Final = (
    _fault("no_event_type", _without("event_type"), "required", "/event_type"),
    _fault("no_timestamp", _without("timestamp"), "required", "/timestamp"),
    _fault("no_key", _without("user_id", "device_id"), "key_required", keyless=True),
    _fault("empty_key", _empty_key, "invalid_type", "/user_id", keyless=True),
    _fault("value_is_text", _with(value="21.5 C"), "invalid_type", "/value"),
    _fault("value_is_boolean", _with(value=True), "invalid_type", "/value"),
    _fault("event_id_is_no_uuid", _with(event_id="event-17"), "invalid_type", "/event_id"),
    _fault("event_type_has_spaces", _with(event_type="not a type"), "invalid_type", "/event_type"),
    _fault("source_is_number", _with(source=7), "invalid_type", "/source"),
    _fault("unknown_field", _with(colour="red"), "unknown_field", "/colour"),
    _fault("timestamp_is_words", _with(timestamp="yesterday"), "invalid_timestamp", "/timestamp"),
    _fault("timestamp_has_no_zone", _with(timestamp="2026-01-02T03:04:05"), "invalid_timestamp", "/timestamp"),
    _fault("timestamp_is_out_of_range", _with(timestamp=10**15), "invalid_timestamp", "/timestamp"),
    # Ahead of any clock, whatever STREAMS_EVENT_MAX_FUTURE_S allows.
    _fault("timestamp_in_future", _with(timestamp="9999-12-31T23:59:59Z"), "timestamp_in_future", "/timestamp"),
    _fault("payload_is_text", _with(payload="{}"), "invalid_type", "/payload"),
    _fault("payload_is_array", _with(payload=[1, 2]), "invalid_type", "/payload"),
    # Past the default limit of 64, and far from any parser's own.
    _fault("payload_too_deep", _with(payload=_nested(100)), "too_deep", "/payload"),
    _fault("array_for_object", lambda document: _encode([document]), "invalid_type"),
    _fault("truncated", _truncated, "malformed"),
    _fault("not_utf8", _not_utf8, "malformed"),
    _fault("empty_body", lambda _: b"", "malformed", keyless=True),
)
"""Each is as likely. The names are in the totals and in `docs/generators.md`."""
