"""The page that Prometheus reads: what the gateway, the producer, the agents and the tables count."""

from __future__ import annotations

from aiohttp import hdrs, web
from aioprometheus.collectors import Gauge, Registry

from streams.domain.naming import flink_group
from streams.kafka.lag import GroupLags
from web.observe.group_lag import Ask, GroupLagWatch
from web.observe.metrics import CONTENT_TYPE, Metrics
from web.observe.producer_metrics import fill_group_lags, fill_producer
from web.observe.work_metrics import fill
from web.services import Services


class MetricsPage:
    """The handler, and what looks at Kafka for it meanwhile."""

    def __init__(self, metrics: Metrics, services: Services, *, ask_lag: Ask | None = None) -> None:
        self._metrics = metrics
        self._services = services
        settings = services.settings
        self._lags = GroupLagWatch(
            ask_lag or GroupLags(settings).of,
            (settings.app_id, flink_group(settings.app_id)),
            services.tables,
            settings.lag_interval_s,
        )

    def start(self) -> None:
        """Begin to look at the lag of consumer groups."""
        self._lags.start()

    async def close(self) -> None:
        """Look no more."""
        await self._lags.close()

    async def page(self, _: web.Request) -> web.Response:
        """GET /metrics: everything that is known now; nobody is asked for it."""
        return web.Response(
            body=self._metrics.render(self._add),
            headers={hdrs.CONTENT_TYPE: CONTENT_TYPE, hdrs.CACHE_CONTROL: "no-store"},
        )

    def _add(self, registry: Registry) -> None:
        services = self._services
        producer = services.producer
        fill_producer(registry, producer.stats, producer.in_flight, producer.bytes_in_flight)
        fill(registry, services.tables, services.letters_by_reason())
        fill_group_lags(registry, self._lags.now)
        Gauge(
            "streams_websocket_catch_up_reads", "Reads of history for clients that are behind, now.", registry=registry
        ).set_value({}, services.hub.history.reading)
