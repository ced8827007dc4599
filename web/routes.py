"""The one table of routes: method, path, handler, and the scope that a token must have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from web.dead_letters import DeadLetters
from web.health import Health
from web.publishing import Publishing
from web.reading import Reading
from web.tables import Tables
from web.websocket import Live

PREFIX: Final = "/api/v1"
WRITE: Final = "events:write:{topic}"
READ: Final = "events:read:{topic}"
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


@dataclass(frozen=True, slots=True)
class Handlers:
    """Everything that has a method for a route."""

    publishing: Publishing
    reading: Reading
    live: Live
    dead_letters: DeadLetters
    tables: Tables
    health: Health
    metrics: Handler


def routes(to: Handlers) -> tuple[Route, ...]:
    """The table. What is open is also found without the prefix, where probes and Prometheus look by default."""
    unprotected = (
        ("/health", to.health.ready),
        ("/health/live", to.health.live),
        ("/health/ready", to.health.ready),
        ("/metrics", to.metrics),
    )
    return (
        Route("POST", f"{PREFIX}/events/{{topic}}", to.publishing.publish, WRITE),
        Route("GET", f"{PREFIX}/events/{{topic}}/latest", to.reading.latest, READ),
        Route("GET", f"{PREFIX}/aggregates/{{topic}}", to.reading.aggregates, READ),
        Route("GET", f"{PREFIX}/stream/{{topic}}", to.live.stream, READ, websocket=True),
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
