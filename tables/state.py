"""State of every event topic: one row for each topic and key, and one for each topic and event type."""

from __future__ import annotations

from typing import Final

from streams.domain.state import KeyState, TypeTotal
from streams.kafka.batching import Table

state: Final = Table("state", KeyState, help="count, sum, min, max, last value and times of each key of each topic")
totals: Final = Table("totals", TypeTotal, help="events of each type, by topic and partition")


def total_key(topic: str, event_type: str) -> str:
    """The key of a total. Neither topics nor event types have a slash."""
    return f"{topic}/{event_type}"


def totals_of(topic: str) -> dict[str, int]:
    """Events of each type of a topic, in the partitions that this worker has."""
    counts: dict[str, int] = {}
    for _, _, row in totals.items():
        if row.topic == topic:
            counts[row.event_type] = counts.get(row.event_type, 0) + row.count
    return counts
