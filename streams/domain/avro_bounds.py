"""Which Avro schemas may be read from bytes of strangers: those by which few bytes cannot be much work.

A reader counts to 2^60 in an array of nulls. And where a type contains itself, bytes nest as deep as they like, until
the stack of fastavro's C overflows: the process ends, without an exception.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


class UnsafeSchemaError(ValueError):
    """A value of the schema may take no byte, or may contain another of its own type; the message says which."""


def check_bounded(schema: Any, max_depth: int = sys.maxsize) -> None:
    """Return if every value takes a byte at least, none contains another of its own type, and types nest no deeper.

    The schema is JSON, valid or not, or as fastavro parses it. Raises UnsafeSchemaError, RecursionError, or what
    comes of it where it is no schema: KeyError, TypeError, AttributeError.
    """
    _check(schema, max_depth, 0, ())


def _check(schema: Any, max_depth: int, depth: int, inside: tuple[str, ...]) -> None:
    """`inside` are the names of the records around this type."""
    if depth > max_depth:
        raise UnsafeSchemaError(f"it nests deeper than {max_depth}")
    if isinstance(schema, str) and schema.rpartition(".")[2] in inside:
        raise UnsafeSchemaError(f"it has a type within itself: {schema[:100]}")
    match schema:
        case {"type": "record" | "error", "name": name}:
            inside = (*inside, name.rpartition(".")[2])
    for part in _parts(schema):
        _check(part, max_depth, depth + 1, inside)


def _parts(schema: Any) -> Sequence[Any]:
    """The types that a type consists of. Raises UnsafeSchemaError where a value of it may take no byte."""
    match schema:
        case list():
            return schema
        case {"type": "record" | "error", "fields": [_, *_] as fields}:
            parts = [field["type"] for field in fields]
        case {"type": "array", "items": part} | {"type": "map", "values": part}:
            parts = [part]
        case {"type": "fixed", "size": int(size)} if size > 0:
            return ()
        case {"type": "enum"} | str():
            return ()
        case {"type": "record" | "error" | "array" | "map" | "fixed"}:
            raise UnsafeSchemaError("it has a type without parts, or without a byte")
        case _:
            parts = [schema["type"]]
    if "null" in parts:
        raise UnsafeSchemaError("it has null outside a union")
    return parts
