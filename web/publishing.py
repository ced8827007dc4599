"""Publishing over HTTP: the handlers translate between HTTP and the platform, and decide nothing."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from aiohttp import hdrs, web

from streams.codecs import HEADER_BYTES, Format, unframe
from streams.domain.errors import PlatformError
from streams.domain.headers import TRACEPARENT
from streams.domain.naming import api_topic
from web.body import read_body
from web.metrics import Metrics
from web.negotiation import JSON
from web.services import Services

_SEND_SHARE: Final = 0.95
"""How much of the deadline Kafka may use: the rest is for the answer to leave in time."""


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


class Publishing:
    """The handlers, and the services they stand on."""

    def __init__(self, services: Services, metrics: Metrics) -> None:
        self._services = services
        self._metrics = metrics

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
