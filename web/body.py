"""Reading a request's body: bounded in size, whatever its headers claim."""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from web.errors import BodyTooLargeError, InvalidRequestError, UnsupportedEncodingError

# What aiohttp decodes without optional libraries.
ENCODINGS: Final = ("gzip", "deflate", "identity")


async def read_body(request: web.Request, limit: int) -> bytes:
    """The body, decompressed, of at most `limit` bytes. How long it may take is the caller's business.

    Raises BodyTooLargeError, UnsupportedEncodingError, or InvalidRequestError where it is cut off or corrupt.
    """
    encoding = request.headers.get(hdrs.CONTENT_ENCODING)
    if encoding is not None and encoding.strip().lower() not in ENCODINGS:
        raise UnsupportedEncodingError(encoding, ENCODINGS)
    length = request.content_length
    if length is not None and length > limit:
        raise BodyTooLargeError(limit)
    content = request.content
    try:
        if content.is_eof():
            # The usual case: a small body came together with the headers.
            body = content.read_nowait()
        else:
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
    return body
