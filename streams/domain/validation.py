"""The rules of an event, in one place: the gateway, the agents and every format go through here.

A valid event is built in one pass (`msgspec`, about 1 µs). Only where that fails is the input looked
at again, field by field, so that the caller learns everything that is wrong with it, not the first thing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Final

import msgspec

from streams.domain.envelope import Event
from streams.domain.errors import FieldError, InvalidEventError, MalformedEventError
from streams.domain.json_text import depth, has_longer_number

# RFC 9562, any version. Upper case is accepted and folded: the id is an identity.
EventId = Annotated[
    str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\Z")
]
EventType = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,127}\Z")]
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Source = Annotated[str, msgspec.Meta(max_length=256)]

MAX_ERRORS: Final = 100
"""How many errors of one event are told."""

# The years 1 to 9999: what RFC 3339 can say, Python's datetime holds and Flink's timestamps take.
MIN_TIMESTAMP_MS: Final = -62_135_596_800_000
MAX_TIMESTAMP_MS: Final = 253_402_300_799_999

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_Rfc3339 = Annotated[datetime, msgspec.Meta(tz=True)]
_WHERE = re.compile(r" - at `[^`]*`$")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class EventRules:
    """The bounds that an operator sets."""

    max_future_ms: int = 3_600_000
    """How far event time may be ahead of ours: one bad clock would close every window."""
    max_payload_depth: int = 64
    """How deep objects and arrays of the payload may nest, its outermost object counted."""
    max_number_length: int = 400
    """How many characters a number may have in JSON, 8 or more: readers take time that grows with its square."""


class _Fields(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    event_type: EventType
    timestamp: int | str
    event_id: EventId | None = None
    user_id: Key | None = None
    device_id: Key | None = None
    value: float | None = None
    source: Source | None = None


class JsonFields(_Fields, forbid_unknown_fields=True, gc=False):
    """An event in JSON, as far as types can say what is valid."""

    payload: msgspec.Raw = msgspec.Raw(b"{}")


class _RuleBrokenError(Exception):
    """A rule that types cannot say; becomes a FieldError."""

    def __init__(self, path: str, message: str, code: str) -> None:
        self.error = FieldError(path, message, code)
        super().__init__(message)


_TYPES: Final[Mapping[str, Any]] = {field.name: field.type for field in msgspec.structs.fields(_Fields)}
_REQUIRED: Final = tuple(field.name for field in msgspec.structs.fields(_Fields) if field.required)
_PAYLOAD: Final = "payload"

_decode_json = msgspec.json.Decoder(JsonFields).decode
_split_json = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_skim_json = msgspec.json.Decoder(msgspec.Raw).decode


def event_from_json(body: bytes, rules: EventRules, now_ms: int, new_event_id: Callable[[], str]) -> Event:
    """The event in a JSON document.

    `now_ms` is the time of arrival (ms since the epoch); `new_event_id` is called where the client sent
    no id. Raises MalformedEventError (not JSON, not UTF-8) or InvalidEventError (each broken rule).
    """
    try:
        fields = _decode_json(body)
        if len(body) > rules.max_number_length:
            _check_numbers(body, rules, "")
        return _build(fields, _payload_text(fields.payload), rules, now_ms, new_event_id)
    except (msgspec.ValidationError, _RuleBrokenError) as exc:
        raise _diagnosis(exc, _split(body), _decode_raw, rules, now_ms) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _malformed(exc, body) from exc


def event_from_fields(
    values: Mapping[str, object], rules: EventRules, now_ms: int, new_event_id: Callable[[], str]
) -> Event:
    """The event in the fields that a binary format gave: `timestamp` in ms, `payload` as JSON text.

    Arguments and errors are those of `event_from_json`.
    """
    payload = values.get(_PAYLOAD, "{}")
    try:
        fields = msgspec.convert({k: v for k, v in values.items() if k != _PAYLOAD}, _Fields)
        # Its syntax first: what is looked for in it afterwards counts on that.
        text = _payload_text(payload)
        if len(text) > rules.max_number_length:
            _check_numbers(text.encode(), rules, "/payload")
        return _build(fields, text, rules, now_ms, new_event_id)
    except (msgspec.ValidationError, _RuleBrokenError) as exc:
        raise _diagnosis(exc, values, msgspec.convert, rules, now_ms) from None


def parse_timestamp(value: int | str) -> int:
    """Epoch milliseconds of an epoch-milliseconds number or an RFC 3339 text with a time zone.

    Fractions below a millisecond are cut off. Raises ValueError where it is neither, or outside years 1 to 9999.
    """
    if isinstance(value, str):
        try:
            moment: datetime = msgspec.convert(value, _Rfc3339)
        except msgspec.ValidationError:
            raise ValueError("expected RFC 3339 with a time zone, or epoch milliseconds") from None
        value = (moment - _EPOCH) // _MILLISECOND
    if not MIN_TIMESTAMP_MS <= value <= MAX_TIMESTAMP_MS:
        raise ValueError("outside the years 1 to 9999")
    return value


def _build(fields: _Fields, payload: str, rules: EventRules, now_ms: int, new_event_id: Callable[[], str]) -> Event:
    _check_keys(fields.user_id, fields.device_id)
    _check_payload(payload, rules)
    return Event(
        fields.event_id.lower() if fields.event_id is not None else new_event_id(),
        fields.event_type,
        _check_timestamp(fields.timestamp, rules, now_ms),
        fields.user_id,
        fields.device_id,
        _check_value(fields.value),
        fields.source,
        payload,
    )


def _check_keys(user_id: object, device_id: object) -> None:
    if user_id is None and device_id is None:
        raise _RuleBrokenError("", "at least one of user_id and device_id is required", "key_required")


def _check_value(value: float | None) -> float | None:
    # JSON has no such numbers, but Avro and Protobuf do.
    if value is not None and not math.isfinite(value):
        raise _RuleBrokenError("/value", "expected a finite number", "not_finite")
    return value


def _check_timestamp(value: int | str, rules: EventRules, now_ms: int) -> int:
    try:
        timestamp = parse_timestamp(value)
    except ValueError as exc:
        raise _RuleBrokenError("/timestamp", str(exc), "invalid_timestamp") from None
    if timestamp > now_ms + rules.max_future_ms:
        raise _RuleBrokenError(
            "/timestamp", f"more than {rules.max_future_ms // 1000} s ahead of our clock", "timestamp_in_future"
        )
    return timestamp


def _payload_text(payload: object) -> str:
    """The payload's text. Of a value that it skips, msgspec checks syntax and surrogates, but not UTF-8: that is done here."""
    if isinstance(payload, msgspec.Raw):
        return str(payload, "utf-8")
    if not isinstance(payload, str):
        raise _RuleBrokenError("/payload", "expected a JSON object", "invalid_type")
    try:
        _skim_json(payload.encode())
    except RecursionError:
        raise _RuleBrokenError("/payload", "nested too deep", "too_deep") from None
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise _RuleBrokenError("/payload", "expected a JSON object", "invalid_type") from None
    return payload


def _check_payload(payload: str, rules: EventRules) -> None:
    if not payload.lstrip(" \t\r\n").startswith("{"):
        raise _RuleBrokenError("/payload", "expected a JSON object", "invalid_type")
    limit = rules.max_payload_depth
    if payload.count("{") + payload.count("[") > limit and depth(payload) > limit:
        raise _RuleBrokenError("/payload", f"nested deeper than {limit}", "too_deep")


def _check_numbers(text: bytes, rules: EventRules, path: str) -> None:
    limit = rules.max_number_length
    if len(text) > limit and has_longer_number(text, limit):
        raise _RuleBrokenError(path, f"a number has more than {limit} characters", "number_too_long")


def _split(body: bytes) -> Mapping[str, object]:
    try:
        return _split_json(body)
    except msgspec.ValidationError:
        raise InvalidEventError([FieldError("", "expected a JSON object", "invalid_type")]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _malformed(exc, body) from exc


def _decode_raw(value: Any, type_: Any) -> Any:
    return msgspec.json.decode(value, type=type_)


def _malformed(exc: Exception, body: bytes) -> InvalidEventError:
    if isinstance(exc, RecursionError):
        return InvalidEventError([FieldError("", "nested too deep", "too_deep")])
    if isinstance(exc, UnicodeDecodeError):
        return MalformedEventError("the document is not UTF-8")
    if body.startswith(_BOM):
        # RFC 8259, section 8.1: it must not be there, and need not be ignored.
        return MalformedEventError("the document begins with a byte order mark; send it without")
    return MalformedEventError(str(exc))


def _diagnosis(
    first: Exception, values: Mapping[str, object], convert: Callable[[Any, Any], Any], rules: EventRules, now_ms: int
) -> InvalidEventError:
    """Everything that is wrong with the fields, each looked at by itself; `first` is what was found before."""
    hint = "unknown field; data of your own goes into payload"
    unknown = [FieldError(_pointer(n), hint, "unknown_field") for n in values if n not in _TYPES and n != _PAYLOAD]
    missing = [FieldError(_pointer(n), "required", "required") for n in _REQUIRED if n not in values]
    good, mistyped = _typed(values, convert)
    # The fields that we know come first: a document may have any number of others.
    errors = [*missing, *mistyped, *_broken_rules(values, good, rules, now_ms), *unknown]
    if not errors:
        # It is in a field that is there twice, and right the second time.
        told = first.error if isinstance(first, _RuleBrokenError) else FieldError("", str(first), "invalid_type")
        errors = [told]
    return InvalidEventError(errors[:MAX_ERRORS])


def _typed(
    values: Mapping[str, object], convert: Callable[[Any, Any], Any]
) -> tuple[Mapping[str, Any], Sequence[FieldError]]:
    """The fields that have their type, and an error for each that has not."""
    good: dict[str, Any] = {}
    errors = []
    for name, type_ in _TYPES.items():
        if name in values:
            try:
                good[name] = convert(values[name], type_)
            except UnicodeDecodeError:
                errors.append(FieldError(_pointer(name), "not UTF-8", "invalid_type"))
            except msgspec.DecodeError as exc:
                errors.append(FieldError(_pointer(name), _WHERE.sub("", str(exc)), "invalid_type"))
    return good, errors


def _broken_rules(
    values: Mapping[str, object], good: Mapping[str, Any], rules: EventRules, now_ms: int
) -> Sequence[FieldError]:
    checks: list[Callable[[], object]] = [lambda: _check_payload(_payload_text(values.get(_PAYLOAD, "{}")), rules)]
    checks.extend(partial(_check_field_numbers, name, values.get(name), rules) for name in (*_TYPES, _PAYLOAD))
    if "timestamp" in good:
        checks.append(lambda: _check_timestamp(good["timestamp"], rules, now_ms))
    if "value" in good:
        checks.append(lambda: _check_value(good["value"]))
    # A key that is there but wrong has been reported; only where both are absent is that a fault of its own.
    if all(n not in values or (n in good and good[n] is None) for n in ("user_id", "device_id")):
        checks.append(lambda: _check_keys(None, None))
    errors = []
    for check in checks:
        try:
            check()
        except _RuleBrokenError as exc:
            errors.append(exc.error)
        except UnicodeDecodeError:
            errors.append(FieldError("/payload", "not UTF-8", "invalid_type"))
    return errors


def _check_field_numbers(name: str, value: object, rules: EventRules) -> None:
    if isinstance(value, msgspec.Raw):
        _check_numbers(bytes(value), rules, _pointer(name))
    elif name == _PAYLOAD and isinstance(value, str) and _is_json(value):
        _check_numbers(value.encode(), rules, _pointer(name))


def _is_json(text: str) -> bool:
    try:
        _payload_text(text)
    except _RuleBrokenError:
        return False
    return True


def _pointer(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")
