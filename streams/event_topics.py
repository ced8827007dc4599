"""Event topics: created with their schema, listed, described. The only place that creates one after the start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from streams.domain.envelope_schema import SchemaKind
from streams.domain.errors import TooManyTopicsError, TopicExistsError
from streams.domain.naming import EVENTS_PREFIX, api_topic, colliding_topic, event_topic
from streams.kafka.admin import TopicAdmin
from streams.kafka.consumer import Span
from streams.kafka.log_dirs import partition_bytes
from streams.registry import RegisteredSchema
from streams.retrying import retrying
from streams.settings import Settings
from streams.topic_schemas.store import TopicSchemas
from streams.topics import event_topic_spec

log = logging.getLogger(__name__)

_RETENTION: Final = "retention.ms"
_CLEANUP: Final = "cleanup.policy"
_DELETE: Final = "delete"
"""Kafka's default, which is that of every event topic."""
_LEADERLESS_S: Final = 2.0
"""How long partitions may be without a leader before a question about topics fails."""


@dataclass(frozen=True, slots=True)
class TopicSummary:
    """An event topic, as far as few questions tell about many of them."""

    name: str
    """As the API has it."""
    spans: Mapping[int, Span]
    """The offsets of each partition."""
    retention_ms: int
    """-1: for ever."""
    cleanup_policy: str
    schema_kind: SchemaKind


class EventTopics:
    """The topics `events.*`. Every method raises Kafka's and the registry's errors."""

    def __init__(self, settings: Settings, admin: TopicAdmin, topic_schemas: TopicSchemas) -> None:
        self._settings = settings
        self._admin = admin
        self._schemas = topic_schemas
        self._one_at_a_time = asyncio.Lock()

    async def create_for_event(self, name: str) -> None:
        """Create the topic of a first event; done also where another worker was faster.

        Raises UnknownTopicError for a bad name, TooManyTopicsError, or TopicExistsError for a name that collides. One at
        a time, so that the limit holds; but each worker looks for itself, and with others at the same moment they may go
        past it by one each.
        """
        spec = event_topic_spec(self._settings, name)
        async with self._one_at_a_time:
            existing = await self._admin.topics()
            if spec.name not in existing:
                _refuse_collision(spec.name, existing)
                if sum(topic.startswith(EVENTS_PREFIX) for topic in existing) >= self._settings.max_topics:
                    raise TooManyTopicsError(self._settings.max_topics)
            # The schema first: a topic that exists can be written to by anyone.
            await self._schemas.prepare(spec.name)
            if await self._admin.create([spec]):
                log.info("created %s for its first event", spec.name)

    async def create(
        self,
        name: str,
        *,
        partitions: int | None = None,
        retention_ms: int | None = None,
        schema: tuple[SchemaKind, str] | None = None,
    ) -> TopicSummary:
        """Create a topic; what is not given is as the settings have it. Says what it is, before brokers may know it.

        Raises UnknownTopicError for a bad name, TopicExistsError, ConfigurationError for what Kafka refuses, and
        InvalidSchemaError or IncompatibleSchemaError.
        """
        spec = event_topic_spec(self._settings, name)
        configs = dict(spec.configs) | ({} if retention_ms is None else {_RETENTION: str(retention_ms)})
        spec = replace(spec, partitions=partitions or spec.partitions, configs=configs)
        # One at a time: who is refused since another was faster must not have registered a schema meanwhile.
        async with self._one_at_a_time:
            existing = await self._admin.topics()
            if spec.name in existing:
                raise TopicExistsError(f"there is a topic {name!r}")
            _refuse_collision(spec.name, existing)
            if schema is not None:
                await self._schemas.register(spec.name, *schema)
            else:
                await self._schemas.prepare(spec.name)
            if not await self._admin.create([spec]):
                raise TopicExistsError(f"there is a topic {name!r}: it was created meanwhile")
        log.info("created %s", spec.name)
        kind = SchemaKind.AVRO if schema is None else schema[0]
        spans = dict.fromkeys(range(spec.partitions), Span(0, 0))
        return TopicSummary(name, spans, int(configs[_RETENTION]), _DELETE, kind)

    async def names(self) -> list[str]:
        """The API names of all event topics, in order."""
        return sorted(api_topic(topic) for topic in await self._admin.topics() if topic.startswith(EVENTS_PREFIX))

    async def summaries(self, names: list[str]) -> list[TopicSummary]:
        """What there is to say about these topics; one that is deleted meanwhile is left out."""
        # The partitions of a topic that somebody has just created, or that moves, have no leader for a moment.
        return await retrying(partial(self._summaries, names), self._settings.retry_policy(_LEADERLESS_S))

    async def _summaries(self, names: list[str]) -> list[TopicSummary]:
        topics = {event_topic(name): name for name in names}
        existing = await self._admin.topics()
        found = {topic: existing[topic] for topic in topics if topic in existing}
        spans, configs, kind_of = await asyncio.gather(
            self._admin.spans(found), self._admin.configs(found), self._schemas.kinds()
        )
        return [
            TopicSummary(
                topics[topic],
                spans[topic],
                int(configs[topic][_RETENTION]),
                configs[topic][_CLEANUP],
                kind_of(topic),
            )
            for topic in found
            if topic in spans and topic in configs
        ]

    async def bytes_of(self, summary: TopicSummary) -> Mapping[int, int]:
        """The bytes of each partition on disk, one replica's."""
        topic = event_topic(summary.name)
        return (await partition_bytes(self._settings, {topic: len(summary.spans)}))[topic]

    async def schema_versions(self, name: str, limit: int) -> list[RegisteredSchema]:
        """The newest versions of a topic's schema, newest first."""
        return await self._schemas.versions(event_topic(name), limit)

    async def register_schema(self, name: str, kind: SchemaKind, text: str) -> RegisteredSchema:
        """A new version of a topic's schema. Raises InvalidSchemaError or IncompatibleSchemaError."""
        return await self._schemas.register(event_topic(name), kind, text)


def _refuse_collision(topic: str, existing: Mapping[str, int]) -> None:
    if (other := colliding_topic(topic, existing)) is not None:
        raise TopicExistsError(f"there is a topic {other!r}: Kafka does not tell {topic!r} from it in its metrics")
