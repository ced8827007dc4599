"""The public keys in use: from a file or a URL, looked at again while the worker runs, so that issuers can rotate them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

import aiohttp

from streams.domain.errors import ConfigurationError, UnavailableError
from streams.settings import Settings
from web.security.jwks import MAX_DOCUMENT_BYTES, JwksError, KeySet, parse_jwks

log = logging.getLogger(__name__)

REFETCH_INTERVAL_S: Final = 10.0
"""Tokens with unknown keys make the keys be fetched again at most once in so long, however many they are."""
FETCH_TIMEOUT_S: Final = 3.0

_REFRESH_SHARE: Final = 0.8
"""When keys are fetched again, as a share of their lifetime: before it is over."""
_FILE_INTERVAL_S: Final = 2.0
_RETRY_S: Final = 5.0
"""After a failure, where keys are in use."""
_FIRST_RETRY_S: Final = 1.0
_SAY_AGAIN_S: Final = 60.0


class Source(Protocol):
    """Where a key set comes from."""

    name: str
    interval_s: float
    """How often it is read again."""

    async def read(self) -> bytes | None:
        """The document; None where it is what it was. Raises OSError, TimeoutError, JwksError or aiohttp.ClientError."""
        ...


class FileSource:
    """A file, which may be replaced at any time."""

    interval_s = _FILE_INTERVAL_S

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def read_now(self) -> bytes | None:
        """The document; None where the file is what it was. Raises OSError."""
        stat = self._path.stat()
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen == self._seen:
            return None
        with self._path.open("rb") as file:
            document = file.read(MAX_DOCUMENT_BYTES + 1)
        self._seen = seen
        return document

    async def read(self) -> bytes | None:
        """As `read_now`, beside the event loop."""
        return await asyncio.to_thread(self.read_now)


class UrlSource:
    """A URL. Redirects are not followed: they could lead out of TLS."""

    def __init__(self, url: str, ttl_s: float) -> None:
        self.name = url
        self.interval_s = ttl_s * _REFRESH_SHARE
        self._url = url

    async def read(self) -> bytes:
        """The document."""
        timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self._url, allow_redirects=False, headers={"Accept": "application/jwk-set+json"}) as response,
        ):
            if response.status != 200:
                raise JwksError(f"the answer is {response.status}, not 200")
            document = bytearray()
            async for chunk in response.content.iter_chunked(65_536):
                document += chunk
                if len(document) > MAX_DOCUMENT_BYTES:
                    break
            return bytes(document)


class KeyRing:
    """The keys, and who keeps them fresh. Where the source fails, the keys it had stay in use, and the log says so."""

    def __init__(
        self,
        source: Source,
        algorithms: tuple[str, ...],
        *,
        on_change: Callable[[], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._source = source
        self._algorithms = algorithms
        self._on_change = on_change
        self._clock = clock
        self._keys: KeySet | None = None
        self._fetched_at = float("-inf")
        self._failure: str | None = None
        self._said_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def keys(self) -> KeySet:
        """The keys. Raises UnavailableError until the first have come."""
        if self._keys is None:
            raise UnavailableError(
                "the keys that tokens are verified with have not come yet", retry_after_s=2 * _FIRST_RETRY_S
            )
        return self._keys

    def start(self) -> None:
        """Begin to follow the source. A file is read now: raises ConfigurationError where it cannot be used.

        A URL is waited for, beside everything else: issuers may start later than we do.
        """
        if isinstance(self._source, FileSource):
            try:
                self._take(self._source.read_now())
            except (OSError, JwksError) as exc:
                raise ConfigurationError(
                    f"STREAMS_JWT_JWKS_FILE: cannot use {self._source.name}: {_reason(exc)};"
                    " name a file with the issuer's public keys as a JWKS"
                ) from exc
        self._refreshing = asyncio.ensure_future(self._refresh())

    async def close(self) -> None:
        """End what runs in the background."""
        tasks = [task for task in (self._refreshing, self._fetching) if task is not None]
        self._refreshing = self._fetching = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def refetch(self) -> None:
        """Fetch once more for a key that is not known, unless that was done lately; many who ask wait for one fetch."""
        fetching = self._fetching
        if fetching is None:
            if self._clock() - self._fetched_at < REFETCH_INTERVAL_S:
                return
            fetching = self._begin()
        # One who goes away must not end it for the others.
        await asyncio.shield(fetching)

    def _begin(self) -> asyncio.Task[None]:
        self._fetched_at = self._clock()
        self._fetching = asyncio.ensure_future(self._fetch())
        return self._fetching

    async def _refresh(self) -> None:
        while True:
            await asyncio.shield(self._fetching or self._begin())
            if self._keys is None:
                pause = _FIRST_RETRY_S
            else:
                pause = self._source.interval_s if self._failure is None else min(_RETRY_S, self._source.interval_s)
            await asyncio.sleep(pause)

    async def _fetch(self) -> None:
        try:
            self._take(await self._source.read())
        except (OSError, TimeoutError, JwksError, aiohttp.ClientError) as exc:
            self._say(_reason(exc))
        except Exception:
            # A bug of ours or of a library must not end the refreshing: keys that were withdrawn would stay in use.
            self._failure = "unexpected"
            log.exception("reading the signing keys of %s failed", self._source.name)
        else:
            self._failure = None
        finally:
            self._fetching = None

    def _say(self, failure: str) -> None:
        now = self._clock()
        if failure != self._failure or now - self._said_at >= _SAY_AGAIN_S:
            self._said_at = now
            kept = "none are known yet" if self._keys is None else "those that are known stay in use"
            log.warning("the signing keys of %s cannot be read: %s; %s", self._source.name, failure, kept)
        self._failure = failure

    def _take(self, document: bytes | None) -> None:
        if document is None:
            return
        keys = parse_jwks(document, self._algorithms)
        if self._keys is None or keys.keys != self._keys.keys:
            log.info("%d signing keys from %s", len(keys.keys), self._source.name)
            for reason in keys.unused:
                log.warning("%s: not used: %s", self._source.name, reason)
            self._keys = keys
            self._on_change()


def key_ring(settings: Settings, on_change: Callable[[], None]) -> KeyRing | None:
    """The key ring that the settings ask for; `on_change` is called when keys have come or gone."""
    if settings.jwt_jwks_file is not None:
        source: Source = FileSource(settings.jwt_jwks_file)
    elif settings.jwt_jwks_url is not None:
        source = UrlSource(settings.jwt_jwks_url, settings.jwt_jwks_ttl_s)
    else:
        return None
    return KeyRing(source, settings.jwt_algorithms, on_change=on_change)


def _reason(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
