"""The page that Prometheus reads: what the gateway, the agents and the tables count."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web
from aioprometheus.collectors import Registry

from web.metrics import CONTENT_TYPE, Metrics
from web.services import Services
from web.work_metrics import fill


def metrics_page(metrics: Metrics, services: Services) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The handler of GET /metrics."""

    async def page(_: web.Request) -> web.Response:
        def add_work(registry: Registry) -> None:
            fill(registry, services.tables, services.letters_by_reason())

        body = metrics.render(services.producer.in_flight, add_work)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    return page
