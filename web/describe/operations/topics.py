"""Event topics, and the schemas of their own."""

from __future__ import annotations

from typing import Final

from streams.domain.errors import (
    IncompatibleSchemaError,
    InvalidSchemaError,
    InvalidTopicError,
    KafkaAccessError,
    KafkaUnavailableError,
    RegistryAccessError,
    RegistryUnavailableError,
    TopicExistsError,
    UnknownTopicError,
)
from web.describe.operations.model import Answer, Content, Operation
from web.negotiation import JSON
from web.topics import (
    LIST_QUERY,
    VERSIONS_QUERY,
    NewSchema,
    NewTopic,
    SchemaAnswer,
    SchemasAnswer,
    TopicAnswer,
    TopicDescription,
    TopicsAnswer,
)

TAG: Final = "Topics"

_ERRORS: Final = (KafkaUnavailableError, KafkaAccessError, RegistryUnavailableError, RegistryAccessError)
_ENVELOPE: Final = (
    {"name": "event_id", "type": "string"},
    {"name": "event_type", "type": "string"},
    {"name": "timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "user_id", "type": ["null", "string"], "default": None},
    {"name": "device_id", "type": ["null", "string"], "default": None},
    {"name": "value", "type": ["null", "double"], "default": None},
    {"name": "source", "type": ["null", "string"], "default": None},
)
_SCHEMA: Final = {
    "type": "AVRO",
    "schema": {
        "type": "record",
        "name": "Weather",
        "fields": [
            *_ENVELOPE,
            {
                "name": "payload",
                "type": {"type": "record", "name": "Sky", "fields": [{"name": "humidity", "type": "double"}]},
            },
        ],
    },
}

OPERATIONS: Final[dict[str, Operation]] = {
    "GET /topics": Operation(
        "topics",
        TAG,
        "The event topics, by name",
        (Answer(200, "a page of topics", (Content(JSON, TopicsAnswer),)),),
        query=LIST_QUERY,
        errors=_ERRORS,
    ),
    "POST /topics": Operation(
        "createTopic",
        TAG,
        "Create a topic",
        (Answer(201, "the topic exists", (Content(JSON, TopicAnswer),), {"Location": "where it is described"}),),
        description=(
            "What is absent is as the settings of the platform have it. A schema of its own must have the envelope's fields;"
            " it is registered before the topic is created."
        ),
        query=(),
        body=(Content(JSON, NewTopic, {"name": "weather", "partitions": 4, "retention_hours": 72, "schema": _SCHEMA}),),
        errors=(
            *_ERRORS,
            UnknownTopicError,
            InvalidTopicError,
            InvalidSchemaError,
            IncompatibleSchemaError,
            TopicExistsError,
        ),
    ),
    "GET /topics/{topic}": Operation(
        "describeTopic",
        TAG,
        "A topic in full: its partitions, offsets, bytes, and the versions of its schema",
        (Answer(200, "the topic", (Content(JSON, TopicDescription),)),),
        query=(),
        errors=_ERRORS,
    ),
    "GET /topics/{topic}/schema": Operation(
        "topicSchema",
        TAG,
        "The versions of a topic's schema, newest first",
        (Answer(200, "the versions", (Content(JSON, SchemasAnswer),)),),
        query=VERSIONS_QUERY,
        errors=_ERRORS,
    ),
    "POST /topics/{topic}/schema": Operation(
        "evolveTopicSchema",
        TAG,
        "A new version of a topic's schema",
        (Answer(201, "the version is registered", (Content(JSON, SchemaAnswer),)),),
        description="Refused with 409, and the registry's reasons, where it is not compatible with the version before.",
        query=(),
        body=(Content(JSON, NewSchema, _SCHEMA),),
        errors=(*_ERRORS, InvalidSchemaError, IncompatibleSchemaError),
    ),
}
