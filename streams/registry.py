"""The schema registry (Confluent API): schemas are registered, looked up once, and its errors translated."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, TypeVar

import httpx
from schema_registry.client import AsyncSchemaRegistryClient
from schema_registry.client.errors import ClientError

from streams.codecs import AvroCodec, SchemaNeededError
from streams.domain.errors import (
    ConfigurationError,
    IncompatibleSchemaError,
    RegistryAccessError,
    RegistryUnavailableError,
    UnknownSchemaError,
)
from streams.settings import Settings

T = TypeVar("T")

_TIMEOUT: Final = httpx.Timeout(5.0)
_NOT_THIS_SCHEMA: Final = (HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY)


class SchemaRegistry:
    """A client of the registry. Every method raises RegistryUnavailableError or RegistryAccessError."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.registry_url.rstrip("/")
        auth = None
        if settings.registry_username is not None and settings.registry_password is not None:
            auth = httpx.BasicAuth(settings.registry_username, settings.registry_password.get_secret_value())
        self._client = AsyncSchemaRegistryClient(self._url, auth=auth, timeout=_TIMEOUT)
        # The library makes an HTTP client for each call, which would make a TLS context each time; and it takes a CA
        # file only together with a client certificate.
        secure = self._url.startswith("https:")
        self._client.client_kwargs["verify"] = _tls(settings) if secure else False
        # By status, before the library parses each answer as JSON, which a proxy's error page is not.
        self._client.client_kwargs["event_hooks"] = {"response": [_check_status]}

    async def ping(self) -> None:
        """Return if the registry answers."""
        async with self._translated("ask for the compatibility level"):
            await self._client.get_compatibility()

    async def ensure_compatibility(self, level: str) -> None:
        """Make `level` the rule for every subject without one of its own; nothing happens where it is."""
        async with self._translated("set the compatibility level"):
            if await self._client.get_compatibility() != level:
                await self._client.update_compatibility(level)

    async def register(self, subject: str, schema: str) -> int:
        """The id of an Avro schema under a subject, registered there if it was not. Raises IncompatibleSchemaError."""
        async with self._translated(f"register the schema of {subject}"):
            return await self._client.register(subject, schema)

    async def schema(self, schema_id: int) -> str:
        """The text of a schema. Raises UnknownSchemaError."""
        async with self._translated(f"look up schema {schema_id}"):
            try:
                found = await self._client.get_by_id(schema_id)
            except ClientError as exc:
                # What is left after _check_status: an id that the registry will not even look up.
                raise UnknownSchemaError(f"the registry refuses schema id {schema_id}: {exc.message}") from exc
        if found is None:
            raise UnknownSchemaError(f"the registry has no schema with id {schema_id}")
        return json.dumps(found.raw_schema)

    @asynccontextmanager
    async def _translated(self, doing: str) -> AsyncIterator[None]:
        try:
            yield
        except httpx.HTTPError as exc:
            raise RegistryUnavailableError(f"cannot {doing} at {self._url}: {str(exc) or type(exc).__name__}") from exc
        except _RefusedError as exc:
            raise RegistryAccessError(f"cannot {doing} at {self._url}: {exc}") from exc
        except _AwayError as exc:
            raise RegistryUnavailableError(f"cannot {doing} at {self._url}: {exc}") from exc
        except json.JSONDecodeError as exc:
            raise RegistryUnavailableError(f"cannot {doing} at {self._url}: the answer is no registry's") from exc
        except ClientError as exc:
            detail = f"cannot {doing} at {self._url}: {exc.message} ({exc.http_code})"
            reasons: Any = exc.server_traceback
            if isinstance(reasons, dict):
                detail += f": {reasons.get('message')}"
            if exc.http_code in _NOT_THIS_SCHEMA:
                raise IncompatibleSchemaError(detail) from exc
            raise RegistryAccessError(detail) from exc


class _RefusedError(Exception):
    pass


class _AwayError(Exception):
    pass


async def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise _RefusedError(f"refused ({status})")
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or response.is_server_error:
        raise _AwayError(f"not now ({status})")


def _tls(settings: Settings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.registry_ssl_ca_file)
    except OSError as exc:
        raise ConfigurationError(f"STREAMS_REGISTRY_SSL_CA_FILE: {settings.registry_ssl_ca_file}: {exc}") from exc


class SchemaLoader:
    """Reads Avro records of any writer schema: one that is not known yet is looked up once."""

    def __init__(self, registry: SchemaRegistry, codec: AvroCodec) -> None:
        self._registry = registry
        self._codec = codec

    async def read(self, decode: Callable[[], T]) -> T:
        """What `decode` returns, called again after each schema that it needed was loaded.

        Raises what `decode` raises, UnknownSchemaError, and the registry's errors.
        """
        while True:
            try:
                return decode()
            except SchemaNeededError as need:
                text = await self._registry.schema(need.schema_id)
                try:
                    self._codec.add_schema(need.schema_id, text)
                except ValueError as exc:
                    raise UnknownSchemaError(f"schema {need.schema_id} is not an Avro schema") from exc
