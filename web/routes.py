"""The one table of routes: method, path, handler, and the scope that a token must have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from web.dead_letters import DeadLetters
from web.health import Health
from web.metrics import Metrics
from web.rest import Rest, metrics_page
from web.services import Services
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


def routes(
    services: Services,
    metrics: Metrics,
    rest: Rest,
    live: Live,
    health: Health,
    *,
    dead_letters: DeadLetters,
    tables: Tables,
) -> tuple[Route, ...]:
    """The table. What is open is also found without the prefix, where probes and Prometheus look by default."""
    page = metrics_page(metrics, services)
    unprotected = (
        ("/health", health.ready),
        ("/health/live", health.live),
        ("/health/ready", health.ready),
        ("/metrics", page),
    )
    return (
        Route("POST", f"{PREFIX}/events/{{topic}}", rest.publish, WRITE),
        Route("GET", f"{PREFIX}/events/{{topic}}/latest", rest.latest, READ),
        Route("GET", f"{PREFIX}/aggregates/{{topic}}", rest.aggregates, READ),
        Route("GET", f"{PREFIX}/stream/{{topic}}", live.stream, READ, websocket=True),
        Route("GET", f"{PREFIX}/dlq", dead_letters.page, DLQ_READ),
        Route("GET", f"{PREFIX}/dlq/redrives", dead_letters.runs, DLQ_READ),
        Route("GET", f"{PREFIX}/dlq/redrives/{{id}}", dead_letters.run, DLQ_READ),
        Route("GET", f"{PREFIX}/dlq/{{partition}}/{{offset}}", dead_letters.letter, DLQ_READ),
        Route("POST", f"{PREFIX}/dlq/redrive", dead_letters.redrive, DLQ_ADMIN),
        Route("GET", f"{PREFIX}/tables", tables.overview, TABLES_READ),
        Route("GET", f"{PREFIX}/tables/{{table}}", tables.browse, TABLES_READ),
        # All that comes behind the table: keys have slashes, and may have line breaks.
        Route("GET", f"{PREFIX}/tables/{{table}}/{{key:(?s:.+)}}", tables.key, TABLES_READ),
        *(Route("GET", prefix + path, handler, OPEN) for prefix in (PREFIX, "") for path, handler in unprotected),
    )
