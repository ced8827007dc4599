"""What is open to anyone: health, metrics, and the descriptions of the API itself."""

from __future__ import annotations

from typing import Final

from streams.domain.errors import (
    AuthenticationError,
    KafkaAccessError,
    KafkaUnavailableError,
    RegistryAccessError,
    RegistryUnavailableError,
    UnavailableError,
)
from web.describe.operations.model import Answer, Content, Operation
from web.errors import InvalidTokenError
from web.negotiation import HTML, JSON
from web.observe.health import Report

TAG: Final = "Service"

_READY: Final = (
    Answer(200, "all is well", (Content(JSON, Report),)),
    Answer(503, "something is missing: send no traffic, and do not restart", (Content(JSON, Report),)),
)

OPERATIONS: Final[dict[str, Operation]] = {
    "GET /health": Operation("health", TAG, "Whether the worker can keep its promises", _READY),
    "GET /health/ready": Operation("ready", TAG, "The same: whether traffic may be sent here", _READY),
    "GET /health/live": Operation(
        "live",
        TAG,
        "Whether the worker should be left running",
        (Answer(200, "the event loop runs", (Content(JSON, Report),)),),
    ),
    "GET /metrics": Operation(
        "metrics",
        TAG,
        "What Prometheus reads",
        (Answer(200, "the text format", (Content("text/plain", {"type": "string"}),)),),
    ),
    "GET /openapi.json": Operation(
        "openapi",
        TAG,
        "This document",
        (Answer(200, "OpenAPI 3.1", (Content(JSON, {"type": "object"}),)),),
    ),
    "GET /asyncapi.json": Operation(
        "asyncapi",
        TAG,
        "Live streams and Kafka topics: their channels and messages",
        (Answer(200, "AsyncAPI 3.0", (Content(JSON, {"type": "object"}),)),),
        description="With a token of the scope `topics:read`, each event topic is there too, with its own schema.",
        errors=(
            AuthenticationError,
            InvalidTokenError,
            UnavailableError,
            KafkaUnavailableError,
            KafkaAccessError,
            RegistryUnavailableError,
            RegistryAccessError,
        ),
    ),
    "GET /docs": Operation(
        "docs",
        TAG,
        "This document as a page to read",
        (Answer(200, "a page without scripts", (Content(HTML, {"type": "string"}),)),),
    ),
}
