"""The handlers for what describes the API: each document is made once, when it is first asked for."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any

from aiohttp import hdrs, web

from web.describe.docs_page import SECURITY_POLICY, docs_page
from web.errors import UnknownSigningKeyError
from web.negotiation import HTML, JSON
from web.security.auth import Authenticator, bearer_token

Document = Mapping[str, Any]


class Documents:
    """The handlers. Without a token they show nothing that is not the same in every worker of this version."""

    def __init__(
        self,
        openapi: Callable[[], Document],
        asyncapi: Callable[[], Document],
        asyncapi_with_topics: Callable[[], Awaitable[Document]],
        authenticator: Authenticator,
        topics_scope: str,
    ) -> None:
        self._make_openapi = openapi
        self._make_asyncapi = asyncapi
        self._asyncapi_with_topics = asyncapi_with_topics
        self._authenticator = authenticator
        self._topics_scope = topics_scope

    async def openapi(self, _: web.Request) -> web.Response:
        """GET /openapi.json."""
        return _answer(JSON, self._openapi)

    async def asyncapi(self, request: web.Request) -> web.Response:
        """GET /asyncapi.json: with every topic for who shows a token that may list them."""
        authorization = request.headers.get(hdrs.AUTHORIZATION)
        if authorization is not None and await self._may_list_topics(authorization):
            response = _answer(JSON, json.dumps(await self._asyncapi_with_topics()).encode())
            response.headers[hdrs.CACHE_CONTROL] = "no-store"
        else:
            response = _answer(JSON, self._asyncapi)
        response.headers[hdrs.VARY] = hdrs.AUTHORIZATION
        return response

    async def page(self, _: web.Request) -> web.Response:
        """GET /docs: a page without scripts, which loads nothing."""
        response = _answer(HTML, self._page)
        response.headers["Content-Security-Policy"] = SECURITY_POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    async def _may_list_topics(self, authorization: str) -> bool:
        """Raises AuthenticationError: who shows a token learns that it is not valid, though none was needed."""
        token = bearer_token(authorization)
        try:
            claims = self._authenticator.verify(token)
        except UnknownSigningKeyError:
            claims = await self._authenticator.verify_with_new_keys(token)
        return claims.allows(self._topics_scope)

    @cached_property
    def _openapi(self) -> bytes:
        return json.dumps(self._make_openapi()).encode()

    @cached_property
    def _asyncapi(self) -> bytes:
        return json.dumps(self._make_asyncapi()).encode()

    @cached_property
    def _page(self) -> bytes:
        return docs_page(self._make_openapi()).encode()


def _answer(media_type: str, body: bytes) -> web.Response:
    return web.Response(
        body=body,
        content_type=media_type,
        charset="utf-8" if media_type == HTML else None,
        headers={hdrs.CACHE_CONTROL: "no-cache", "X-Content-Type-Options": "nosniff"},
    )
