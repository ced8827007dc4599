"""The schema registry client on a real registry."""

from __future__ import annotations

import json

import fastavro
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from streams import schemas
from streams.codecs import AvroCodec, frame
from streams.domain.aggregates import AggregatedEvent
from streams.domain.envelope_schema import SchemaKind
from streams.domain.errors import (
    IncompatibleSchemaError,
    RegistryAccessError,
    RegistryUnavailableError,
    UnknownSchemaError,
)
from streams.registry import SchemaLoader, SchemaRegistry
from streams.settings import Settings
from tests.topic_schemas import PROTO


def client(server) -> SchemaRegistry:
    return SchemaRegistry(Settings(registry_url=server.url))


def canonical(text: str) -> str:
    return fastavro.schema.to_parsing_canonical_form(json.loads(text))


async def test_every_schema_of_ours_is_registered_once_however_often_it_is_asked(schema_registry):
    registry = client(schema_registry)
    await registry.ensure_compatibility("BACKWARD")
    for subject, text in (("a", schemas.EVENT), ("b", schemas.AGGREGATED_EVENT), ("c", schemas.DLQ_MESSAGE)):
        first = await registry.register(f"{subject}-value", text)
        assert await client(schema_registry).register(f"{subject}-value", text) == first
        # The same schema, if not the same text: the registry leaves out what goes without saying.
        assert canonical(await registry.schema(first)) == canonical(text)


async def test_the_event_schema_has_one_id_under_every_subject(schema_registry):
    """The producer writes one id for all topics."""
    registry = client(schema_registry)
    assert await registry.register("one-value", schemas.EVENT) == await registry.register("two-value", schemas.EVENT)


async def test_a_change_that_breaks_readers_is_refused(schema_registry):
    registry = client(schema_registry)
    await registry.ensure_compatibility("BACKWARD")
    await registry.register("broken-value", schemas.EVENT)
    changed = json.loads(schemas.EVENT)
    changed["fields"].append({"name": "must", "type": "string"})
    with pytest.raises(IncompatibleSchemaError, match="broken-value"):
        await registry.register("broken-value", json.dumps(changed))


async def test_an_unknown_writer_schema_is_loaded_by_id_and_an_absent_one_is_said_to_be(schema_registry):
    registry = client(schema_registry)
    schema_id = await registry.register("loaded-value", schemas.AGGREGATED_EVENT)
    codec = AvroCodec()
    loader = SchemaLoader(registry, codec)
    assert not codec.knows(schema_id)
    result = AggregatedEvent("iot", "a", "tumbling-1m", 0, 60_000, 1, None, None, None, None, 0, 0, 0)
    data = codec.encode_aggregate(result, schema_id)
    assert await loader.read(lambda: codec.decode_aggregate(data)) == result
    assert codec.knows(schema_id)
    with pytest.raises(UnknownSchemaError):
        await loader.read(lambda: codec.event_fields(frame(999_999, b"")))


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (503, "<html>", RegistryUnavailableError),
        (502, "", RegistryUnavailableError),
        (429, "slow down", RegistryUnavailableError),
        (200, "<html>", RegistryUnavailableError),
        (200, b"<html>\xe4", RegistryUnavailableError),
        (499, "{}", RegistryAccessError),
        (401, "", RegistryAccessError),
        (403, "{}", RegistryAccessError),
        (400, '{"error_code": 400, "message": "no"}', UnknownSchemaError),
        (404, '{"error_code": 40403, "message": "no"}', UnknownSchemaError),
    ],
)
async def test_an_answer_is_judged_by_its_status_whatever_is_in_it(status, body, error):
    """A proxy in front of the registry answers in HTML."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    async with TestServer(app) as server:
        with pytest.raises(error):
            await SchemaRegistry(Settings(registry_url=str(server.make_url("/")))).schema(7)


async def test_a_registry_that_is_away_may_come_back():
    with pytest.raises(RegistryUnavailableError) as away:
        await SchemaRegistry(Settings(registry_url="http://127.0.0.1:1")).ping()
    assert away.value.retriable


async def test_a_schema_that_is_no_avro_is_unknown_to_who_reads_avro_now_and_later(schema_registry):
    """Not away: whoever sends its id would have the agents try for ever."""
    registry = client(schema_registry)
    schema_id = await registry.register("elsewhere-protobuf", PROTO, SchemaKind.PROTOBUF)
    with pytest.raises(UnknownSchemaError):
        await registry.schema(schema_id)
