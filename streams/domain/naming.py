"""The names of topics: what the API calls `iot` is `events.iot` in Kafka; `platform.*` is ours and no client's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from streams.domain.errors import UnknownTopicError

EVENTS_PREFIX: Final = "events."

INGRESS: Final = "platform.ingress"
DLQ: Final = "platform.dlq"
AGGREGATES: Final = "platform.aggregates"
LATE: Final = "platform.late"
INVALID: Final = "platform.invalid"
ALERTS: Final = "platform.alerts"
REDRIVES: Final = "platform.redrives"

TOPIC_PATTERN: Final = r"[a-z][a-z0-9._-]{0,127}"
_TOPIC = re.compile(TOPIC_PATTERN)


def flink_group(app_id: str) -> str:
    """The consumer group under which the Flink job commits how far it has read."""
    return f"{app_id}-flink"


def event_topic(name: str) -> str:
    """The Kafka topic of an API topic name. Raises UnknownTopicError for a name that no topic can have."""
    if _TOPIC.fullmatch(name) is None:
        raise UnknownTopicError(name, f"a topic name matches {TOPIC_PATTERN}")
    return EVENTS_PREFIX + name


def colliding_topic(topic: str, existing: Iterable[str]) -> str | None:
    """The one among existing Kafka topics that differs by `.` and `_` alone; None where there is none.

    Kafka's metrics have one name for both, and brokers refuse the second
    (`org.apache.kafka.common.internals.Topic.hasCollision`).
    """
    same = topic.replace(".", "_")
    return next((other for other in existing if other != topic and other.replace(".", "_") == same), None)


def api_topic(kafka_topic: str) -> str:
    """The API's name of an event topic. Raises ValueError for a topic outside `events.*`."""
    if not kafka_topic.startswith(EVENTS_PREFIX):
        raise ValueError(f"{kafka_topic!r} is not an event topic")
    return kafka_topic[len(EVENTS_PREFIX) :]
