"""Hypothesis strategies for events: valid ones, and documents that break known rules."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from streams.domain.envelope import Event
from streams.domain.validation import MIN_TIMESTAMP_MS

NOW_MS = 1_750_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

texts = st.text(st.characters(codec="utf-8"), max_size=40)
keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=256)
event_ids = st.uuids().map(str)
event_types = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,127}", fullmatch=True)
timestamps = st.integers(MIN_TIMESTAMP_MS, NOW_MS)
values = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | values | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
payloads = st.dictionaries(texts, json_values, max_size=4)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """A valid event, as the platform holds it."""
    user_id = draw(st.none() | keys)
    return Event(
        event_id=draw(event_ids),
        event_type=draw(event_types),
        timestamp=draw(timestamps),
        user_id=user_id,
        device_id=draw(keys if user_id is None else st.none() | keys),
        value=draw(st.none() | values),
        source=draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=256)),
        payload=json.dumps(draw(payloads), ensure_ascii=draw(st.booleans())),
    )


def rfc3339(ms: int) -> str:
    """A timestamp as RFC 3339, to the millisecond."""
    return (EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Document:
    """A JSON document as a client might send it, and the JSON Pointers of the rules that it breaks."""

    fields: dict[str, Any]
    broken: frozenset[str]

    @property
    def body(self) -> bytes:
        return json.dumps(self.fields).encode()


_WRONG: dict[str, st.SearchStrategy[Any]] = {
    "event_id": st.sampled_from(["", "no-uuid", 7, True, [], "0" * 36, "00000000-0000-0000-0000-00000000000g", "\n"]),
    "event_type": st.sampled_from(["", " a", "a b", "1a", "a\n", "é", "a" * 129, 7, None, {}]),
    "timestamp": st.sampled_from(
        ["", "yesterday", "2024-01-01", "2024-01-01T00:00:00", "2024-02-30T00:00:00Z", 1.5, True, None, 10**30,
         MIN_TIMESTAMP_MS - 1, NOW_MS + 3_600_001, []]
    ),
    "user_id": st.sampled_from(["", "a" * 257, 7, True, [], {}]),
    "device_id": st.sampled_from(["", "a" * 257, 7.5, False, [], {}]),
    "value": st.sampled_from(["1", "", True, [], {}]),
    "source": st.sampled_from(["a" * 257, 7, True, []]),
    "payload": st.sampled_from([None, "text", 7, True, [], [{}]]),
}  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """A document with any number of broken rules, none included; the paths of those it breaks are known."""
    fields: dict[str, Any] = {
        "event_type": draw(event_types),
        "timestamp": draw(timestamps.flatmap(lambda ms: st.sampled_from([ms, rfc3339(ms)]))),
    }
    optional = {
        "event_id": event_ids | event_ids.map(str.upper) | st.none(),
        "user_id": keys | st.none(),
        "device_id": keys | st.none(),
        "value": values | st.integers(-(2**60), 2**60) | st.none(),
        "source": st.text(string.printable, max_size=256) | st.none(),
        "payload": payloads,
    }
    for name, strategy in optional.items():
        if draw(st.booleans()):
            fields[name] = draw(strategy)
    broken: set[str] = set()
    for name in draw(st.sets(st.sampled_from(sorted(_WRONG)), max_size=3)):
        fields[name] = draw(_WRONG[name])
        broken.add(f"/{name}")
    for name in draw(st.sets(st.sampled_from(["event_type", "timestamp"]), max_size=1)):
        if draw(st.integers(0, 9)) == 0:
            del fields[name]
            broken.add(f"/{name}")
    if draw(st.integers(0, 9)) == 0:
        fields["colour"] = "blue"
        broken.add("/colour")
    if fields.get("user_id") is None and fields.get("device_id") is None:
        broken.add("")
    return Document(fields, frozenset(broken))
