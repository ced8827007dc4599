"""Putting it together: the services of an app, the routes, the middleware, and who closes what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from aiohttp import web
from faust.web.drivers.aiohttp import Web as FaustWeb

from streams.faust_app import StreamsApp
from streams.kafka.consumer import LogReader
from streams.redriving import redrive_writer
from streams.storing import EventStore
from tables.dead_letters import letters_by_reason
from tables.here import table_view
from web.browse.dead_letters import DeadLetters
from web.browse.tables import Tables
from web.describe.asyncapi import asyncapi_document, topic_schemas
from web.describe.documents import Documents
from web.describe.openapi import openapi_document
from web.http.metrics_port import MetricsPort
from web.http.server import Runner
from web.live.websocket import Live
from web.middleware import Middleware
from web.observe.health import Health
from web.observe.metrics import Metrics
from web.observe.metrics_page import MetricsPage
from web.publish.fast_lane import FAST_LANE, FastLane
from web.publish.publishing import Publishing
from web.read.aggregates import Aggregates
from web.read.reading import Reading
from web.routes import PREFIX, TOPICS_READ, WRITE, Handlers, Route, metrics_port_routes, routes
from web.security.auth import Authenticator
from web.security.cors import Cors
from web.security.rate_limits import RateLimits
from web.services import Services
from web.topics import Topics


def install_into(app: StreamsApp) -> None:
    """Mount everything in the web server of a Faust app."""
    platform = app.platform
    settings = platform.settings
    services = Services(
        settings=settings,
        catalog=platform.catalog,
        topics=platform.topics,
        publisher=platform.publisher,
        producer=platform.producer,
        store=EventStore(settings, platform.producer, platform.codec, lambda: platform.dead_letter_schema),
        admin=platform.admin,
        registry=platform.registry,
        hub=platform.hub,
        codec=platform.codec,
        loader=platform.loader,
        waiting_for=lambda: platform.waiting_for,
        tables_waiting=lambda: tables_waiting(app),
        tables=table_view(app),
        letters_by_reason=letters_by_reason,
        open_reader=lambda: LogReader(
            settings, client_id=f"{settings.app_id}-latest", max_partition_bytes=131_072, wait_ms=1
        ),
        open_redrive_writer=lambda: redrive_writer(settings),
    )
    # Faust's type for it names no driver; aiohttp is the only one it has.
    driver = cast("FaustWeb", app.web)
    mount(driver.web_app, services)
    # The driver has no way to be given a runner; it uses the one it has made, from its start to its stop.
    driver._runner = Runner(driver.web_app, settings)  # noqa: SLF001


def mount(web_app: web.Application, services: Services, *, authenticator: Authenticator | None = None) -> Metrics:
    """Add the routes and the middleware to an aiohttp application. Returns what it counts."""
    settings = services.settings
    authenticator = authenticator or Authenticator(settings)
    limits = RateLimits(settings)
    metrics = Metrics()
    page = MetricsPage(metrics, services)

    async def asyncapi_with_topics() -> Mapping[str, Any]:
        services.require_started()
        return asyncapi_document(await topic_schemas(services.topics))

    handlers = Handlers(
        publishing=Publishing(services, metrics, limits),
        reading=Reading(services),
        aggregates=Aggregates(services),
        live=Live(services, metrics),
        topics=Topics(services),
        dead_letters=DeadLetters(services),
        tables=Tables(services),
        health=Health(services),
        metrics=page.page,
        documents=Documents(
            lambda: openapi_document(routes(handlers, with_metrics=not apart)),
            asyncapi_document,
            asyncapi_with_topics,
            authenticator,
            TOPICS_READ,
        ),
    )
    apart = settings.metrics_port is not None
    table = _add_routes(web_app, routes(handlers, with_metrics=not apart))
    cors = Cors(settings.cors_origins, _resources(table)) if settings.cors_origins else None
    deadline_s = settings.request_deadline_s
    web_app.middlewares.append(
        Middleware(authenticator, metrics, table, deadline_s, limits=limits, cors=cors).handle,
    )
    web_app[FAST_LANE] = FastLane(
        services,
        metrics,
        limits,
        authenticator,
        prefix=f"{PREFIX}/events/",
        route=f"{PREFIX}/events/{{topic}}",
        scope=WRITE,
        varies=cors is not None and cors.varies,
    )
    metrics_port = None
    if apart:
        metrics_app = web.Application()
        metrics_table = _add_routes(metrics_app, metrics_port_routes(handlers))
        metrics_app.middlewares.append(Middleware(authenticator, metrics, metrics_table, deadline_s).handle)
        metrics_port = MetricsPort(metrics_app, settings)

    async def load_key(_: web.Application) -> None:
        # At start, not at import and not at the first request: a wrong key file stops the worker.
        authenticator.start()
        page.start()
        if metrics_port is not None:
            await metrics_port.start()

    async def close_sockets(_: web.Application) -> None:
        await handlers.live.shutdown()

    async def close(_: web.Application) -> None:
        # Faust cleans up twice; closing again does nothing.
        if metrics_port is not None:
            await metrics_port.close()
        await authenticator.close()
        await page.close()
        await handlers.dead_letters.close()
        await handlers.tables.close()
        await handlers.reading.close()
        await handlers.aggregates.close()
        await handlers.health.close()

    web_app.on_startup.append(load_key)
    web_app.on_shutdown.append(close_sockets)
    web_app.on_cleanup.append(close)
    return metrics


def _add_routes(web_app: web.Application, lines: Iterable[Route]) -> dict[web.AbstractRoute, Route]:
    table: dict[web.AbstractRoute, Route] = {}
    for route in lines:
        # RFC 9110, section 9.1: who serves GET serves HEAD.
        for method in ("GET", "HEAD") if route.method == "GET" and not route.websocket else (route.method,):
            table[web_app.router.add_route(method, route.path, route.handler)] = route
    return table


def _resources(table: Iterable[web.AbstractRoute]) -> list[web.AbstractResource]:
    return [route.resource for route in table if route.resource is not None]


def tables_waiting(app: StreamsApp) -> str | None:
    """Why this worker's tables cannot be trusted yet; None once they can. Also without a partition of its own.

    `rebalancing` spans each change of the assignment; what follows it is the engine's to tell.
    """
    if app.rebalancing:
        return "partitions are being reassigned"
    return app.engine.unready()
