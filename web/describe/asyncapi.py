"""The AsyncAPI 3.0 document: live streams, and the Kafka topics, with the messages of both.

It is open to anyone, and so names no event topic: channels of events have the topic as a parameter. To who may list
topics it shows each of them as well, with the schema that the registry has.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from streams import schemas
from streams.domain import dead_letters, headers
from streams.domain.envelope_schema import SchemaKind
from streams.domain.naming import AGGREGATES, DLQ, EVENTS_PREFIX, INGRESS, LATE, TOPIC_PATTERN
from streams.event_topics import EventTopics
from web.describe.operations.event_body import EVENT, EXAMPLE
from web.describe.schemas import Schema, type_schemas
from web.live.stream_messages import Gap, Position
from web.live.websocket import STREAM_QUERY, SUBPROTOCOL
from web.parameters import Query
from web.read.records import StoredEvent
from web.routes import PREFIX

AVRO: Final = "application/vnd.apache.avro;version=1.9.0"
"""AsyncAPI's name of the format of Avro schemas."""
MAX_TOPICS: Final = 200
"""So many topics are looked up in the registry, by name; the others are in `GET /topics`."""

_AT_ONCE: Final = 8
_DEFINED_IN: Final = {
    SchemaKind.AVRO: AVRO,
    SchemaKind.JSON: "application/schema+json",
    SchemaKind.PROTOBUF: "application/vnd.google.protobuf;version=3",
}
_WIRE_FORMAT: Final[Schema] = {
    "kafka": {
        "key": {"type": "string", "description": "`user_id`, else `device_id`, in UTF-8"},
        "schemaIdLocation": "payload",
        "schemaIdPayloadEncoding": "confluent",
        "bindingVersion": "0.5.0",
    }
}
"""Confluent's: a zero byte, the schema id in four bytes, Avro."""

_TEXT: Final[Schema] = {"type": "string"}
_MILLISECONDS: Final[Schema] = {"type": "string", "description": "milliseconds since the Unix epoch, in digits"}
_TRACE: Final = {headers.TRACEPARENT: {"type": "string", "description": "W3C Trace Context, where the client sent it"}}

_EVENT_HEADERS: Final[Schema] = {
    "type": "object",
    "properties": {
        headers.EVENT_ID: _TEXT,
        headers.EVENT_TYPE: _TEXT,
        headers.CONTENT_TYPE: {"type": "string", "description": "the form in which the event was received"},
        headers.INGESTED_AT: _MILLISECONDS,
        **_TRACE,
    },
    "required": [headers.EVENT_ID, headers.EVENT_TYPE, headers.CONTENT_TYPE, headers.INGESTED_AT],
}
_INGRESS_HEADERS: Final[Schema] = {
    "type": "object",
    "properties": {
        headers.EVENT_TOPIC: {"type": "string", "description": "the topic that the event is for, without `events.`"},
        headers.CONTENT_TYPE: {"type": "string", "description": "what the value is; JSON where it is absent"},
        **_TRACE,
    },
    "required": [headers.EVENT_TOPIC],
}
_DLQ_HEADERS: Final[Schema] = {
    "type": "object",
    "properties": {
        dead_letters.REASON_HEADER: {"type": "string", "description": "a stable code"},
        dead_letters.SOURCE_TOPIC_HEADER: _TEXT,
        dead_letters.REPLAYS_HEADER: {"type": "string", "description": "how often it was redriven, in digits"},
    },
    "required": [dead_letters.REASON_HEADER],
}


@dataclass(frozen=True, slots=True)
class TopicSchema:
    """An event topic, for who may know that it exists."""

    topic: str
    """Without `events.`."""
    kind: SchemaKind
    schema: str | None
    """The newest version of its own schema; None where it has none."""


async def topic_schemas(topics: EventTopics) -> list[TopicSchema]:
    """The first topics by name, as the registry has them now. Raises Kafka's and the registry's errors."""
    summaries = await topics.summaries((await topics.names())[:MAX_TOPICS])
    turns = asyncio.Semaphore(_AT_ONCE)

    async def look(name: str, kind: SchemaKind) -> TopicSchema:
        async with turns:
            versions = await topics.schema_versions(name, 1)
        return TopicSchema(name, kind, versions[0].text if versions else None)

    return list(await asyncio.gather(*(look(summary.name, summary.schema_kind) for summary in summaries)))


def asyncapi_document(topics: Iterable[TopicSchema] = ()) -> Schema:
    """The document. It is the same for the same topics."""
    messages = _messages()
    channels = _channels()
    operations = _operations()
    for each in topics:
        name = EVENTS_PREFIX + each.topic
        message = "Event"
        channels[name] = _kafka_channel(name, f"The events of {each.topic}.", [message])
        if each.schema is not None and each.kind is SchemaKind.AVRO:
            message = f"Event.{each.topic}"
            messages[message] = _avro_message(f"an event of {each.topic}", each.schema, _EVENT_HEADERS)
            channels[name]["messages"] = _references([message])
        elif each.schema is not None:
            # It describes what clients send: in Kafka the event is as any other.
            channels[name]["x-definition"] = {"schemaFormat": _DEFINED_IN[each.kind], "schema": each.schema}
        operations[f"store.{name}"] = _operation("send", name, "Events are stored")
    _, components = type_schemas([StoredEvent, Gap, Position])
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Event streams",
            "version": version("event-streams"),
            "description": (
                "Live events over WebSocket, and the Kafka topics behind them. `send` is what the platform sends."
                " HTTP is described in `/openapi.json`."
            ),
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": "{host}",
                "protocol": "ws",
                "description": "every worker; `wss` behind TLS",
                "variables": {"host": {"default": "127.0.0.1:6066"}},
                "security": [{"$ref": "#/components/securitySchemes/token"}],
            },
            "kafka": {
                "host": "{bootstrap}",
                "protocol": "kafka",
                "description": "the brokers, for clients that have access to them; `kafka-secure` with TLS",
                "variables": {"bootstrap": {"default": "127.0.0.1:9092"}},
            },
        },
        "channels": dict(sorted(channels.items())),
        "operations": dict(sorted(operations.items())),
        "components": {
            "messages": dict(sorted(messages.items())),
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": (
                        "with the scope `events:read:<topic>`, as the header `Authorization`, or as the subprotocol"
                        f" `bearer.<token>` beside `{SUBPROTOCOL}`"
                    ),
                }
            },
        },
    }


def _channels() -> dict[str, Schema]:
    topic = {"description": f"the topic, without `{EVENTS_PREFIX}`: `{TOPIC_PATTERN}`", "examples": ["iot"]}
    return {
        "stream": {
            "address": f"{PREFIX}/stream/{{topic}}",
            "description": "What is stored from now on, of one topic; in the log's order within each partition.",
            "servers": [{"$ref": "#/servers/gateway"}],
            "parameters": {"topic": topic},
            "messages": _references(["LiveEvent", "LiveEventAvro", "LiveEventProtobuf", "Gap", "Position"]),
            "bindings": {"ws": {"method": "GET", "query": _query_schema(STREAM_QUERY), "bindingVersion": "0.1.0"}},
        },
        "events": _kafka_channel(EVENTS_PREFIX + "{topic}", "Every valid event, once.", ["Event"])
        | {"parameters": {"topic": topic}},
        INGRESS: _kafka_channel(
            INGRESS,
            "Where Kafka clients write events; each ends in its topic, or among the dead letters.",
            ["IngressJson", "IngressAvro", "IngressProtobuf"],
        ),
        DLQ: _kafka_channel(DLQ, "What could not be taken: byte for byte, with the reason.", ["DeadLetter"]),
        AGGREGATES: _kafka_channel(
            AGGREGATES, "Window results: upsert on topic, event_type, window, window_start.", ["AggregatedEvent"]
        ),
        LATE: _kafka_channel(LATE, "Events that came too late for a window, and which.", ["LateEvent"]),
    }


def _operations() -> dict[str, Schema]:
    return {
        "streamEvents": _operation("send", "stream", "Live events are sent to a WebSocket"),
        "takeEvents": _operation("receive", INGRESS, "Events are taken from Kafka clients"),
        "storeEvents": _operation("send", "events", "Events are stored"),
        "keepDeadLetters": _operation("send", DLQ, "What cannot be taken is kept"),
        "emitWindows": _operation("send", AGGREGATES, "Closed windows are told, and told again after late events"),
        "keepLateEvents": _operation("send", LATE, "Events that came too late are accounted for"),
    }


def _operation(action: str, channel: str, summary: str) -> Schema:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}


def _messages() -> dict[str, Schema]:
    stored = {"$ref": "#/components/schemas/StoredEvent"}
    live = {
        "type": "object",
        "properties": {
            "type": {"const": "event"},
            "cursor": {"type": "string", "description": "where to go on from: the `from` of the next connection"},
        },
        "required": ["type", "cursor"],
    }
    return {
        "LiveEvent": _message("a stored event", "application/json", {"allOf": [live, stored]}),
        "LiveEventAvro": _message(
            "a stored event, with format=avro: one record in a binary frame",
            "application/avro",
            {"schemaFormat": AVRO, "schema": json.loads(schemas.STREAM_MESSAGE)},
        ),
        "LiveEventProtobuf": {
            "summary": "a stored event, with format=protobuf: `streams.StreamMessage` of `event.proto` in a binary frame",
            "contentType": "application/x-protobuf",
        },
        "Gap": _message("events that are missing", "application/json", _component("Gap")),
        "Position": _message("how far the stream has come", "application/json", _component("Position")),
        "Event": _avro_message("an event", schemas.EVENT, _EVENT_HEADERS),
        "AggregatedEvent": _avro_message("the result of a window", schemas.AGGREGATED_EVENT, None),
        "DeadLetter": _avro_message("a record that could not be taken", schemas.DLQ_MESSAGE, _DLQ_HEADERS),
        "LateEvent": {
            "summary": "an event that came too late; its schema is the registry's, subject `platform.late-value`",
            "contentType": "application/avro",
            "bindings": _WIRE_FORMAT,
        },
        "IngressJson": _message("an event in JSON", "application/json", EVENT)
        | {"headers": _INGRESS_HEADERS, "examples": [{"payload": EXAMPLE, "headers": {headers.EVENT_TOPIC: "iot"}}]},
        "IngressAvro": _avro_message("an event in Avro, of any registered schema", schemas.EVENT, _INGRESS_HEADERS),
        "IngressProtobuf": {
            "summary": "an event in Protobuf: `streams.Event` of `event.proto`",
            "contentType": "application/x-protobuf",
            "headers": _INGRESS_HEADERS,
        },
    }


def _message(summary: str, content_type: str, payload: Mapping[str, Any]) -> Schema:
    return {"summary": summary, "contentType": content_type, "payload": dict(payload)}


def _avro_message(summary: str, schema: str, header_schema: Schema | None) -> Schema:
    message = _message(summary, "application/avro", {"schemaFormat": AVRO, "schema": json.loads(schema)})
    message["bindings"] = _WIRE_FORMAT
    return message if header_schema is None else message | {"headers": header_schema}


def _kafka_channel(address: str, description: str, messages: Iterable[str]) -> Schema:
    return {
        "address": address,
        "description": description,
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": _references(messages),
    }


def _references(messages: Iterable[str]) -> Schema:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in messages}


def _component(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _query_schema(query: Iterable[Query[Any]]) -> Schema:
    return {
        "type": "object",
        "properties": {each.name: {**each.schema, "description": each.description} for each in query},
    }
