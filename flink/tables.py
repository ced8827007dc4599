"""Statements of Flink SQL as data: a table with its options, and the literals they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr


def literal(text: str) -> str:
    """A string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A quoted name: `timestamp`, `value`, `count` and more of ours are words of SQL."""
    return "`" + name.replace("`", "``") + "`"


def prefixed(prefix: str, options: Mapping[str, str | SecretStr]) -> dict[str, str | SecretStr]:
    """The options, each name with a prefix."""
    return {prefix + name: value for name, value in options.items()}


@dataclass(frozen=True, slots=True)
class Table:
    """A table that a connector backs. As text it hides its secrets; `ddl` does not."""

    name: str
    columns: tuple[str, ...]
    options: Mapping[str, str | SecretStr]

    def ddl(self) -> str:
        """The statement for Flink, with secrets: never to be logged."""
        return self._render(reveal=True)

    def __str__(self) -> str:
        return self._render(reveal=False)

    def _render(self, *, reveal: bool) -> str:
        columns = ",\n  ".join(self.columns)
        options = ",\n  ".join(
            f"{literal(name)} = {literal(_text(value, reveal=reveal))}" for name, value in self.options.items()
        )
        return f"CREATE TEMPORARY TABLE {self.name} (\n  {columns}\n) WITH (\n  {options}\n)"


def _text(value: str | SecretStr, *, reveal: bool) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value() if reveal else str(value)
    return value
