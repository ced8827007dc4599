"""The REST handlers: they translate between HTTP and the platform, and decide nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec
from aiohttp import hdrs, web
from aioprometheus.collectors import Registry

from streams.codecs import HEADER_BYTES, Format, unframe
from streams.domain.aggregates import AggregatedEvent
from streams.domain.errors import PlatformError, UnavailableError
from streams.domain.headers import TRACEPARENT
from streams.domain.naming import api_topic
from streams.domain.windows import WINDOW_KINDS
from web.body import read_body
from web.latest import LatestEvents
from web.metrics import CONTENT_TYPE as METRICS_TYPE
from web.metrics import Metrics
from web.parameters import Parameters
from web.records import RecordFilter, StoredEvent, stored_event
from web.services import Services
from web.work_metrics import fill

JSON: Final = "application/json"
MAX_LIMIT: Final = 1_000
DEFAULT_LIMIT: Final = 100

_SEND_SHARE: Final = 0.95
"""How much of the deadline Kafka may use: the rest is for the answer to leave in time."""
_BREATH: Final = 100
"""After so many records others get their turn on the event loop."""


class Accepted(msgspec.Struct, gc=False):
    """The answer to a published event: it is on disk. Times are milliseconds since the Unix epoch."""

    event_id: str
    topic: str
    partition: int
    offset: int
    timestamp: int
    """Event time, as in the event."""
    stored_at: int
    """Kafka's timestamp of the record."""
    schema_id: int


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


class Rest:
    """The handlers, and the services they stand on."""

    def __init__(self, services: Services, metrics: Metrics) -> None:
        self._services = services
        self._metrics = metrics
        self._latest = LatestEvents(services.open_reader)

    async def publish(self, request: web.Request) -> web.Response:
        """POST /events/{topic}: 201 once all in-sync replicas have the event."""
        topic = None
        try:
            services = self._services
            services.require_started()
            clock = asyncio.get_running_loop().time
            deadline = clock() + services.settings.request_deadline_s * _SEND_SHARE
            kafka_topic = await services.catalog.require(request.match_info["topic"], create=True)
            topic = api_topic(kafka_topic)
            headers = request.headers
            format_ = Format.of(headers.get(hdrs.CONTENT_TYPE, ""))
            body = await read_body(request, services.settings.max_body_bytes)
            event = await services.publisher.read(body, format_)
            record = services.publisher.record(kafka_topic, event, format_, headers.get(TRACEPARENT))
            receipt = await services.producer.send(record, deadline - clock())
        except PlatformError as exc:
            self._metrics.refused(topic, exc)
            raise
        self._metrics.accepted(topic)
        return web.Response(
            status=201,
            content_type=JSON,
            body=msgspec.json.encode(
                Accepted(
                    event.event_id,
                    topic,
                    receipt.partition,
                    receipt.offset,
                    event.timestamp,
                    receipt.timestamp_ms,
                    unframe((record.value or b"")[:HEADER_BYTES])[0],
                )
            ),
        )

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


def metrics_page(metrics: Metrics, services: Services) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The handler of GET /metrics."""

    async def page(_: web.Request) -> web.Response:
        def add_work(registry: Registry) -> None:
            fill(registry, services.tables, services.letters_by_reason())

        body = metrics.render(services.producer.in_flight, add_work)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: METRICS_TYPE})

    return page


def _json(document: msgspec.Struct) -> web.Response:
    return web.Response(content_type=JSON, body=msgspec.json.encode(document), headers={hdrs.CACHE_CONTROL: "no-store"})
