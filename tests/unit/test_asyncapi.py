"""GET /asyncapi.json: valid by AsyncAPI's own schema, and silent about which topics there are to who may not know."""

from __future__ import annotations

import json

import jsonschema_rs
import pytest

from deploy.local.paths import ROOT
from streams import schemas
from streams.domain.envelope_schema import SchemaKind
from streams.domain.naming import AGGREGATES, DLQ, INGRESS, LATE
from tests.web_gateway import gateway, problem_of
from web.describe.asyncapi import AVRO, TopicSchema, asyncapi_document

OFFICIAL = ROOT / "tests" / "asyncapi" / "asyncapi-3.0.0.schema.json"
OWN_SCHEMA = json.dumps({"type": "record", "name": "Reading", "fields": [{"name": "event_id", "type": "string"}]})
DOCUMENT = asyncapi_document()


@pytest.fixture(scope="module")
def validator():
    return jsonschema_rs.validator_for(json.loads(OFFICIAL.read_text()))


def resolve(document, reference):
    """What a `$ref` leads to; a KeyError where it leads nowhere."""
    for part in reference.removeprefix("#/").split("/"):
        document = document[part.replace("~1", "/").replace("~0", "~")]
    return document


def references(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


TOPICS = (
    TopicSchema("clicks", SchemaKind.JSON, '{"type": "object"}'),
    TopicSchema("iot", SchemaKind.AVRO, None),
    TopicSchema("weather", SchemaKind.AVRO, OWN_SCHEMA),
)


@pytest.mark.parametrize("topics", [(), TOPICS])
def test_the_specification_s_own_schema_takes_it(validator, topics):
    assert [error.message for error in validator.iter_errors(asyncapi_document(topics))] == []


def test_the_specification_s_schema_would_refuse_a_broken_one(validator):
    assert not validator.is_valid(DOCUMENT | {"channels": {"stream": {"address": 7}}})


@pytest.mark.parametrize("topics", [(), TOPICS])
def test_each_reference_leads_somewhere(topics):
    document = asyncapi_document(topics)
    found = set(references(document))
    assert found
    for reference in found:
        assert resolve(document, reference)


def test_each_channel_has_an_operation_and_each_message_a_channel():
    used = {operation["channel"]["$ref"].removeprefix("#/channels/") for operation in DOCUMENT["operations"].values()}
    assert used == DOCUMENT["channels"].keys()
    messages = {name for channel in DOCUMENT["channels"].values() for name in channel["messages"]}
    assert messages == DOCUMENT["components"]["messages"].keys()


def test_the_topics_and_the_stream_are_there_with_the_schemas_that_we_write():
    channels, messages = DOCUMENT["channels"], DOCUMENT["components"]["messages"]
    assert {channel["address"] for channel in channels.values()} == {
        "/api/v1/stream/{topic}", "events.{topic}", INGRESS, DLQ, AGGREGATES, LATE,
    }  # fmt: skip
    for name, text in (
        ("Event", schemas.EVENT),
        ("AggregatedEvent", schemas.AGGREGATED_EVENT),
        ("DeadLetter", schemas.DLQ_MESSAGE),
    ):
        assert messages[name]["payload"] == {"schemaFormat": AVRO, "schema": json.loads(text)}


def test_a_topic_that_may_be_known_of_is_there_with_its_own_schema():
    document = asyncapi_document(TOPICS)
    iot, weather = document["channels"]["events.iot"], document["channels"]["events.weather"]
    assert (iot["address"], weather["address"]) == ("events.iot", "events.weather")
    [message] = weather["messages"].values()
    assert resolve(document, message["$ref"])["payload"]["schema"] == json.loads(OWN_SCHEMA)
    [message] = iot["messages"].values()
    assert resolve(document, message["$ref"])["payload"]["schema"] == json.loads(schemas.EVENT)
    # What is in Kafka is an event like any other; its definition is about what clients send.
    clicks = document["channels"]["events.clicks"]
    assert clicks["messages"] == iot["messages"]
    assert clicks["x-definition"]["schema"] == '{"type": "object"}'


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_anyone_may_read_it_and_learns_of_no_topic(prefix):
    async with gateway() as g:
        response = await g.client.get(f"{prefix}/asyncapi.json")
        assert (response.status, response.content_type) == (200, "application/json")
        assert await response.json() == DOCUMENT
    assert "events.iot" not in json.dumps(DOCUMENT["channels"])


async def test_who_may_list_topics_sees_each():
    async with gateway() as g:
        response = await g.client.get("/asyncapi.json", headers=g.headers("topics:read"))
        document = await response.json()
        assert document["channels"]["events.iot"]["address"] == "events.iot"
        assert "events.platform.dlq" not in document["channels"]
        assert (response.headers["Vary"], response.headers["Cache-Control"]) == ("Authorization", "no-store")
        other = await g.client.get("/asyncapi.json", headers=g.headers("events:read:*"))
        assert await other.json() == DOCUMENT


async def test_who_shows_a_token_that_is_none_is_told():
    async with gateway() as g:
        response = await g.client.get("/asyncapi.json", headers={"Authorization": "Bearer none"})
        assert (await problem_of(response))["code"] == "invalid_token"
        assert response.status == 401
