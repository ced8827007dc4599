"""Every topic of the platform, configured in one place; the names are those of `streams.domain.naming`."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from streams.domain.naming import AGGREGATES, ALERTS, DLQ, INGRESS, INVALID, LATE, REDRIVES, event_topic
from streams.kafka.admin import TopicSpec
from streams.kafka.batching import changelog_topic
from streams.kafka.producer import MAX_DEAD_LETTER_BYTES
from streams.settings import Settings

TABLES: Final = ("state", "totals", "windows", "newest-windows", "dead-letters", "seen-ids")
"""The tables; each has a changelog topic, which must exist before an agent writes to it."""

HOUR_MS: Final = 3_600_000

CHANGELOG: Final = {"cleanup.policy": "compact", "segment.bytes": "67108864", "min.cleanable.dirty.ratio": "0.3"}
"""A closed segment is what Kafka compacts; with the default of 1 GiB a restore would read most changes ever made."""


def event_topics(settings: Settings) -> tuple[str, ...]:
    """The Kafka topics of the configured event topics."""
    return tuple(event_topic(name) for name in settings.event_topics)


def event_topic_spec(settings: Settings, name: str) -> TopicSpec:
    """The topic of an event topic, given its API name. Raises UnknownTopicError for a bad name."""
    return _spec(settings, event_topic(name), {"retention.ms": str(settings.event_retention_hours * HOUR_MS)})


def topic_specs(settings: Settings) -> tuple[TopicSpec, ...]:
    """Every topic that must exist before agents start."""
    kept = {"retention.ms": str(settings.event_retention_hours * HOUR_MS)}
    compacted = {"cleanup.policy": "compact"}
    return (
        *(event_topic_spec(settings, name) for name in settings.event_topics),
        *(_spec(settings, name, kept) for name in (INGRESS, LATE, INVALID, ALERTS)),
        _spec(settings, DLQ, kept | {"max.message.bytes": str(MAX_DEAD_LETTER_BYTES)}),
        _spec(settings, AGGREGATES, compacted),
        redrive_spec(settings),
        # As many partitions as the input with the most.
        *(
            replace(_spec(settings, changelog_topic(settings.app_id, table), CHANGELOG), may_grow=True)
            for table in TABLES
        ),
    )


def redrive_spec(settings: Settings) -> TopicSpec:
    """The audit records of redrives: kept for ever, since they say what was redriven; one partition, so in order."""
    return replace(_spec(settings, REDRIVES, {"retention.ms": "-1"}), partitions=1)


def _spec(settings: Settings, name: str, configs: dict[str, str]) -> TopicSpec:
    return TopicSpec(
        name,
        settings.kafka_partitions,
        settings.kafka_replication_factor,
        {"min.insync.replicas": str(settings.kafka_min_insync_replicas), **configs},
    )
