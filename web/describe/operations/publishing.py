"""Publishing events: one, many, or none but to see what would happen."""

from __future__ import annotations

import json
from typing import Any, Final

from streams.batches import BatchFormat
from streams.codecs import Format
from streams.domain.errors import (
    IdempotencyConflictError,
    IncompatibleSchemaError,
    InvalidEventError,
    MalformedEventError,
    RecordRejectedError,
    RegistryAccessError,
    RegistryUnavailableError,
    TooManyRecordsError,
    TooManyTopicsError,
    TopicExistsError,
    UnknownSchemaError,
)
from web.describe.operations.event_body import CLOUDEVENT, CLOUDEVENT_EXAMPLE, EVENT, EXAMPLE
from web.describe.operations.model import BINARY, Answer, Content, Operation, RequestHeader
from web.negotiation import JSON
from web.publish.incoming import IDEMPOTENCY_KEY, SCHEMA_ID
from web.publish.publishing_answers import Accepted, BatchAnswer, ValidationAnswer

TAG: Final = "Publishing"

_HEADERS: Final = (
    RequestHeader(
        IDEMPOTENCY_KEY,
        "what a repetition of the request has again: an event without an `event_id` gets one that is made of it",
        # Spaces at the ends are no part of a header's value.
        {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    ),
    RequestHeader(
        "traceparent",
        "W3C Trace Context; it goes on with the event, into Kafka and to live streams",
        {"type": "string", "maxLength": 512},
    ),
)
_SCHEMA_ID: Final = RequestHeader(
    SCHEMA_ID,
    "of `application/avro` without Confluent's five bytes: the schema's id",
    {"type": "integer", "minimum": 0},
)
_ERRORS: Final = (
    InvalidEventError,
    MalformedEventError,
    UnknownSchemaError,
    IncompatibleSchemaError,
    TooManyTopicsError,
    TopicExistsError,
    RegistryUnavailableError,
    RegistryAccessError,
)
_ONE: Final = (
    Content(JSON, EVENT, EXAMPLE),
    Content(Format.CLOUDEVENTS.value, CLOUDEVENT, CLOUDEVENT_EXAMPLE, "a CloudEvent in structured mode"),
    Content(Format.AVRO.value, BINARY, description=f"Confluent's wire format; or bare, with `{SCHEMA_ID}`"),
    Content(Format.PROTOBUF.value, BINARY, description="`streams.Event` of `event.proto`"),
)


def _list_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 1}


_MANY: Final = (
    Content(
        BatchFormat.NDJSON.value,
        {"type": "string"},
        "\n".join(json.dumps(EXAMPLE | {"value": value}) for value in (21.5, 22)) + "\n",
        "an event in JSON a line",
    ),
    Content(BatchFormat.JSON.value, _list_of(EVENT), [EXAMPLE]),
    Content(BatchFormat.CLOUDEVENTS.value, _list_of(CLOUDEVENT), [CLOUDEVENT_EXAMPLE]),
    Content(BatchFormat.AVRO.value, BINARY, description="an Avro object container file"),
)

OPERATIONS: Final[dict[str, Operation]] = {
    "POST /events/{topic}": Operation(
        "publishEvent",
        TAG,
        "Publish one event",
        (Answer(201, "every in-sync replica has the event", (Content(JSON, Accepted),)),),
        description=(
            "After 503 and 429, send it again after `Retry-After` seconds, with an `event_id`: after a 503 it may have been"
            " stored all the same, and the same id again is answered with the first receipt. A CloudEvent in binary mode"
            " is told by its `ce-` headers. The body may be compressed (`Content-Encoding`)."
        ),
        headers=(*_HEADERS, _SCHEMA_ID),
        body=_ONE,
        errors=(*_ERRORS, RecordRejectedError, IdempotencyConflictError),
    ),
    "POST /events/{topic}/batch": Operation(
        "publishBatch",
        TAG,
        "Publish many events",
        (
            Answer(200, "every event is stored", (Content(JSON, BatchAnswer),)),
            Answer(
                207, "some are stored, and some are not: each result says which, and why", (Content(JSON, BatchAnswer),)
            ),
        ),
        description="One result a record, in order; a record that is wrong spoils no other.",
        headers=_HEADERS,
        body=_MANY,
        errors=(*_ERRORS, TooManyRecordsError),
    ),
    "POST /events/{topic}/validate": Operation(
        "validateEvents",
        TAG,
        "What publishing would do with one event or a batch",
        (Answer(200, "what it would do with each record; nothing was written", (Content(JSON, ValidationAnswer),)),),
        headers=(*_HEADERS, _SCHEMA_ID),
        body=(
            Content(JSON, {"oneOf": [EVENT, _list_of(EVENT)]}, EXAMPLE),
            *(content for content in (*_ONE, *_MANY) if content.media_type not in (JSON, Format.AVRO.value)),
            Content(Format.AVRO.value, BINARY, description="one event in wire format, or an object container file"),
        ),
        errors=(*_ERRORS, TooManyRecordsError),
    ),
}
