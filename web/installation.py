"""Putting it together: the services of an app, the routes, the middleware, and who closes what."""

from __future__ import annotations

from typing import cast

from aiohttp import web
from faust.web.drivers.aiohttp import Web as FaustWeb

from streams.faust_app import StreamsApp
from streams.kafka.consumer import LogReader
from streams.redriving import redrive_writer
from tables.dead_letters import letters_by_reason
from tables.here import table_view
from tables.windows import query_windows
from web.auth import Authenticator
from web.dead_letters import DeadLetters
from web.health import Health
from web.metrics import Metrics
from web.metrics_page import metrics_page
from web.middleware import Middleware
from web.publishing import Publishing
from web.reading import Reading
from web.routes import Handlers, Route, routes
from web.services import Services
from web.tables import Tables
from web.websocket import Live


def install_into(app: StreamsApp) -> None:
    """Mount everything in the web server of a Faust app."""
    platform = app.platform
    settings = platform.settings
    services = Services(
        settings=settings,
        catalog=platform.catalog,
        publisher=platform.publisher,
        producer=platform.producer,
        admin=platform.admin,
        registry=platform.registry,
        hub=platform.hub,
        codec=platform.codec,
        loader=platform.loader,
        waiting_for=lambda: platform.waiting_for,
        tables_waiting=lambda: tables_waiting(app),
        query_windows=query_windows,
        tables=table_view(app),
        letters_by_reason=letters_by_reason,
        open_reader=lambda: LogReader(settings, client_id=f"{settings.app_id}-latest"),
        open_redrive_writer=lambda: redrive_writer(settings),
    )
    # Faust's type for it names no driver; aiohttp is the only one it has.
    mount(cast("FaustWeb", app.web).web_app, services)


def mount(web_app: web.Application, services: Services, *, authenticator: Authenticator | None = None) -> Metrics:
    """Add the routes and the middleware to an aiohttp application. Returns what it counts."""
    authenticator = authenticator or Authenticator(services.settings)
    metrics = Metrics()
    handlers = Handlers(
        publishing=Publishing(services, metrics),
        reading=Reading(services),
        live=Live(services, metrics),
        dead_letters=DeadLetters(services),
        tables=Tables(services),
        health=Health(services),
        metrics=metrics_page(metrics, services),
    )
    table: dict[web.AbstractRoute, Route] = {}
    for route in routes(handlers):
        # RFC 9110, section 9.1: who serves GET serves HEAD.
        for method in ("GET", "HEAD") if route.method == "GET" and not route.websocket else (route.method,):
            table[web_app.router.add_route(method, route.path, route.handler)] = route
    web_app.middlewares.append(Middleware(authenticator, metrics, table, services.settings.request_deadline_s).handle)

    async def load_key(_: web.Application) -> None:
        # At start, not at import and not at the first request: a wrong key file stops the worker.
        authenticator.start()

    async def close_sockets(_: web.Application) -> None:
        await handlers.live.shutdown()

    async def close(_: web.Application) -> None:
        await handlers.dead_letters.close()
        await handlers.tables.close()
        await handlers.reading.close()
        await handlers.health.close()

    web_app.on_startup.append(load_key)
    web_app.on_shutdown.append(close_sockets)
    web_app.on_cleanup.append(close)
    return metrics


def tables_waiting(app: StreamsApp) -> str | None:
    """Why this worker's tables cannot be trusted yet; None once they can. Also without a partition of its own.

    `rebalancing` spans each change of the assignment; what follows it is the engine's to tell.
    """
    if app.rebalancing:
        return "partitions are being reassigned"
    return app.engine.unready()
