"""What is kept of each key of a topic, folded event by event; a replayed event changes nothing."""

from __future__ import annotations

from typing import TypedDict

from streams.domain.envelope import Event


class KeyState(TypedDict):
    """The state of one key, as the table and its changelog hold it. Times are epoch milliseconds."""

    topic: str
    key: str
    count: int
    last_value: float | None
    last_event_time: int
    """The newest event time, not that of the newest arrival."""
    last_event_id: str
    offset: int
    """The last offset that was folded in; a key lives in one partition, so this marks what was applied."""


def state_key(topic: str, key: str) -> str:
    """The key in the table. Topic names have no slash, so no two pairs collide."""
    return f"{topic}/{key}"


def fold(state: KeyState | None, event: Event, topic: str, key: str, offset: int) -> KeyState | None:
    """The state after an event read at this offset, or None where the event was applied before."""
    if state is None:
        return KeyState(
            topic=topic,
            key=key,
            count=1,
            last_value=event.value,
            last_event_time=event.timestamp,
            last_event_id=event.event_id,
            offset=offset,
        )
    if offset <= state["offset"]:
        return None
    newest = event.timestamp >= state["last_event_time"]
    return KeyState(
        topic=topic,
        key=key,
        count=state["count"] + 1,
        last_value=event.value if newest else state["last_value"],
        last_event_time=max(event.timestamp, state["last_event_time"]),
        last_event_id=event.event_id if newest else state["last_event_id"],
        offset=offset,
    )
