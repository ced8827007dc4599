"""The schema registry (Confluent API): schemas are registered, looked up once, and its errors translated."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import quote

import httpx
from schema_registry.client import AsyncSchemaRegistryClient
from schema_registry.client.errors import ClientError

from streams.codecs import AvroCodec, SchemaNeededError
from streams.domain.envelope_schema import SchemaKind
from streams.domain.errors import (
    ConfigurationError,
    FieldError,
    IncompatibleSchemaError,
    InvalidSchemaError,
    RegistryAccessError,
    RegistryUnavailableError,
    UnknownSchemaError,
)
from streams.settings import Settings

T = TypeVar("T")

_TIMEOUT: Final = httpx.Timeout(5.0)
_JAVA_CLASS: Final = re.compile(r"^(?:\w+\.)+\w+: ")
_LISTED: Final = "list of diff types: ["
_PLACE: Final = " at /"


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A version of a subject."""

    kind: SchemaKind
    version: int
    id: int
    text: str


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

    async def register(self, subject: str, schema: str, kind: SchemaKind = SchemaKind.AVRO) -> int:
        """The id of a schema under a subject, registered there if it was not.

        Raises IncompatibleSchemaError, or InvalidSchemaError where the registry takes the text for no schema.
        """
        doing = f"register the schema of {subject}"
        body = {"schema": schema} if kind is SchemaKind.AVRO else {"schema": schema, "schemaType": kind.value}
        # Asked for first: where a pipeline registers schemas, this client may have no right to.
        status, answer = await self._ask("POST", f"subjects/{_quoted(subject)}", doing, body)
        if status != HTTPStatus.OK:
            status, answer = await self._ask("POST", f"subjects/{_quoted(subject)}/versions", doing, body)
        if status == HTTPStatus.CONFLICT:
            message = _message(answer)
            raise IncompatibleSchemaError(f"cannot {doing}: {message}", incompatibilities(message))
        if status == HTTPStatus.UNPROCESSABLE_ENTITY:
            raise InvalidSchemaError([FieldError("", f"the registry refuses it: {_message(answer)}", "malformed")])
        return int(self._expected(status, answer, doing)["id"])

    async def schema(self, schema_id: int) -> str:
        """The text of an Avro schema. Raises UnknownSchemaError."""
        doing = f"look up schema {schema_id}"
        status, answer = await self._ask("GET", f"schemas/ids/{schema_id}", doing)
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
            # There is none, or it is an id that the registry will not even look up.
            raise UnknownSchemaError(f"the registry has no schema with id {schema_id}: {_message(answer)}")
        answer = self._expected(status, answer, doing)
        if answer.get("schemaType", SchemaKind.AVRO.value) != SchemaKind.AVRO.value:
            raise UnknownSchemaError(f"schema {schema_id} is no Avro schema")
        return str(answer["schema"])

    async def version(self, subject: str, version: int | None = None) -> RegisteredSchema | None:
        """A version of a subject, without a number the newest; None where there is none."""
        doing = f"look up the schema of {subject}"
        path = f"subjects/{_quoted(subject)}/versions/{'latest' if version is None else version}"
        status, answer = await self._ask("GET", path, doing)
        if status == HTTPStatus.NOT_FOUND:
            return None
        found = self._expected(status, answer, doing)
        kind = SchemaKind(found.get("schemaType", SchemaKind.AVRO.value))
        return RegisteredSchema(kind, int(found["version"]), int(found["id"]), str(found["schema"]))

    async def versions(self, subject: str) -> list[int]:
        """The numbers of a subject's versions, oldest first; none where there is no such subject."""
        doing = f"list the versions of {subject}"
        status, answer = await self._ask("GET", f"subjects/{_quoted(subject)}/versions", doing)
        if status == HTTPStatus.NOT_FOUND:
            return []
        return sorted(map(int, self._expected(status, answer, doing)))

    async def subjects(self) -> frozenset[str]:
        """The names of all subjects."""
        status, answer = await self._ask("GET", "subjects", "list the subjects")
        return frozenset(map(str, self._expected(status, answer, "list the subjects")))

    async def _ask(self, method: str, path: str, doing: str, body: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and document of an answer. The library's own methods know no Protobuf, and no reasons."""
        async with self._translated(doing):
            response = await self._client.request(f"{self._url}/{path}", method=method, body=body)
            return response.status_code, response.json()

    def _expected(self, status: int, answer: Any, doing: str) -> Any:
        if status != HTTPStatus.OK:
            raise RegistryAccessError(f"cannot {doing} at {self._url}: {_message(answer)} ({status})")
        return answer

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
        except (ValueError, RecursionError) as exc:
            raise RegistryUnavailableError(f"cannot {doing} at {self._url}: the answer is no registry's") from exc
        except ClientError as exc:
            raise RegistryAccessError(f"cannot {doing} at {self._url}: {exc.message} ({exc.http_code})") from exc


def incompatibilities(message: str) -> list[str]:
    """The reasons in what a registry says to a schema that it refuses, one by one where they can be told apart.

    Apicurio has them in one text: `... list of diff types: [what at /where, what at /where]`, under the name of a
    Java class. What is written otherwise is one reason.
    """
    text = _JAVA_CLASS.sub("", message)
    _, is_listed, listed = text.partition(_LISTED)
    listed = listed.rstrip()
    found: list[str] = []
    if is_listed and listed.endswith("]"):
        # By hand: names of the client's are in it, and a regular expression may go over them again and again.
        pending: list[str] = []
        for piece in listed[:-1].split(", "):
            pending.append(piece)
            _, has_place, place = piece.rpartition(_PLACE)
            if has_place and not any(map(str.isspace, place)):
                found.append(", ".join(pending).strip())
                pending = []
    return found or [text]


def _message(answer: Any) -> str:
    return str(answer.get("message", "")) if isinstance(answer, dict) else ""


def _quoted(subject: str) -> str:
    return quote(subject, safe="")


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
                    raise UnknownSchemaError(f"schema {need.schema_id} is none that can be read by: {exc}") from exc
