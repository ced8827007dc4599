"""A client names the schema of its bytes by an id: it may be any that the registry has, whoever put it there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streams import schemas
from streams.codecs import AvroCodec, frame
from streams.domain.errors import MalformedEventError, UnknownSchemaError
from streams.registry import SchemaLoader
from tests.web_gateway import MemoryRegistry

EVENT = json.loads(schemas.EVENT)
TREE = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}


class Registry(MemoryRegistry):
    """Has one schema, under every id."""

    def __init__(self, schema: Any) -> None:
        super().__init__()
        self.text = schema if isinstance(schema, str) else json.dumps(schema)

    async def schema(self, schema_id: int) -> str:
        return self.text


def with_field(type_: Any) -> Any:
    return EVENT | {"fields": [{"name": "own", "type": type_}, *EVENT["fields"]]}


@pytest.mark.parametrize(
    "schema",
    [
        TREE,
        with_field(TREE),
        with_field({"type": "array", "items": TREE}),
        with_field({"type": "map", "values": ["null", {**TREE, "namespace": "a.b"}]}),
        with_field("null"),
        with_field({"type": "array", "items": "null"}),
        with_field({"type": "array", "items": {"type": "record", "name": "Nothing", "fields": []}}),
        with_field({"type": "array", "items": {"type": "fixed", "name": "Nothing", "size": 0}}),
        '{"type":"array","items":' * 5_000 + '"int"' + "}" * 5_000,
        with_field({"type": {"type": "array", "items": "int"}}),
        {"type": "record", "name": 1, "fields": EVENT["fields"]},
        "no schema",
    ],
)
async def test_a_schema_by_which_few_bytes_could_be_much_work_is_not_read_by(schema):
    """Or bytes that nest deep end the process, and twelve bytes keep it busy for ever."""
    codec = AvroCodec()
    loader = SchemaLoader(Registry(schema), codec)
    with pytest.raises(UnknownSchemaError):
        await loader.read(lambda: codec.event_fields(frame(5, b"\x02" * 1_000)))
    assert not codec.knows(5)


@pytest.mark.parametrize(
    "type_",
    [
        {"type": "array", "items": ["null", "int"]},
        {"type": "record", "name": "Own", "fields": [{"name": "n", "type": {"type": "fixed", "name": "F", "size": 2}}]},
        {"type": "enum", "name": "Own", "symbols": ["a"]},
    ],
)
async def test_other_schemas_are(type_):
    codec = AvroCodec()
    loader = SchemaLoader(Registry(with_field(type_)), codec)
    with pytest.raises(MalformedEventError):
        await loader.read(lambda: codec.event_fields(frame(5, b"\x02")))
    assert codec.knows(5)
