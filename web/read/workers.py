"""Asking other workers for the rows that they have, over HTTP, in the caller's name."""

from __future__ import annotations

from typing import Final, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import hdrs
from yarl import URL

from streams.kafka.batching import Source
from web.errors import WorkerFailedError, WorkerUnavailableError

T = TypeVar("T")

TABLES_PATH: Final = "/api/v1/tables"
ROUTED: Final = "X-Streams-Routed"
"""Marks a request that came from another worker: it is answered from what is here, and goes no further."""

_MAX_ANSWER_BYTES: Final = 16_777_216
_CHUNK_BYTES: Final = 65_536


class RowAnswer(msgspec.Struct, frozen=True):
    """A row, and where it is."""

    topic: str
    """The input partition that it was made from."""
    partition: int
    offset: int
    """The last offset of that partition that was folded in."""
    value: msgspec.Raw
    worker: str
    """The URL of the worker that has it."""

    @property
    def source(self) -> Source:
        """The input partition."""
        return Source(self.topic, self.partition)


class RoutedAnswer(msgspec.Struct, frozen=True):
    """What one worker says of a key to another."""

    rows: list[RowAnswer]
    held: list[Source]
    """The parts of the table that it has, complete: of these, and no others, it knows that there is no other row."""


def key_path(table: str, key: str) -> str:
    """The path of a key's page. The key is one segment, so that no dots in it are taken for a way up."""
    return f"{TABLES_PATH}/{quote(table, safe='')}/{quote(key, safe='')}"


class Workers:
    """The HTTP client for other workers, made when it is first needed."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, url: str, path: str, authorization: str, answer: type[T]) -> T:
        """What the worker with this URL has at a path, quoted and with its query.

        Raises WorkerUnavailableError or WorkerFailedError.
        """
        if self._session is None:
            # Cookies and proxies have no part in this: a worker is told what the caller told us, and no more.
            self._session = aiohttp.ClientSession(
                timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
            )
        try:
            async with self._session.get(
                URL(url.rstrip("/") + path, encoded=True),
                headers={
                    hdrs.AUTHORIZATION: authorization,
                    hdrs.ACCEPT: "application/json",
                    hdrs.ACCEPT_ENCODING: "identity",
                    ROUTED: "1",
                },
                # A token is not taken along to where a worker points.
                allow_redirects=False,
            ) as response:
                if response.status in (429, 503):
                    raise WorkerUnavailableError(f"{url} answers {response.status}")
                if response.status != 200:
                    raise WorkerFailedError(f"{url} answers {response.status}")
                return msgspec.json.decode(await _read(response), type=answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise WorkerUnavailableError(f"{url}: {exc!r}") from exc
        except (msgspec.MsgspecError, ValueError) as exc:
            raise WorkerFailedError(f"{url} answers something else: {exc}") from exc

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            raise ValueError(f"more than {_MAX_ANSWER_BYTES} bytes")
    return bytes(body)
