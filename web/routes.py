"""The one table of routes: method, path, handler, and the scope that a token must have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from web.browse.dead_letters import DeadLetters
from web.browse.tables import Tables
from web.describe.documents import Documents
from web.live.websocket import Live
from web.observe.health import Health
from web.publish.publishing import Publishing
from web.read.aggregates import Aggregates
from web.read.reading import Reading
from web.topics import Topics

PREFIX: Final = "/api/v1"
WRITE: Final = "events:write:{topic}"
READ: Final = "events:read:{topic}"
TOPICS_READ: Final = "topics:read"
TOPICS_ADMIN: Final = "topics:admin"
DLQ_READ: Final = "dlq:read"
DLQ_ADMIN: Final = "dlq:admin"
TABLES_READ: Final = "tables:read"
ADMIN: Final = "admin"
"""The scope for every path that is not in the table: Faust's own pages."""
OPEN: Final = None
"""No token is needed."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table."""

    method: str
    path: str
    handler: Handler
    scope: str | None
    """Its `{topic}` is that of the path."""
    websocket: bool = False
    """Whether it becomes a WebSocket: it has no deadline, and its token may come as a subprotocol."""
    deadline: bool = True
    """Whether the middleware ends it at the request's deadline; False where the handler does so itself, by a cheaper timer."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """Everything that has a method for a route."""

    publishing: Publishing
    reading: Reading
    aggregates: Aggregates
    live: Live
    topics: Topics
    dead_letters: DeadLetters
    tables: Tables
    health: Health
    metrics: Handler
    documents: Documents


def routes(to: Handlers, *, with_metrics: bool = True) -> tuple[Route, ...]:
    """The table. What is open is also found without the prefix, where probes and Prometheus look by default.

    Without metrics where these have a port of their own.
    """
    unprotected = (
        *_health(to),
        *((("/metrics", to.metrics),) if with_metrics else ()),
        ("/openapi.json", to.documents.openapi),
        ("/asyncapi.json", to.documents.asyncapi),
        ("/docs", to.documents.page),
    )
    return (
        Route("POST", f"{PREFIX}/events/{{topic}}", to.publishing.publish, WRITE, deadline=False),
        Route("POST", f"{PREFIX}/events/{{topic}}/batch", to.publishing.publish_batch, WRITE, deadline=False),
        Route("POST", f"{PREFIX}/events/{{topic}}/validate", to.publishing.validate, WRITE, deadline=False),
        Route("GET", f"{PREFIX}/events/{{topic}}/latest", to.reading.latest, READ),
        Route("GET", f"{PREFIX}/events/{{topic}}/{{partition}}/{{offset}}", to.reading.record, READ),
        Route("GET", f"{PREFIX}/aggregates/{{topic}}", to.aggregates.page, READ),
        Route("GET", f"{PREFIX}/stream/{{topic}}", to.live.stream, READ, websocket=True),
        Route("GET", f"{PREFIX}/topics", to.topics.page, TOPICS_READ),
        Route("POST", f"{PREFIX}/topics", to.topics.create, TOPICS_ADMIN),
        Route("GET", f"{PREFIX}/topics/{{topic}}", to.topics.describe, TOPICS_READ),
        Route("GET", f"{PREFIX}/topics/{{topic}}/schema", to.topics.versions, TOPICS_READ),
        Route("POST", f"{PREFIX}/topics/{{topic}}/schema", to.topics.evolve, TOPICS_ADMIN),
        Route("GET", f"{PREFIX}/dlq", to.dead_letters.page, DLQ_READ),
        Route("GET", f"{PREFIX}/dlq/redrives", to.dead_letters.runs, DLQ_READ),
        Route("GET", f"{PREFIX}/dlq/redrives/{{id}}", to.dead_letters.run, DLQ_READ),
        Route("GET", f"{PREFIX}/dlq/{{partition}}/{{offset}}", to.dead_letters.letter, DLQ_READ),
        Route("POST", f"{PREFIX}/dlq/redrive", to.dead_letters.redrive, DLQ_ADMIN),
        Route("GET", f"{PREFIX}/tables", to.tables.overview, TABLES_READ),
        Route("GET", f"{PREFIX}/tables/{{table}}", to.tables.browse, TABLES_READ),
        # All that comes behind the table: keys have slashes, and may have line breaks.
        Route("GET", f"{PREFIX}/tables/{{table}}/{{key:(?s:.+)}}", to.tables.key, TABLES_READ),
        *(Route("GET", prefix + path, handler, OPEN) for prefix in (PREFIX, "") for path, handler in unprotected),
    )


def metrics_port_routes(to: Handlers) -> tuple[Route, ...]:
    """The table of the second port."""
    return tuple(Route("GET", path, handler, OPEN) for path, handler in (*_health(to), ("/metrics", to.metrics)))


def _health(to: Handlers) -> tuple[tuple[str, Handler], ...]:
    return (
        ("/health", to.health.ready),
        ("/health/live", to.health.live),
        ("/health/ready", to.health.ready),
    )
