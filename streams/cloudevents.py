"""CloudEvents 1.0 to events and back: the JSON format (structured mode) and HTTP's headers (binary mode).

| CloudEvents | event |
| --- | --- |
| `id` | `event_id`, where it is a UUID; else a UUID made of `source` and `id`, which together are an event's identity |
| `type`, `source` | `event_type`, `source` |
| `time` | `timestamp`; the time of arrival where it is absent |
| `userid`, `deviceid` | `user_id`, `device_id`; without both, `partitionkey`, else `subject`, is the `device_id` |
| `value` | `value`: a number, or the text of one |
| `data`, `data_base64` | `payload`: a JSON object |

`traceparent` goes on beside the event. Other attributes are left out. Why: `docs/adr/cloudevents.md`.
Sources: CloudEvents 1.0.2 and its JSON format, HTTP binding, and extensions Partitioning and Distributed Tracing.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from streams.domain.envelope import Event
from streams.domain.errors import FieldError, InvalidEventError, MalformedEventError
from streams.domain.headers import media_type
from streams.domain.validation import EventRules, event_from_fields

HEADER_PREFIX: Final = "ce-"
NO_SOURCE: Final = "urn:event-streams"
"""The `source` of an event that has none: in CloudEvents each must have one."""

_VERSION: Final = "1.0"
_IDS: Final = uuid.UUID("c10dde7e-0b5f-4f0f-9a0c-5a5b7c1f2f6e")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NUMBER: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_JSON_TYPE: Final = re.compile(r"[a-z]+/(?:.+\+)?json")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE: Final = re.compile(r"\\(.)")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NOTHING: Final = msgspec.Raw(b"null")


class _Attributes(msgspec.Struct, gc=False):
    """What is read of a CloudEvent; null is the same as absent (JSON format, section 2.2)."""

    specversion: str | None = None
    id: str | None = None
    source: str | None = None
    type: str | None = None
    time: str | None = None
    subject: str | None = None
    datacontenttype: str | None = None
    partitionkey: str | None = None
    userid: str | None = None
    deviceid: str | None = None
    value: float | str | None = None
    data: msgspec.Raw = _NOTHING
    data_base64: str | None = None


class _Traced(msgspec.Struct, gc=False):
    traceparent: str | None = None


_TYPES: Final[Mapping[str, Any]] = {field.name: field.type for field in msgspec.structs.fields(_Attributes)}
_PATHS: Final[Mapping[str, str]] = {
    "/event_id": "/id",
    "/event_type": "/type",
    "/timestamp": "/time",
    "/user_id": "/userid",
    "/payload": "/data",
}
"""Where a fault of the event is in a CloudEvent, if it is elsewhere."""

_decode: Final = msgspec.json.Decoder(_Attributes).decode
_decode_traced: Final = msgspec.json.Decoder(_Traced).decode
_split: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def structured(document: bytes, *, rules: EventRules, now_ms: int, new_event_id: Callable[[], str]) -> Event:
    """The event in a document of `application/cloudevents+json`.

    Arguments are those of `event_from_json`. Raises MalformedEventError, or InvalidEventError with the paths of a
    CloudEvent: `/type`, `/data`.
    """
    try:
        return _event(_decode(document), rules, now_ms, new_event_id)
    except msgspec.ValidationError as exc:
        raise _mistyped(document, exc) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _malformed(exc) from exc


def binary(
    attributes: Mapping[str, str],
    body: bytes,
    content_type: str,
    *,
    rules: EventRules,
    now_ms: int,
    new_event_id: Callable[[], str],
) -> Event:
    """The event whose attributes came as headers (see `header_attributes`), and its data as the body.

    `content_type` is the request's, empty where there is none. Errors are those of `structured`.
    """
    known = {name: text for name, text in attributes.items() if name in _TYPES and not name.startswith("data")}
    found = msgspec.convert(known, _Attributes)
    found.datacontenttype = content_type or None
    found.data = msgspec.Raw(body or b"null")
    return _event(found, rules, now_ms, new_event_id)


def is_binary(headers: Mapping[str, str], content_type: str) -> bool:
    """Whether a request is a CloudEvent in binary mode: by its headers, unless its Content-Type says structured."""
    return f"{HEADER_PREFIX}specversion" in headers and not content_type.lower().startswith("application/cloudevents")


def header_attributes(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The attributes in HTTP's headers, by their names without `ce-` (HTTP binding, section 3.1.3).

    Raises InvalidEventError where a value is not UTF-8, which it must be once it is percent-decoded.
    """
    attributes = {}
    errors = []
    for header, value in headers:
        name = header.lower()
        if name.startswith(HEADER_PREFIX):
            name = name.removeprefix(HEADER_PREFIX)
            try:
                attributes[name] = _header_value(value)
            except ValueError:
                errors.append(FieldError(f"/{name}", "expected UTF-8, percent-encoded", "invalid_encoding"))
    if errors:
        raise InvalidEventError(errors)
    return attributes


def traceparent_of(document: bytes) -> str | None:
    """The `traceparent` in a structured CloudEvent (extension Distributed Tracing), None where it has none."""
    try:
        return _decode_traced(document).traceparent
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Not a text: none by W3C Trace Context, which asks to go on without. Or no CloudEvent: `structured` says so.
        return None


def event_to_cloudevent(event: Event) -> bytes:
    """The event as a document of `application/cloudevents+json`, which `structured` reads."""
    attributes: dict[str, object] = {
        "specversion": _VERSION,
        "id": event.event_id,
        "source": event.source or NO_SOURCE,
        "type": event.event_type,
        "time": _rfc3339(event.timestamp),
        "datacontenttype": "application/json",
        "userid": event.user_id,
        "deviceid": event.device_id,
        # An attribute is no fraction (core specification, section "Type System"), so it is the text of one.
        "value": None if event.value is None else repr(event.value),
    }
    present: dict[str, object] = {name: value for name, value in attributes.items() if value is not None}
    return msgspec.json.encode(present | {"data": msgspec.Raw(event.payload.encode())})


def _event(found: _Attributes, rules: EventRules, now_ms: int, new_event_id: Callable[[], str]) -> Event:
    errors = list(_own_faults(found))
    named = found.userid is not None or found.deviceid is not None
    thing = found.deviceid if named else found.partitionkey if found.partitionkey is not None else found.subject
    values: dict[str, object] = {
        "event_id": _event_id(found.source or "", found.id or ""),
        "event_type": found.type,
        "timestamp": now_ms if found.time is None else found.time,
        "user_id": found.userid,
        "device_id": thing,
        "value": found.value,
        "source": None if found.source == NO_SOURCE else found.source,
    }
    try:
        values["value"] = _value(found.value, rules)
    except ValueError:
        values["value"] = None
        errors.append(FieldError("/value", "expected a number, or the text of one", "invalid_type"))
    try:
        values["payload"] = _payload(found)
    except (ValueError, UnicodeDecodeError) as exc:
        errors.append(FieldError("/data_base64", f"expected a JSON object in Base64: {exc}", "invalid_type"))
    try:
        event = event_from_fields(values, rules, now_ms, new_event_id)
    except InvalidEventError as exc:
        told = {error.path for error in errors}
        translated = (_translated(error, found, named=named) for error in exc.errors)
        raise InvalidEventError([*errors, *(e for e in translated if e.path not in told)]) from None
    if errors:
        raise InvalidEventError(errors)
    return event


def _own_faults(found: _Attributes) -> Iterable[FieldError]:
    """What CloudEvents asks for, and the event does not."""
    if found.specversion != _VERSION:
        yield FieldError("/specversion", f"expected {_VERSION!r}", "required")
    for name, value in (("id", found.id), ("source", found.source), ("type", found.type)):
        if not value:
            yield FieldError(f"/{name}", "required", "required")
    content_type = found.datacontenttype
    if content_type is not None and not _JSON_TYPE.fullmatch(media_type(content_type)):
        yield FieldError("/datacontenttype", "expected a JSON type, such as application/json", "invalid_type")
    if found.data_base64 is not None and bytes(found.data) != b"null":
        yield FieldError("/data_base64", "data and data_base64 exclude each other", "invalid_type")


def _event_id(source: str, id_: str) -> str:
    # With the length, so that no two pairs make one text.
    return id_ if _UUID.fullmatch(id_) else str(uuid.uuid5(_IDS, f"{len(source)} {source}{id_}"))


def _value(value: float | str | None, rules: EventRules) -> float | None:
    """Raises ValueError."""
    if isinstance(value, str):
        if len(value) > rules.max_number_length or not _NUMBER.fullmatch(value):
            raise ValueError
        return float(value)
    return value


def _payload(found: _Attributes) -> object:
    """The text of the data, whatever it is of. Raises ValueError or UnicodeDecodeError."""
    if found.data_base64 is not None:
        try:
            return base64.b64decode(found.data_base64, validate=True).decode()
        except binascii.Error as exc:
            raise ValueError(str(exc)) from exc
    data = bytes(found.data)
    if data == b"null":
        return "{}"
    try:
        return data.decode()
    except UnicodeDecodeError:
        # Not a text, so no object: `event_from_fields` says so.
        return None


def _translated(error: FieldError, found: _Attributes, *, named: bool) -> FieldError:
    """A fault of the event in the words of a CloudEvent."""
    if error.code == "key_required":
        message = "at least one of the attributes userid, deviceid, partitionkey and subject is required"
        return FieldError("", message, error.code)
    path = _PATHS.get(error.path, error.path)
    if path == "/device_id":
        path = "/deviceid" if named else "/partitionkey" if found.partitionkey is not None else "/subject"
    elif path == "/data" and found.data_base64 is not None:
        path = "/data_base64"
    return FieldError(path, error.message, error.code)


def _malformed(exc: Exception) -> MalformedEventError:
    return MalformedEventError(f"not a CloudEvent in JSON: {exc}")


def _mistyped(document: bytes, first: Exception) -> InvalidEventError:
    """Each attribute that has not its type; `first` is what was found before."""
    try:
        members = _split(document)
    except msgspec.ValidationError:
        return InvalidEventError([FieldError("", "expected a JSON object", "invalid_type")])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return _malformed(exc)
    errors = []
    for name, type_ in _TYPES.items():
        if name in members:
            try:
                msgspec.json.decode(members[name], type=type_)
            except msgspec.DecodeError as exc:
                errors.append(FieldError(f"/{name}", str(exc), "invalid_type"))
            except UnicodeDecodeError:
                errors.append(FieldError(f"/{name}", "not UTF-8", "invalid_type"))
    # None where an attribute is there twice, and right the second time.
    return InvalidEventError(errors or [FieldError("", str(first), "invalid_type")])


def _rfc3339(ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _header_value(value: str) -> str:
    """A header's value, first unquoted, then percent-decoded once. Raises ValueError."""
    quoted = _QUOTED.fullmatch(value)
    text = value if quoted is None else _ESCAPE.sub(r"\1", quoted[1])
    if "%" not in text and text.isascii():
        return text
    # A percent sign by itself stays: SDKs older than that rule encode nothing. UnicodeError is a ValueError.
    return unquote_to_bytes(text).decode()
