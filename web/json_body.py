"""JSON bodies that become a type of ours: what is wrong is told member by member, all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

import msgspec

from streams.domain.errors import FieldError, PlatformError
from streams.domain.validation import MAX_ERRORS
from web.errors import InvalidRequestError

T = TypeVar("T", bound=msgspec.Struct)


def decoded(body: bytes, type_: type[T], refusal: Callable[[list[FieldError]], PlatformError]) -> T:
    """The document in a body. Raises InvalidRequestError where it is no JSON, and the refusal where it is another's."""
    try:
        try:
            return msgspec.json.decode(body, type=type_)
        except msgspec.ValidationError as exc:
            # It stops at the first thing that is wrong: what comes behind need not even be JSON.
            raise refusal(_errors(body, type_, "") or [FieldError("", str(exc), "invalid_type")]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequestError(f"the body is no JSON: {exc}") from exc


def _errors(document: bytes | msgspec.Raw, type_: type[msgspec.Struct], path: str) -> list[FieldError]:
    try:
        members: Mapping[str, msgspec.Raw] = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return [FieldError(path, "expected a JSON object", "invalid_type")]
    fields = {field.encode_name: field for field in msgspec.structs.fields(type_)}
    names = ", ".join(fields)
    errors = [
        FieldError(f"{path}/{name}", "required", "required")
        for name, field in fields.items()
        if field.required and name not in members
    ]
    for name, raw in members.items():
        if name not in fields:
            pointer = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
            errors.append(FieldError(pointer, f"unknown; there are: {names}", "unknown_field"))
        else:
            errors += _member_errors(raw, fields[name].type, f"{path}/{name}")
        if len(errors) >= MAX_ERRORS:
            break
    return errors


def _member_errors(raw: msgspec.Raw, type_: Any, path: str) -> list[FieldError]:
    try:
        msgspec.json.decode(raw, type=type_)
    except msgspec.ValidationError as exc:
        if (inner := _struct(type_)) is not None and (errors := _errors(raw, inner, path)):
            return errors
        return [FieldError(path, str(exc).partition(" - at `")[0], "invalid_type")]
    return []


def _struct(type_: Any) -> type[msgspec.Struct] | None:
    """The one type with members among those that a member may have."""
    for each in get_args(type_) or (type_,):
        if isinstance(each, type) and issubclass(each, msgspec.Struct):
            return each
    return None
