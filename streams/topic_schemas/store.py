"""The schema of each topic, as the registry has it: compiled once, kept at hand, looked up again in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from streams import schemas
from streams.codecs import AvroCodec, is_event
from streams.domain.envelope import Event
from streams.domain.envelope_schema import SchemaKind
from streams.domain.errors import IncompatibleSchemaError, InvalidSchemaError, PlatformError, UnavailableError
from streams.registry import RegisteredSchema, SchemaRegistry
from streams.topic_schemas.avro import AvroDefinition
from streams.topic_schemas.definition import Definition
from streams.topic_schemas.json_schema import JsonDefinition
from streams.topic_schemas.protobuf import ProtobufDefinition

log = logging.getLogger(__name__)

_COMPILERS: Final[dict[SchemaKind, Callable[[str], Definition]]] = {
    SchemaKind.AVRO: AvroDefinition,
    SchemaKind.JSON: JsonDefinition,
    SchemaKind.PROTOBUF: ProtobufDefinition,
}
_MAX_VERSIONS: Final = 100
_DOUBT_S: Final = 1.0
"""How old a schema must be to be looked up again since an event was refused by it."""
_DOCUMENTS: Final = (SchemaKind.JSON, SchemaKind.PROTOBUF)
"""The kinds that describe what clients send; the records in Kafka then have the schema `Event`."""


@dataclass(frozen=True, slots=True)
class TopicSchema:
    """What events of one topic must be, and how they are written."""

    registered: RegisteredSchema | None
    """The newest version of what the topic is defined by; None where the registry was not asked."""
    event_schema: int
    """The id that records in Kafka begin with."""
    check: Callable[[Event], None] | None
    """Raises InvalidEventError; None where the envelope's rules are all."""
    body: Callable[[Event], bytes] | None
    """The Avro body of an event; None where that is `Event`'s own."""
    fields: Callable[[bytes], Mapping[str, object]] | None
    """Reads Protobuf bodies, as `streams.codecs.protobuf_fields` does; None where they are `streams.Event`."""

    @classmethod
    def event(cls, schema_id: int) -> Self:
        """That of a topic without a schema of its own: `Event`, which the registry has under this id."""
        return cls(None, schema_id, None, None, None)


class TopicSchemas:
    """What is known of the topics' schemas. One that is known is used at once, however long ago that was."""

    def __init__(
        self,
        registry: SchemaRegistry,
        codec: AvroCodec,
        *,
        max_age_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._codec = codec
        self._max_age_s = max_age_s
        self._clock = clock
        self._known: dict[str, TopicSchema] = {}
        self._checked_at: dict[str, float] = {}
        self._looking: dict[str, asyncio.Task[TopicSchema]] = {}

    def of(self, topic: str) -> TopicSchema:
        """The schema of a Kafka topic that `prepare` was called for. Raises UnavailableError."""
        try:
            return self._known[topic]
        except KeyError:
            raise UnavailableError(f"the schema of {topic} is not known yet") from None

    def is_fresh(self, topic: str) -> bool:
        """Whether `prepare` would do nothing."""
        return topic in self._known and self._clock() - self._checked_at[topic] < self._max_age_s

    async def prepare(self, topic: str) -> TopicSchema:
        """The schema of a Kafka topic; one that has none gets `Event`, registered now.

        Waits for the registry the first time only. Later a schema that is older than the limit is looked up again
        beside the caller, and stays in use until then, also while the registry is away. Raises the registry's errors.
        """
        known = self._known.get(topic)
        if known is None:
            # One look-up for all who wait; a caller whose deadline ends takes it from nobody else.
            return await asyncio.shield(self._look(topic))
        if self._clock() - self._checked_at[topic] >= self._max_age_s:
            self._checked_at[topic] = self._clock()
            self._look(topic)
        return known

    def doubt(self, topic: str) -> None:
        """Look the schema of a Kafka topic up again beside the caller: it has refused an event.

        Another worker may have registered a version that takes it. Once in a second at most.
        """
        if topic in self._known and self._clock() - self._checked_at[topic] >= _DOUBT_S:
            self._checked_at[topic] = self._clock()
            self._look(topic)

    async def renewed(self, topic: str) -> bool:
        """Whether the look-up that is under way, if any, finds another schema than the one that is known."""
        if (looking := self._looking.get(topic)) is None:
            return False
        known = self._known.get(topic)
        try:
            return await asyncio.shield(looking) is not known
        except PlatformError:
            return False

    async def register(self, topic: str, kind: SchemaKind, text: str) -> RegisteredSchema:
        """Make this the newest version of a topic's schema; neither need exist yet.

        Raises InvalidSchemaError, IncompatibleSchemaError where the registry or another kind of schema stands in the
        way, and the registry's errors.
        """
        # In a thread: protoc is a process that takes 50 ms.
        await asyncio.to_thread(_COMPILERS[kind], text)
        own = await self._own_kind(topic)
        if own not in {None, kind}:
            reason = f"the topic has a schema in {own}: so must be its next version"
            raise IncompatibleSchemaError(f"{topic}: {reason}", [reason])
        schema_id = await self._registry.register(kind.subject(topic), text, kind)
        registered = await self._version_of(kind.subject(topic), schema_id)
        # A look-up that is under way may find what was there before: it is no longer the one that counts.
        self._looking.pop(topic, None)
        await asyncio.shield(self._look(topic))
        return registered

    async def versions(self, topic: str, limit: int) -> list[RegisteredSchema]:
        """The newest versions of a topic's schema, newest first; none where the topic has no schema."""
        own = await self._own_kind(topic)
        return await self._newest((own or SchemaKind.AVRO).subject(topic), limit)

    async def kinds(self) -> Callable[[str], SchemaKind]:
        """Which kind of schema each topic has, by one question for all of them."""
        subjects = await self._registry.subjects()

        def kind_of(topic: str) -> SchemaKind:
            return next((kind for kind in _DOCUMENTS if kind.subject(topic) in subjects), SchemaKind.AVRO)

        return kind_of

    async def close(self) -> None:
        """Give up what is being looked up."""
        for task in self._looking.values():
            task.cancel()
        await asyncio.gather(*self._looking.values(), return_exceptions=True)

    def _look(self, topic: str) -> asyncio.Task[TopicSchema]:
        task = self._looking.get(topic)
        if task is None:
            task = self._looking[topic] = asyncio.get_running_loop().create_task(self._load(topic))
            task.add_done_callback(lambda done: self._looked(topic, done))
        return task

    def _looked(self, topic: str, task: asyncio.Task[TopicSchema]) -> None:
        if self._looking.get(topic) is task:
            del self._looking[topic]
        if task.cancelled():
            return
        if (error := task.exception()) is not None and topic in self._known:
            # Nobody waits for it: the schema that is known goes on being used.
            log.warning("the schema of %s was not looked up again: %s", topic, error)

    async def _load(self, topic: str) -> TopicSchema:
        defined_by, value = await self._registered(topic)
        known = self._known.get(topic)
        if known is None or known.registered != defined_by or known.event_schema != value.id:
            known = await asyncio.to_thread(self._compiled, defined_by, value)
            self._codec.add_schema(value.id, value.text)
        if topic in self._known and self._looking.get(topic) is not asyncio.current_task():
            return self._known[topic]
        self._known[topic] = known
        self._checked_at[topic] = self._clock()
        return known

    async def _registered(self, topic: str) -> tuple[RegisteredSchema, RegisteredSchema]:
        """What the topic is defined by, and what its records have in Kafka: of Avro, the same."""
        value, *documents = await asyncio.gather(
            self._registry.version(_value(topic)),
            *(self._registry.version(kind.subject(topic)) for kind in _DOCUMENTS),
        )
        if value is None:
            schema_id = await self._registry.register(_value(topic), schemas.EVENT)
            value = await self._version_of(_value(topic), schema_id)
        return next((found for found in documents if found is not None), value), value

    async def _own_kind(self, topic: str) -> SchemaKind | None:
        """The kind of a topic's own schema; None where that is `Event`, or nothing."""
        kind_of = await self.kinds()
        if (kind := kind_of(topic)) is not SchemaKind.AVRO:
            return kind
        value = await self._registry.version(_value(topic))
        return None if value is None or is_event(value.text) else SchemaKind.AVRO

    async def _newest(self, subject: str, limit: int) -> list[RegisteredSchema]:
        numbers = (await self._registry.versions(subject))[-limit:]
        found = await asyncio.gather(*(self._registry.version(subject, number) for number in reversed(numbers)))
        return [version for version in found if version is not None]

    async def _version_of(self, subject: str, schema_id: int) -> RegisteredSchema:
        newest = await self._registry.version(subject)
        if newest is not None and newest.id == schema_id:
            return newest
        # The text of an earlier version again, or somebody else was as fast.
        for version in await self._newest(subject, _MAX_VERSIONS):
            if version.id == schema_id:
                return version
        raise UnavailableError(f"the registry does not have yet what it has registered under {subject}")

    def _compiled(self, defined_by: RegisteredSchema, value: RegisteredSchema) -> TopicSchema:
        """Raises UnavailableError for a schema that somebody has registered past us: events wait until it is put right."""
        try:
            plain = is_event(value.text)
            record = None if plain else AvroDefinition(value.text)
            own: Definition | None = record if defined_by is value else _COMPILERS[defined_by.kind](defined_by.text)
        except (InvalidSchemaError, ValueError) as exc:
            what = f"version {defined_by.version} of its schema in the registry"
            raise UnavailableError(f"{what} cannot be used: {exc}", retry_after_s=self._max_age_s) from exc
        return TopicSchema(
            defined_by,
            value.id,
            check=None if own is None else own.check,
            body=None if record is None else record.body,
            fields=own.fields if isinstance(own, ProtobufDefinition) else None,
        )


def _value(topic: str) -> str:
    return SchemaKind.AVRO.subject(topic)
