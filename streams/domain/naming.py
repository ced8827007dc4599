"""The names of topics: what the API calls `iot` is `events.iot` in Kafka; `platform.*` is ours and no client's."""

from __future__ import annotations

import re
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


def event_topic(name: str) -> str:
    """The Kafka topic of an API topic name. Raises UnknownTopicError for a name that no topic can have."""
    if _TOPIC.fullmatch(name) is None:
        raise UnknownTopicError(name, f"a topic name matches {TOPIC_PATTERN}")
    return EVENTS_PREFIX + name


def api_topic(kafka_topic: str) -> str:
    """The API's name of an event topic. Raises ValueError for a topic outside `events.*`."""
    if not kafka_topic.startswith(EVENTS_PREFIX):
        raise ValueError(f"{kafka_topic!r} is not an event topic")
    return kafka_topic[len(EVENTS_PREFIX) :]
