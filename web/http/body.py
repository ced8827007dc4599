"""Reading a request's body: bounded in size, as it came and as it is when inflated, whatever its headers claim.

aiohttp does not inflate (`web.http.server` tells it so): it would go on with a body that has been refused, to throw it away.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Final

from aiohttp import hdrs, web
from backports import zstd

from streams.domain.errors import PlatformError
from web.errors import (
    BodyTooLargeError,
    CompressionRatioError,
    DeadlineExceededError,
    InvalidRequestError,
    SlowBodyError,
    UnsupportedEncodingError,
)
from web.http.expectations import ask_for_body

ENCODINGS: Final = ("gzip", "deflate", "zstd", "identity")
MAX_RATIO: Final = 100

_RATIO_COUNTS_FROM: Final = 65_536
"""Bytes that a body may be inflated to whatever it was before: some tiny bodies shrink a thousandfold."""
_MAX_MEMBERS: Final = 64
"""A body may be several files after each other; each that ends costs a copy of the rest."""
# 8 MiB: what RFC 9659 lets a sender of this encoding use.
_WINDOW: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: 23}

_IDENTITY: Final = "identity"
_OTHER_NAMES: Final = {"x-gzip": "gzip"}
"""RFC 9110, section 8.4.1.3."""


def too_late(request: web.Request, deadline_s: float) -> PlatformError:
    """What is told where a request was not done within its deadline (seconds): by whom it was held up."""
    return DeadlineExceededError(deadline_s) if request.content.is_eof() else SlowBodyError(deadline_s)


async def read_body(request: web.Request, limit: int, max_ratio: int = MAX_RATIO) -> bytes:
    """The body, inflated: at most `limit` bytes before and after. How long it may take is the caller's business.

    Past 64 KiB, it may be inflated to `max_ratio` times its size. Raises BodyTooLargeError, CompressionRatioError,
    UnsupportedEncodingError, or InvalidRequestError where it is cut off or corrupt.
    """
    encoding = request.headers.get(hdrs.CONTENT_ENCODING)
    if encoding is not None:
        encoding = _encoding(request)
    length = request.content_length
    if length is not None and length > limit:
        raise BodyTooLargeError(limit)
    content = request.content
    try:
        if content.is_eof():
            # The usual case: a small body came together with the headers.
            body = content.read_nowait()
        else:
            await ask_for_body(request)
            chunks: list[bytes] = []
            size = 0
            while size <= limit and (chunk := await content.readany()):
                chunks.append(chunk)
                size += len(chunk)
            body = b"".join(chunks)
    except web.RequestPayloadError as exc:
        raise InvalidRequestError("the body is not encoded as its headers say") from exc
    except ConnectionError as exc:
        raise InvalidRequestError("the connection was lost before the body was complete") from exc
    if len(body) > limit:
        raise BodyTooLargeError(limit)
    return body if encoding is None else inflate(body, encoding, limit, max_ratio)


def inflate(body: bytes, encoding: str, limit: int, max_ratio: int = MAX_RATIO) -> bytes:
    """A body in one of `ENCODINGS`, inflated no further than it may be. Raises as `read_body`."""
    if encoding == _IDENTITY or not body:
        return body
    allowed = min(limit, max(_RATIO_COUNTS_FROM, max_ratio * len(body)))
    try:
        inflated = _inflate(body, _DECOMPRESSORS[encoding], allowed + 1)
    except (zlib.error, zstd.ZstdError, EOFError) as exc:
        raise InvalidRequestError("the body is not encoded as its headers say") from exc
    if len(inflated) > allowed:
        raise BodyTooLargeError(limit) if allowed == limit else CompressionRatioError(max_ratio)
    return inflated


def _encoding(request: web.Request) -> str:
    # Several, one on top of the other, are in several headers or separated by commas: none of ours either way.
    value = ", ".join(request.headers.getall(hdrs.CONTENT_ENCODING)).strip().lower()
    encoding = _OTHER_NAMES.get(value, value)
    if encoding not in ENCODINGS:
        raise UnsupportedEncodingError(value, ENCODINGS)
    return encoding


def _inflate(body: bytes, decompressor_for: Callable[[bytes], Any], enough: int) -> bytes:
    """The first `enough` bytes. Raises what the decompressor does, and EOFError where the body is cut off."""
    parts = []
    for _ in range(_MAX_MEMBERS):
        decompressor = decompressor_for(body)
        part = decompressor.decompress(body, enough)
        parts.append(part)
        enough -= len(part)
        if enough == 0:
            break
        if not decompressor.eof:
            raise EOFError
        body = decompressor.unused_data
        if not body:
            break
    else:
        raise EOFError
    return b"".join(parts)


def _gzip(_body: bytes) -> Any:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _deflate(body: bytes) -> Any:
    # RFC 9110, section 8.4.1.2: with zlib's header; there are clients that leave it out.
    return zlib.decompressobj(zlib.MAX_WBITS if body[0] & 0x0F == 8 else -zlib.MAX_WBITS)


def _zstd(_body: bytes) -> Any:
    return zstd.ZstdDecompressor(options=_WINDOW)


_DECOMPRESSORS: Final[dict[str, Callable[[bytes], Any]]] = {"gzip": _gzip, "deflate": _deflate, "zstd": _zstd}
