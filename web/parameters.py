"""Query parameters: each is checked, and everything that is wrong is told at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final, TypeVar

from multidict import MultiMapping

from streams.domain.errors import FieldError
from streams.domain.validation import parse_timestamp
from web.errors import InvalidParameterError

T = TypeVar("T")

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_MAX_TEXT: Final = 256


class Parameters:
    """The query of one request. Read every parameter, then call `check`."""

    def __init__(self, query: MultiMapping[str], allowed: Collection[str]) -> None:
        self._values: dict[str, str] = {}
        self._errors: list[FieldError] = []
        for name in dict.fromkeys(query):
            if name not in allowed:
                # Never read from here, a token least of all: URLs end up in logs.
                self._wrong(name, f"unknown parameter; there are: {', '.join(allowed)}", "unknown_parameter")
            elif len(values := query.getall(name)) > 1:
                self._wrong(name, "given more than once", "repeated")
            else:
                self._values[name] = values[0]

    def text(self, name: str) -> str | None:
        """A text of 1 to 256 characters."""
        value = self._values.get(name)
        if value is not None and not 1 <= len(value) <= _MAX_TEXT:
            self._wrong(name, f"expected 1 to {_MAX_TEXT} characters", "invalid_length")
            return None
        return value

    def choice(self, name: str, choices: Collection[str]) -> str | None:
        """One of the choices."""
        value = self._values.get(name)
        if value is not None and value not in choices:
            self._wrong(name, f"expected one of {', '.join(choices)}", "invalid_choice")
            return None
        return value

    def integer(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number from least to most."""
        value = self._values.get(name)
        if value is None:
            return default
        if _INTEGER.fullmatch(value) is None or not least <= int(value) <= most:
            self._wrong(name, f"expected a whole number from {least} to {most}", "out_of_range")
            return default
        return int(value)

    def time_ms(self, name: str) -> int | None:
        """A time, as epoch milliseconds or RFC 3339, in epoch milliseconds."""
        value = self._values.get(name)
        if value is None:
            return None
        try:
            return parse_timestamp(int(value) if _INTEGER.fullmatch(value) else value)
        except ValueError as exc:
            self._wrong(name, str(exc), "invalid_timestamp")
            return None

    def parsed(self, name: str, parse: Callable[[str], T], code: str) -> T | None:
        """What `parse`, which raises ValueError, makes of it."""
        value = self._values.get(name)
        if value is None:
            return None
        try:
            return parse(value)
        except ValueError as exc:
            self._wrong(name, str(exc), code)
            return None

    def check(self) -> None:
        """Return if nothing was wrong. Raises InvalidParameterError, which names everything that is."""
        if self._errors:
            raise InvalidParameterError(self._errors)

    def _wrong(self, name: str, message: str, code: str) -> None:
        self._errors.append(FieldError(f"?{name}", message, code))
