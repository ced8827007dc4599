"""Responses as bytes, where there is no request of aiohttp's to be answered: they look as those that it writes."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, cast

from aiohttp import hdrs, web

SERVER: Final = "event-streams"
"""The header Server, without versions: they would tell which flaws to try."""

_second = 0
_date = ""
_created = b""


def rendered(response: web.Response, *, close: bool) -> bytes:
    """A response with a body of bytes."""
    body = cast("bytes", response.body)
    status = HTTPStatus(response.status)
    headers = {**response.headers, hdrs.CONTENT_LENGTH: str(len(body)), hdrs.DATE: _now(), hdrs.SERVER: SERVER}
    if close:
        headers[hdrs.CONNECTION] = "close"
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def created(body: bytes, more: bytes = b"") -> bytes:
    """201 with a body in JSON; `more` are further headers, each with its line's end."""
    _now()
    return b"%b%d\r\n%b\r\n%b" % (_created, len(body), more, body)


def _now() -> str:
    """The header Date; what is the same for a second is made once in it."""
    global _second, _date, _created  # noqa: PLW0603 - a cache of one
    now = int(time.time())
    if now != _second:
        _second = now
        _date = formatdate(now, usegmt=True)
        _created = (
            "HTTP/1.1 201 Created\r\n"
            f"Content-Type: application/json\r\nDate: {_date}\r\nServer: {SERVER}\r\nContent-Length: "
        ).encode()
    return _date
