"""Query parameters: each is declared once, for its handler and for the OpenAPI document; all that is wrong is told at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from multidict import MultiMapping

from streams.domain.errors import FieldError
from streams.domain.validation import MAX_ERRORS, MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS, parse_timestamp
from web.errors import InvalidParameterError

T = TypeVar("T")

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_MAX_TEXT: Final = 256

TIME_NUMBER: Final = {"type": "integer", "minimum": MIN_TIMESTAMP_MS, "maximum": MAX_TIMESTAMP_MS}
TIME_TEXT: Final = {"type": "string", "format": "date-time"}
"""What `parse_timestamp` takes, as JSON Schema: epoch milliseconds, or RFC 3339."""


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """A query parameter. Declare it beside the handler that reads it; `web.describe.operations` names the same object."""

    name: str
    description: str
    parse: Callable[[str], T]
    """Raises ValueError, with what was expected."""
    default: T
    """What it is where it is absent."""
    code: str
    """Of the FieldError where it is wrong."""
    schema: Mapping[str, Any]
    """What `parse` takes, as JSON Schema."""


def text(name: str, description: str) -> Query[str | None]:
    """A text of 1 to 256 characters."""

    def parse(value: str) -> str:
        if not 1 <= len(value) <= _MAX_TEXT:
            raise ValueError(f"expected 1 to {_MAX_TEXT} characters")
        return value

    schema = {"type": "string", "minLength": 1, "maxLength": _MAX_TEXT}
    return Query(name, description, parse, None, "invalid_length", schema)


def choice(name: str, description: str, choices: Collection[str], default: str | None = None) -> Query[str | None]:
    """One of the choices."""

    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return value

    schema = {"type": "string", "enum": list(choices)} | ({} if default is None else {"default": default})
    return Query(name, description, parse, default, "invalid_choice", schema)


def integer(name: str, description: str, *, default: int, least: int, most: int) -> Query[int]:
    """A whole number from least to most."""

    def parse(value: str) -> int:
        if _INTEGER.fullmatch(value) is None or not least <= int(value) <= most:
            raise ValueError(f"expected a whole number from {least} to {most}")
        return int(value)

    schema = {"type": "integer", "minimum": least, "maximum": most, "default": default}
    return Query(name, description, parse, default, "out_of_range", schema)


def time_ms(name: str, description: str) -> Query[int | None]:
    """A time, as epoch milliseconds or RFC 3339, in epoch milliseconds."""

    def parse(value: str) -> int:
        return parse_timestamp(int(value) if _INTEGER.fullmatch(value) else value)

    return Query(name, description, parse, None, "invalid_timestamp", {"anyOf": [TIME_NUMBER, TIME_TEXT]})


def parsed(
    name: str, description: str, parse: Callable[[str], T], code: str, schema: Mapping[str, Any]
) -> Query[T | None]:
    """What `parse`, which raises ValueError, makes of it; `schema` is what it takes."""
    return Query(name, description, parse, None, code, schema)


class Parameters:
    """The query of one request. Read every parameter, then call `check`."""

    def __init__(self, query: MultiMapping[str], declared: Sequence[Query[Any]]) -> None:
        names = [each.name for each in declared]
        self._values: dict[str, str] = {}
        self._errors: list[FieldError] = []
        for name in dict.fromkeys(query):
            if name not in names:
                # Never read from here, a token least of all: URLs end up in logs.
                self._wrong(name, f"unknown parameter; there are: {', '.join(names)}", "unknown_parameter")
            elif len(values := query.getall(name)) > 1:
                self._wrong(name, "given more than once", "repeated")
            else:
                self._values[name] = values[0]

    def read(self, declared: Query[T]) -> T:
        """The value of a parameter, or its default where it is absent or wrong."""
        value = self._values.get(declared.name)
        if value is None:
            return declared.default
        try:
            return declared.parse(value)
        except ValueError as exc:
            self._wrong(declared.name, str(exc), declared.code)
            return declared.default

    def check(self) -> None:
        """Return if nothing was wrong. Raises InvalidParameterError, which names everything that is, up to `MAX_ERRORS`."""
        if self._errors:
            raise InvalidParameterError(self._errors)

    def _wrong(self, name: str, message: str, code: str) -> None:
        if len(self._errors) < MAX_ERRORS:
            self._errors.append(FieldError(f"?{name}", message, code))
