"""Reading over HTTP: the newest events from the log, and closed windows."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import msgspec
from aiohttp import hdrs, web

from streams.domain.aggregates import AggregatedEvent
from streams.domain.errors import UnavailableError
from streams.domain.naming import api_topic
from streams.domain.windows import WINDOW_KINDS
from web.latest import LatestEvents
from web.negotiation import JSON
from web.parameters import Parameters
from web.records import RecordFilter, StoredEvent, stored_event
from web.services import Services

MAX_LIMIT: Final = 1_000
DEFAULT_LIMIT: Final = 100

_BREATH: Final = 100
"""After so many records others get their turn on the event loop."""


class LatestAnswer(msgspec.Struct, gc=False):
    """The newest events, newest first."""

    topic: str
    events: list[StoredEvent]
    truncated: bool
    """Whether the scan ended before the limit or the beginning of the log was reached."""


class AggregatesAnswer(msgspec.Struct, gc=False):
    """Window results, newest window first."""

    topic: str
    aggregates: list[AggregatedEvent]


class Reading:
    """The handlers, and the services they stand on."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._latest = LatestEvents(services.open_reader)

    async def latest(self, request: web.Request) -> web.Response:
        """GET /events/{topic}/latest: the newest events, read from the log itself."""
        services = self._services
        parameters = Parameters(request.query, ("limit", "key", "event_type"))
        limit = parameters.integer("limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        wanted = RecordFilter.of(parameters.text("key"), parameters.text("event_type"))
        parameters.check()
        services.require_started()
        kafka_topic = await services.catalog.require(request.match_info["topic"])
        found = await self._latest.newest(kafka_topic, limit, wanted.matches)
        events = []
        for count, record in enumerate(found.records, 1):
            events.append(await stored_event(record, services.codec, services.loader))
            if count % _BREATH == 0:
                await asyncio.sleep(0)
        return _json(LatestAnswer(api_topic(kafka_topic), events, found.truncated))

    async def aggregates(self, request: web.Request) -> web.Response:
        """GET /aggregates/{topic}: closed windows, from this worker's table."""
        services = self._services
        parameters = Parameters(request.query, ("window", "event_type", "from", "to", "limit"))
        window = parameters.choice("window", WINDOW_KINDS)
        event_type = parameters.text("event_type")
        from_ms, to_ms = parameters.time_ms("from"), parameters.time_ms("to")
        limit = parameters.integer("limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        parameters.check()
        services.require_started()
        kafka_topic = await services.catalog.require(request.match_info["topic"])
        if (waiting := services.tables_waiting()) is not None:
            # Half a table would answer with half the truth.
            raise UnavailableError(f"the tables are not ready: {waiting}", retry_after_s=2.0)
        topic = api_topic(kafka_topic)
        # Elsewhere: a day of windows takes longer to look through than others may wait.
        query = partial(services.query_windows, window=window, event_type=event_type, from_ms=from_ms, to_ms=to_ms)
        found = await asyncio.to_thread(query, topic, limit=limit)
        return _json(AggregatesAnswer(topic, found))

    async def close(self) -> None:
        """Close what the handlers have opened."""
        await self._latest.close()


def _json(document: msgspec.Struct) -> web.Response:
    return web.Response(content_type=JSON, body=msgspec.json.encode(document), headers={hdrs.CACHE_CONTROL: "no-store"})
