"""`Expect: 100-continue` (RFC 9110, section 10.1.1): a client holds its body back until it is asked for.

aiohttp asks before any middleware runs. Here, the body is asked for when it is first read: after the token, the scope
and the limits were looked at, so that a request that is refused has sent its headers alone. Other expectations are
ignored, as they may be.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.web_request import BaseRequest
from multidict import CIMultiDict

Handler = Callable[[BaseRequest], Awaitable[web.StreamResponse]]

_HELD_BACK: Final = web.RequestKey("held_back", bool)


def deferring(handler: Handler) -> Handler:
    """The handler, given requests without the header Expect. Others pass through at the cost of a look-up."""

    async def without(request: BaseRequest) -> web.StreamResponse:
        held_back = request.headers[hdrs.EXPECT].lower() == "100-continue" and request.version >= HttpVersion11
        headers = CIMultiDict(
            # What is no UTF-8 came in as surrogates, which the copy of a request cannot take.
            (name, value.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
            for name, value in request.headers.items()
        )
        del headers[hdrs.EXPECT]
        request = request.clone(headers=headers)
        request[_HELD_BACK] = held_back
        response = await handler(request)
        if held_back and not request.content.is_eof() and not response.prepared:
            # Whether the body comes all the same, nobody knows: what follows cannot be told from it.
            response.force_close()
        return response

    def handle(request: BaseRequest) -> Awaitable[web.StreamResponse]:
        return without(request) if hdrs.EXPECT in request.headers else handler(request)

    return handle


async def ask_for_body(request: web.Request) -> None:
    """Let a client that holds its body back send it. Call it once, before the body is read."""
    if request.get(_HELD_BACK, False):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The answer itself has not begun.
        request.writer.output_size = 0
