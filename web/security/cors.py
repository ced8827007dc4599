"""Which pages of other origins may call the API (the Fetch standard's CORS protocol).

Tokens travel in the Authorization header and never in cookies, so that credentials, in CORS' sense, are never allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from streams.settings import Settings

ANY: Final = "*"
ALLOWED_HEADERS: Final = (
    "authorization",
    "content-type",
    "content-encoding",
    "idempotency-key",
    "traceparent",
    "x-schema-id",
)
EXPOSED_HEADERS: Final = (
    "Accept",
    "Accept-Encoding",
    "Allow",
    "Link",
    "Location",
    "Retry-After",
    "WWW-Authenticate",
    "X-Streams-Unreadable",
)
"""What a page may read of an answer, beyond the few headers that it always may."""
PREFLIGHT_MAX_AGE_S: Final = 600

_ALLOWED: Final = ", ".join(ALLOWED_HEADERS)
_EXPOSED: Final = ", ".join(EXPOSED_HEADERS)


def origin_allowed(origin: str, host: str, settings: Settings) -> bool:
    """Whether a page of this origin may open a WebSocket at this host: its own, or one of `cors_origins`.

    Browsers do not hold WebSockets to CORS: the server must look (RFC 6455, section 10.2).
    """
    allowed = settings.cors_origins
    if ANY in allowed or origin.lower() in allowed:
        return True
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False  # an address that is none, such as http://[


class Cors:
    """Answers preflights and marks answers, for the origins of the settings."""

    def __init__(self, origins: Iterable[str], resources: Iterable[web.AbstractResource]) -> None:
        self._origins = frozenset(origins)
        self._resources = tuple(dict.fromkeys(resources))
        """Of the routes in our table; Faust's pages are for no page of another origin."""
        self.varies = ANY not in self._origins
        """Whether answers differ by who asks."""

    async def preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a preflight; None where the request is none, or where it may learn nothing.

        It tells which methods a path of our table takes, without a token: a browser sends none with it.
        """
        headers = request.headers
        if hdrs.ACCESS_CONTROL_REQUEST_METHOD not in headers or self._allowed(headers.get(hdrs.ORIGIN)) is None:
            return None
        methods: set[str] = set()
        for resource in self._resources:
            _, allowed = await resource.resolve(request)
            methods |= allowed
        if not methods:
            return None
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(sorted(methods)),
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _ALLOWED,
                hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_MAX_AGE_S),
            },
        )

    def mark(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add what lets a page of an allowed origin read the answer."""
        if response.prepared:
            return  # a WebSocket: its Origin was looked at when it was opened
        headers = response.headers
        if self.varies:
            # On every answer, or a cache gives one origin's to another (the Fetch standard, "CORS protocol and HTTP caches").
            vary = headers.get(hdrs.VARY)
            headers[hdrs.VARY] = hdrs.ORIGIN if vary is None else f"{vary}, {hdrs.ORIGIN}"
        allowed = self._allowed(request.headers.get(hdrs.ORIGIN))
        if allowed is not None:
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = allowed
            headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED

    def _allowed(self, origin: str | None) -> str | None:
        """What Access-Control-Allow-Origin says; None where nothing is allowed."""
        if origin is None:
            return None
        if ANY in self._origins:
            return ANY
        return origin if origin in self._origins else None
