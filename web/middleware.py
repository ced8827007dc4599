"""What every request goes through: it is counted, must show a token, has a deadline, and gets an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from time import perf_counter
from typing import Final

from aiohttp import hdrs, web

from streams.domain.errors import PlatformError
from web.errors import InvalidRequestError, UnknownSigningKeyError
from web.http.body import too_late
from web.observe.metrics import Metrics
from web.problems import http_problem, problem
from web.routes import ADMIN, Route
from web.security.auth import Authenticator, bearer_token
from web.security.claims import CLAIMS
from web.security.cors import Cors
from web.security.rate_limits import RateLimits

log = logging.getLogger(__name__)

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]

UNMATCHED: Final = "unmatched"
_INTERRUPTED: Final = 499
"""As nginx counts requests whose client went away; it is never sent."""


class Middleware:
    """One middleware, since each costs: aiohttp calls it around every handler, Faust's own included."""

    def __init__(
        self,
        authenticator: Authenticator,
        metrics: Metrics,
        table: Mapping[web.AbstractRoute, Route],
        deadline_s: float,
        *,
        limits: RateLimits | None = None,
        cors: Cors | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._metrics = metrics
        self._table = table
        self._deadline_s = deadline_s
        self._limits = limits
        self._cors = cors

    @web.middleware
    async def handle(self, request: web.Request, handler: Next) -> web.StreamResponse:
        """Answer a request; errors become `application/problem+json`."""
        metrics = self._metrics
        began = perf_counter()
        metrics.requests_in_flight += 1
        status = _INTERRUPTED
        matched = request.match_info.route
        route = self._table.get(matched)
        timer = None
        try:
            try:
                if route is None or route.scope is not None:
                    if self._cors is not None and request.method == hdrs.METH_OPTIONS:
                        preflight = await self._cors.preflight(request)
                        if preflight is not None:
                            status = preflight.status
                            return self._marked(request, preflight)
                    try:
                        self._admit(request, route)
                    except UnknownSigningKeyError:
                        await self._authenticator.verify_with_new_keys(_token(request, route))
                        self._admit(request, route)
                if route is not None and (route.websocket or not route.deadline):
                    response = await handler(request)
                else:
                    async with asyncio.timeout(self._deadline_s) as timer:
                        response = await handler(request)
            except web.HTTPException as exc:
                status = exc.status
                if status < HTTPStatus.BAD_REQUEST:
                    raise
                response = http_problem(exc, request.rel_url.raw_path)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the client gets an answer, and the log what is ours
                response = self._failed(request, exc, expired=timer is not None and timer.expired())
            status = response.status
            return response if self._cors is None else self._marked(request, response)
        finally:
            metrics.requests_in_flight -= 1
            resource = matched.resource
            metrics.request(
                request.method,
                # The path of the route, with its variables unfilled; one name for all that match none.
                UNMATCHED if resource is None else resource.canonical,
                status,
                None if status == HTTPStatus.SWITCHING_PROTOCOLS else perf_counter() - began,
            )

    def _admit(self, request: web.Request, route: Route | None) -> None:
        """Return if the request may go on: by default it may not."""
        claims = self._authenticator.verify(_token(request, route))
        request[CLAIMS] = claims
        if self._limits is not None:
            self._limits.charge_request(claims)
        match = request.match_info
        if route is not None and route.scope is not None:
            claims.require(route.scope.replace("{topic}", match.get("topic", "")))
        elif match.http_exception is None:
            claims.require(ADMIN)
        # What is left leads nowhere: with a valid token, aiohttp's 404 or 405 may be known.

    def _failed(self, request: web.Request, error: Exception, *, expired: bool) -> web.StreamResponse:
        instance = request.rel_url.raw_path
        if isinstance(error, PlatformError):
            return problem(error, instance)
        if expired and isinstance(error, TimeoutError):
            return problem(too_late(request, self._deadline_s), instance)
        if request.transport is None or request.transport.is_closing():
            return problem(InvalidRequestError("the connection was lost"), instance)
        resource = request.match_info.route.resource
        log.error("%s %s failed", request.method, UNMATCHED if resource is None else resource.canonical, exc_info=error)
        return problem(PlatformError(), instance)

    def _marked(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        assert self._cors is not None
        self._cors.mark(request, response)
        return response


def _token(request: web.Request, route: Route | None) -> str:
    headers = request.headers
    return bearer_token(
        headers.get(hdrs.AUTHORIZATION),
        headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL) if route is not None and route.websocket else None,
    )
