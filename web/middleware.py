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
from web.auth import Authenticator, bearer_token
from web.errors import DeadlineExceededError, InvalidRequestError, SlowBodyError
from web.metrics import Metrics
from web.problems import http_problem, problem
from web.routes import ADMIN, Route
from web.websocket import CLAIMS

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
    ) -> None:
        self._authenticator = authenticator
        self._metrics = metrics
        self._table = table
        self._deadline_s = deadline_s

    @web.middleware
    async def handle(self, request: web.Request, handler: Next) -> web.StreamResponse:
        """Answer a request; errors become `application/problem+json`."""
        metrics = self._metrics
        began = perf_counter()
        metrics.requests_in_flight += 1
        status = _INTERRUPTED
        route = self._table.get(request.match_info.route)
        try:
            response = await self._answer(request, handler, route)
            status = response.status
        except web.HTTPException as exc:
            status = exc.status
            raise
        else:
            return response
        finally:
            metrics.requests_in_flight -= 1
            upgraded = status == HTTPStatus.SWITCHING_PROTOCOLS
            metrics.request(
                request.method,
                _template(request),
                status,
                None if upgraded else perf_counter() - began,
            )

    async def _answer(self, request: web.Request, handler: Next, route: Route | None) -> web.StreamResponse:
        instance = request.rel_url.raw_path
        timer = asyncio.timeout(None if route is not None and route.websocket else self._deadline_s)
        try:
            self._admit(request, route)
            async with timer:
                return await handler(request)
        except PlatformError as exc:
            return problem(exc, instance)
        except web.HTTPException as exc:
            if exc.status < HTTPStatus.BAD_REQUEST:
                raise
            return http_problem(exc, instance)
        except Exception as exc:
            if timer.expired() and isinstance(exc, TimeoutError):
                return problem(self._too_late(request), instance)
            if request.transport is None or request.transport.is_closing():
                return problem(InvalidRequestError("the connection was lost"), instance)
            log.exception("%s %s failed", request.method, _template(request))
            return problem(PlatformError(), instance)

    def _admit(self, request: web.Request, route: Route | None) -> None:
        """Return if the request may go on: by default it may not."""
        if route is not None and route.scope is None:
            return
        headers = request.headers
        claims = self._authenticator.verify(
            bearer_token(
                headers.get(hdrs.AUTHORIZATION),
                headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL) if route is not None and route.websocket else None,
            )
        )
        request[CLAIMS] = claims
        match = request.match_info
        if route is not None and route.scope is not None:
            claims.require(route.scope.replace("{topic}", match.get("topic", "")))
        elif match.http_exception is None:
            claims.require(ADMIN)
        # What is left leads nowhere: with a valid token, aiohttp's 404 or 405 may be known.

    def _too_late(self, request: web.Request) -> PlatformError:
        if not request.content.is_eof():
            return SlowBodyError(self._deadline_s)
        return DeadlineExceededError(self._deadline_s)


def _template(request: web.Request) -> str:
    """The path of the route, with its variables unfilled; one name for all that match none."""
    resource = request.match_info.route.resource
    return UNMATCHED if resource is None else resource.canonical
