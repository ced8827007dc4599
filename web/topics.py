"""Event topics over HTTP: listed, described, created, and given a schema of their own."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Annotated, Any, Final, NoReturn

import msgspec
from aiohttp import hdrs, web

from streams.codecs import Format
from streams.domain.envelope_schema import SchemaKind
from streams.domain.errors import (
    ConfigurationError,
    FieldError,
    InvalidSchemaError,
    InvalidTopicError,
    UnknownTopicError,
    UnsupportedFormatError,
)
from streams.domain.headers import media_type
from streams.domain.naming import TOPIC_PATTERN, api_topic
from streams.event_topics import TopicSummary
from streams.registry import RegisteredSchema
from web.http.body import read_body
from web.json_body import decoded
from web.negotiation import JSON
from web.parameters import Parameters, integer, text
from web.services import Services

PATH: Final = "/api/v1/topics"
MAX_PARTITIONS: Final = 1_000
HOUR_MS: Final = 3_600_000
FOR_EVER: Final = -1

LIMIT: Final = integer("limit", "how many topics", default=100, least=1, most=1_000)
AFTER: Final = text("after", "topics whose names come after this one")
LIST_QUERY: Final = (LIMIT, AFTER)
VERSIONS: Final = integer("limit", "how many versions, from the newest on", default=10, least=1, most=100)
VERSIONS_QUERY: Final = (VERSIONS,)
_DESCRIBED_VERSIONS: Final = 100


class NewSchema(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A schema that has the envelope's fields, and the topic's own payload."""

    schema: str | dict[str, Any]
    """Its text; of Avro and JSON Schema, the document itself will do."""
    type: SchemaKind = SchemaKind.AVRO

    def as_text(self) -> str:
        """The text for the registry."""
        return self.schema if isinstance(self.schema, str) else json.dumps(self.schema)


class NewTopic(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A topic to be created; what is absent is as the platform's settings have it."""

    name: Annotated[str, msgspec.Meta(pattern=rf"^{TOPIC_PATTERN}\Z")]
    """Without `events.`."""
    partitions: Annotated[int, msgspec.Meta(ge=1, le=MAX_PARTITIONS)] | None = None
    retention_hours: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    retention_ms: Annotated[int, msgspec.Meta(ge=FOR_EVER, le=2**53)] | None = None
    """In place of hours; -1 keeps events for ever."""
    schema: NewSchema | None = None
    """The topic's own; without it, events are `Event`."""

    def kept_ms(self) -> int | None:
        """How long events are kept. Raises InvalidTopicError."""
        if self.retention_ms is None:
            return None if self.retention_hours is None else self.retention_hours * HOUR_MS
        if self.retention_hours is not None:
            _refuse("/retention_hours", "give retention_hours or retention_ms, not both")
        if self.retention_ms == 0:
            _refuse("/retention_ms", "expected 1 ms or more, or -1")
        return self.retention_ms


class TopicAnswer(msgspec.Struct):
    """An event topic."""

    name: str
    partitions: int
    events: int
    """Offsets from the first to the next: events, and the marks that transactions leave among them."""
    retention_ms: int
    """How long events are kept; -1: for ever."""
    cleanup_policy: str
    schema_type: SchemaKind
    """What its schema is written in."""


class TopicsAnswer(msgspec.Struct):
    """A page of topics, by name."""

    topics: list[TopicAnswer]
    after: str | None
    """The parameter of the next page; null on the last one."""


class PartitionAnswer(msgspec.Struct):
    """A partition of a topic."""

    partition: int
    begin_offset: int
    end_offset: int
    """The offset that the next record gets."""
    bytes: int | None
    """On the disk of one replica; null while no broker answers for it."""


class VersionAnswer(msgspec.Struct):
    """A version of a topic's schema."""

    version: int
    id: int
    """The registry's."""
    type: SchemaKind


class TopicDescription(msgspec.Struct):
    """An event topic in full."""

    topic: TopicAnswer
    partitions: list[PartitionAnswer]
    bytes: int
    """Of all partitions, on the disk of one replica each."""
    schema_versions: list[VersionAnswer]
    """Newest first."""


class SchemaAnswer(msgspec.Struct):
    """A version of a topic's schema, with its text."""

    topic: str
    version: int
    id: int
    """The registry's."""
    type: SchemaKind
    schema: str


class SchemasAnswer(msgspec.Struct):
    """The versions of a topic's schema, newest first."""

    topic: str
    versions: list[SchemaAnswer]


class Topics:
    """The handlers, and the services they stand on."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def page(self, request: web.Request) -> web.Response:
        """GET /topics: the event topics, by name."""
        parameters = Parameters(request.query, LIST_QUERY)
        limit, after = parameters.read(LIMIT), parameters.read(AFTER)
        parameters.check()
        self._services.require_started()
        topics = self._services.topics
        names = [name for name in await topics.names() if after is None or name > after]
        page = names[:limit]
        found = [_summary(summary) for summary in await topics.summaries(page)]
        return _json(TopicsAnswer(found, page[-1] if len(names) > limit else None))

    async def create(self, request: web.Request) -> web.Response:
        """POST /topics: its schema is registered, then the topic is created. 201."""
        Parameters(request.query, ()).check()
        services = self._services
        services.require_started()
        new = decoded(await self._body(request), NewTopic, InvalidTopicError)
        schema = None if new.schema is None else (new.schema.type, new.schema.as_text())
        try:
            created = await services.topics.create(
                new.name, partitions=new.partitions, retention_ms=new.kept_ms(), schema=schema
            )
        except InvalidSchemaError as exc:
            raise _placed(exc, "/schema/schema") from exc
        except ConfigurationError as exc:
            # Kafka has limits of its own, which an operator sets.
            _refuse("", str(exc))
        services.catalog.created(new.name)
        return _json(_summary(created), HTTPStatus.CREATED, {hdrs.LOCATION: f"{PATH}/{new.name}"})

    async def describe(self, request: web.Request) -> web.Response:
        """GET /topics/{topic}: partitions with their offsets and bytes, and the versions of the schema."""
        Parameters(request.query, ()).check()
        name = await self._required(request)
        topics = self._services.topics
        summaries = await topics.summaries([name])
        if not summaries:
            raise UnknownTopicError(name)
        summary = summaries[0]
        sizes, versions = await asyncio.gather(
            topics.bytes_of(summary), topics.schema_versions(name, _DESCRIBED_VERSIONS)
        )
        partitions = [
            PartitionAnswer(number, span.start, span.end, sizes.get(number))
            for number, span in sorted(summary.spans.items())
        ]
        return _json(
            TopicDescription(
                _summary(summary),
                partitions,
                sum(sizes.values()),
                [VersionAnswer(each.version, each.id, each.kind) for each in versions],
            )
        )

    async def versions(self, request: web.Request) -> web.Response:
        """GET /topics/{topic}/schema: its versions, newest first."""
        parameters = Parameters(request.query, VERSIONS_QUERY)
        limit = parameters.read(VERSIONS)
        parameters.check()
        name = await self._required(request)
        versions = await self._services.topics.schema_versions(name, limit)
        return _json(SchemasAnswer(name, [_version(name, each) for each in versions]))

    async def evolve(self, request: web.Request) -> web.Response:
        """POST /topics/{topic}/schema: a new version. 201; 409 with the registry's reasons where it does not fit."""
        Parameters(request.query, ()).check()
        name = await self._required(request)
        new = decoded(await self._body(request), NewSchema, InvalidSchemaError)
        try:
            registered = await self._services.topics.register_schema(name, new.type, new.as_text())
        except InvalidSchemaError as exc:
            raise _placed(exc, "/schema") from exc
        return _json(_version(name, registered), HTTPStatus.CREATED)

    async def _required(self, request: web.Request) -> str:
        services = self._services
        services.require_started()
        return api_topic(await services.catalog.require(request.match_info["topic"]))

    async def _body(self, request: web.Request) -> bytes:
        content_type = request.headers.get(hdrs.CONTENT_TYPE, JSON)
        if media_type(content_type) != JSON:
            raise UnsupportedFormatError(content_type, (Format.JSON,))
        return await read_body(request, self._services.settings.max_body_bytes)


def _summary(summary: TopicSummary) -> TopicAnswer:
    return TopicAnswer(
        summary.name,
        len(summary.spans),
        sum(span.end - span.start for span in summary.spans.values()),
        summary.retention_ms,
        summary.cleanup_policy,
        summary.schema_kind,
    )


def _version(topic: str, schema: RegisteredSchema) -> SchemaAnswer:
    return SchemaAnswer(topic, schema.version, schema.id, schema.kind, schema.text)


def _placed(error: InvalidSchemaError, where: str) -> InvalidSchemaError:
    """With paths that begin where the schema is in the body: `/schema/timestamp` is what it says of `timestamp`."""
    return InvalidSchemaError([FieldError(where + each.path, each.message, each.code) for each in error.errors])


def _refuse(path: str, message: str) -> NoReturn:
    raise InvalidTopicError([FieldError(path, message, "invalid")])


def _json(
    document: msgspec.Struct, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(
        status=status.value,
        content_type=JSON,
        body=msgspec.json.encode(document),
        headers={hdrs.CACHE_CONTROL: "no-store", **(headers or {})},
    )
