"""JSON Schemas of our types, for the OpenAPI document: from the types themselves and from what their source says of them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from textwrap import dedent
from typing import Any, Final

import msgspec

Schema = dict[str, Any]

REF_TEMPLATE: Final = "#/components/schemas/{name}"


def type_schemas(types: Iterable[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """The schema of each type, in order, and the components that they refer to, by name.

    A field is described by the docstring below it.
    """
    wanted = list(types)
    schemas, components = msgspec.json.schema_components(wanted, ref_template=REF_TEMPLATE)
    classes = {cls.__name__: cls for cls in _classes(msgspec.inspect.multi_type_info(wanted))}
    for name, component in components.items():
        component.pop("title", None)
        described = _field_docs(classes[name]) if name in classes else {}
        for field, schema in component.get("properties", {}).items():
            if field in described:
                schema["description"] = described[field]
    return [portable(schema) for schema in schemas], {name: portable(c) for name, c in sorted(components.items())}


def portable(schema: Any) -> Any:
    """A schema of msgspec's, as JSON Schema demands it, and as its decoder acts.

    Patterns are those of ECMA-262: the end of a text is `$` there. Of what becomes a set, repetitions are dropped, not
    refused.
    """
    if isinstance(schema, Mapping):
        return {
            name: value.replace(r"\Z", "$") if name == "pattern" and isinstance(value, str) else portable(value)
            for name, value in schema.items()
            if name != "uniqueItems"
        }
    if isinstance(schema, list):
        return [portable(item) for item in schema]
    return schema


def _classes(infos: Iterable[Any]) -> Iterator[type]:
    """The classes with fields in these types, each once."""
    seen: set[int] = set()
    waiting = list(infos)
    while waiting:
        info = waiting.pop()
        if isinstance(info, tuple | list):
            waiting.extend(info)
        elif isinstance(info, msgspec.Struct) and id(info) not in seen:
            seen.add(id(info))
            if isinstance(cls := getattr(info, "cls", None), type):
                yield cls
            # Whatever kind of type it is: those that it is made of are in its fields.
            waiting.extend(getattr(info, name) for name in info.__struct_fields__)


@cache
def _field_docs(cls: type) -> Mapping[str, str]:
    """What the source says below each field, by the field's name on the wire."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] in ("builtins", "msgspec", "typing"):
            continue
        [definition] = ast.parse(dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for line, below in zip(definition.body, definition.body[1:], strict=False):
            match line, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str() as words)),
                ):
                    found[name] = " ".join(words.split())
    if not issubclass(cls, msgspec.Struct):
        return found
    return {field.encode_name: found[field.name] for field in msgspec.structs.fields(cls) if field.name in found}
