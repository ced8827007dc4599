"""Reading events and windows, and watching live."""

from __future__ import annotations

from typing import Final

from streams.codecs import Format
from streams.domain.errors import OverloadedError, RegistryAccessError, RegistryUnavailableError
from web.describe.operations.model import BINARY, TEXT, Answer, Content, Operation
from web.errors import (
    NotAcceptableError,
    OriginDeniedError,
    UnknownOffsetError,
    WorkerFailedError,
    WorkerUnavailableError,
)
from web.live.websocket import STREAM_QUERY
from web.negotiation import JSON
from web.read.aggregates import AGGREGATES_QUERY, AggregatesAnswer
from web.read.reading import LATEST_QUERY, NDJSON, LatestAnswer
from web.read.records import EventRecord

EVENTS: Final = "Reading"

REGISTRY_ERRORS: Final = (RegistryUnavailableError, RegistryAccessError)
OPERATIONS: Final[dict[str, Operation]] = {
    "GET /events/{topic}/latest": Operation(
        "latestEvents",
        EVENTS,
        "The newest events that match, newest first",
        (
            Answer(
                200,
                "the events",
                (
                    Content(JSON, LatestAnswer),
                    Content(NDJSON, TEXT, description="a stored event a line"),
                    Content(Format.AVRO.value, BINARY, description="an Avro object container"),
                    Content(Format.PROTOBUF.value, BINARY, description="`streams.EventList` of `event.proto`"),
                ),
            ),
        ),
        description=(
            "They are read from the log itself, so every worker answers alike. `Accept` decides the form. The header `Link` has"
            " the next page, where there is one; `X-Streams-Unreadable` says how many are left out of Avro and Protobuf."
        ),
        query=LATEST_QUERY,
        errors=(*REGISTRY_ERRORS, NotAcceptableError, OverloadedError),
    ),
    "GET /events/{topic}/{partition}/{offset}": Operation(
        "eventRecord",
        EVENTS,
        "One record of the log, with its headers",
        (
            Answer(
                200,
                "the record",
                (
                    Content(JSON, EventRecord),
                    Content(
                        Format.AVRO.value, BINARY, description="its value as it is in Kafka: Confluent wire format"
                    ),
                    Content(Format.PROTOBUF.value, BINARY, description="`streams.Event` of `event.proto`"),
                ),
            ),
        ),
        description="`Accept` decides the form.",
        query=(),
        errors=(*REGISTRY_ERRORS, NotAcceptableError, OverloadedError, UnknownOffsetError),
    ),
    "GET /aggregates/{topic}": Operation(
        "closedWindows",
        "Windows",
        "Closed windows, newest first",
        (Answer(200, "the windows", (Content(JSON, AggregatesAnswer),)),),
        description="A higher `revision` of a window replaces a lower.",
        query=AGGREGATES_QUERY,
        errors=(WorkerUnavailableError, WorkerFailedError),
    ),
    "GET /stream/{topic}": Operation(
        "streamEvents",
        "Live",
        "Live events over a WebSocket",
        (Answer(101, "the connection is a WebSocket now; its messages are described in `/asyncapi.json`"),),
        description=(
            "A WebSocket handshake (RFC 6455). A browser, which cannot set `Authorization` here, offers two subprotocols"
            " instead: `event-streams.v1`, and `bearer.` and the token."
        ),
        query=STREAM_QUERY,
        errors=(OriginDeniedError,),
    ),
}
