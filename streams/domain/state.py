"""What is kept of each key of a topic, folded event by event; a replayed event changes nothing."""

from __future__ import annotations

from math import copysign, isfinite
from sys import float_info

import msgspec

from streams.domain.envelope import Event


class KeyState(msgspec.Struct, frozen=True, gc=False):
    """The state of one key of one topic. Times are milliseconds since the Unix epoch."""

    topic: str
    """The API's topic name, without `events.`."""
    key: str
    count: int
    sum: float | None
    """Of the values; None, as `min` and `max`, where no event had one. It stays within a float: JSON has no infinity."""
    min: float | None
    max: float | None
    last_value: float | None
    """The value of the newest event by event time, not of the newest arrival."""
    first_event_time: int
    last_event_time: int
    last_event_id: str
    offset: int
    """The last offset that was folded in; a key lives in one partition, so this marks what was applied."""


def state_key(topic: str, key: str) -> str:
    """The key in the table. Topic names have no slash, so no two pairs collide."""
    return f"{topic}/{key}"


def fold(state: KeyState | None, event: Event, topic: str, key: str, offset: int) -> KeyState | None:
    """The state after an event read at this offset, or None where the event was applied before."""
    value, time = event.value, event.timestamp
    if state is None:
        return KeyState(topic, key, 1, value, value, value, value, time, time, event.event_id, offset)
    if offset <= state.offset:
        return None
    total, least, most = state.sum, state.min, state.max
    if value is not None:
        total = value if total is None else total + value
        if not isfinite(total):
            total = copysign(float_info.max, total)
        least = value if least is None or value < least else least
        most = value if most is None or value > most else most
    newest = time >= state.last_event_time
    return KeyState(
        topic,
        key,
        state.count + 1,
        total,
        least,
        most,
        value if newest else state.last_value,
        min(time, state.first_event_time),
        time if newest else state.last_event_time,
        event.event_id if newest else state.last_event_id,
        offset,
    )


class TypeTotal(msgspec.Struct, frozen=True, gc=False):
    """How many events of a type came by one partition of a topic; a topic's total is the sum over its partitions."""

    topic: str
    event_type: str
    count: int
    last_event_time: int
    """The newest event time, milliseconds since the Unix epoch."""
    offset: int
    """The last offset that was counted."""


def count_event(total: TypeTotal | None, event: Event, topic: str, offset: int) -> TypeTotal | None:
    """The total after an event read at this offset, or None where the event was counted before."""
    if total is None:
        return TypeTotal(topic, event.event_type, 1, event.timestamp, offset)
    if offset <= total.offset:
        return None
    return TypeTotal(topic, event.event_type, total.count + 1, max(total.last_event_time, event.timestamp), offset)
