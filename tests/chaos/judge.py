"""Whether every record has come to its one end, and the tables hold what the events say. Pure; knows no product code.

Everything is judged by what is in the topics for a reader of committed records, and by what was sent. The truth of
the tables is folded here, by a few lines of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

MAX_EXAMPLES: Final = 5

Place = tuple[int, int]
"""Partition and offset of a record of `platform.ingress`."""
Part = tuple[str, int]
"""An input partition."""


class Arrived(NamedTuple):
    """A record of `platform.ingress`."""

    partition: int
    offset: int
    sequence: int
    """-1: of an aborted transaction, and so not to be seen."""


class Stored(NamedTuple):
    """A record of `events.*`."""

    topic: str
    """Kafka's name."""
    partition: int
    offset: int
    key: bytes
    origin: Place | None
    event_id: str
    event_type: str
    timestamp: int
    value: float | None


class Letter(NamedTuple):
    """A record of `platform.dlq`."""

    partition: int
    offset: int
    reason: str
    topic: str
    """Where the record was, as the other two."""
    source_partition: int
    source_offset: int
    value: bytes | None
    """The record's value, byte for byte."""


class Expected(NamedTuple):
    """How a record of ingress must end."""

    reason: str | None
    """In `platform.dlq` with this reason; None: as an event."""
    topic: str
    """Kafka's name of the event's topic."""
    key: bytes | None
    event_id: str
    event_type: str
    timestamp: int
    amount: float | None
    value: bytes
    stumbles_state: bool


Rows = dict[tuple[str, int, str], dict[str, Any]]
"""A table's rows by input topic, partition and key."""


@dataclass
class Topics:
    """What a reader of committed records finds. In each list, the records of a partition are in its order."""

    ingress: list[Arrived] = field(default_factory=list)
    events: list[Stored] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    tables: dict[str, Rows] = field(default_factory=dict)
    """By the table's name: the newest row of each key in its changelog."""


@dataclass
class Verdict:
    """What was counted, and what is wrong."""

    records: int = 0
    events: int = 0
    letters: Counter[str] = field(default_factory=Counter)
    """By reason; those of events have `state: ` before it."""
    lost: int = 0
    doubled: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)
    """How often what is wrong."""
    examples: dict[str, list[str]] = field(default_factory=dict)

    def fault(self, what: str, example: object = "") -> None:
        """Note something that is wrong."""
        self.wrong[what] += 1
        known = self.examples.setdefault(what, [])
        if len(known) < MAX_EXAMPLES:
            known.append(str(example))


def judge(expected: Mapping[int, Expected], topics: Topics) -> Verdict:
    """The verdict; `expected` is by sequence number."""
    verdict = Verdict(records=len(topics.ingress), events=len(topics.events))
    origins = _arrived(expected, topics, verdict)
    ends = _events(expected, topics, origins, verdict)
    ends.update(_letters(expected, topics, origins, verdict))
    for place, sequence in origins.items():
        if ends[place] == 0:
            verdict.lost += 1
            verdict.fault("lost: a record of ingress without an end", (place, expected[sequence]))
        elif ends[place] > 1:
            verdict.doubled += 1
            verdict.fault("doubled: a record of ingress with more than one end", (place, ends[place]))
    _order(topics.events, verdict)
    truth = fold(topics)
    for name, rows in truth.items():
        verdict.rows[name] = len(rows)
        compare(verdict, f"changelog of {name}", rows, topics.tables.get(name, {}))
    return verdict


def _arrived(expected: Mapping[int, Expected], topics: Topics, verdict: Verdict) -> dict[Place, int]:
    origins: dict[Place, int] = {}
    for record in topics.ingress:
        if record.sequence not in expected:
            verdict.fault("a record of an aborted transaction is seen in ingress", record)
            continue
        origins[record.partition, record.offset] = record.sequence
    # Not the platform's fault, but then nothing would be proven.
    for sequence, times in Counter(origins.values()).items():
        if times > 1:
            verdict.fault("the feed has written a record twice", sequence)
    if missing := len(expected) - len(set(origins.values())):
        verdict.fault("the feed has not written all records", missing)
    return origins


def _events(
    expected: Mapping[int, Expected], topics: Topics, origins: Mapping[Place, int], verdict: Verdict
) -> Counter[Place]:
    ends: Counter[Place] = Counter()
    for event in topics.events:
        sequence = None if event.origin is None else origins.get(event.origin)
        if event.origin is None or sequence is None:
            verdict.fault("stray: an event of no record of ingress", event)
            continue
        ends[event.origin] += 1
        want = expected[sequence]
        if want.reason is not None:
            verdict.fault("an event that ought to be a dead letter", (event, want.reason))
        same = (want.topic, want.key, want.event_id, want.event_type, want.timestamp, want.amount)
        if same != (event.topic, event.key, event.event_id, event.event_type, event.timestamp, event.value):
            verdict.fault("an event that is not as it was sent", (event, want))
    return ends


def _letters(
    expected: Mapping[int, Expected], topics: Topics, origins: Mapping[Place, int], verdict: Verdict
) -> Counter[Place]:
    ends: Counter[Place] = Counter()
    stored = {(e.topic, e.partition, e.offset): e for e in topics.events}
    buried: Counter[tuple[str, int, int]] = Counter()
    for letter in topics.letters:
        place = letter.source_partition, letter.source_offset
        if letter.topic == "platform.ingress":
            verdict.letters[letter.reason] += 1
            sequence = origins.get(place)
            if sequence is None:
                verdict.fault("stray: a dead letter of no record of ingress", letter)
                continue
            ends[place] += 1
            if (letter.reason, letter.value) != (expected[sequence].reason, expected[sequence].value):
                verdict.fault("a dead letter with a wrong reason or other bytes", (letter, expected[sequence]))
        else:
            verdict.letters[f"state: {letter.reason}"] += 1
            where = (letter.topic, *place)
            buried[where] += 1
            event = stored.get(where)
            if event is None or letter.reason != "internal" or not _stumbles(expected, origins, event):
                verdict.fault("stray: a dead letter of an event that is sound", letter)
    for where, event in stored.items():
        if _stumbles(expected, origins, event) and buried[where] != 1:
            verdict.fault("an event that state cannot take has not one dead letter", (event, buried[where]))
    return ends


def _stumbles(expected: Mapping[int, Expected], origins: Mapping[Place, int], event: Stored) -> bool:
    sequence = None if event.origin is None else origins.get(event.origin)
    return sequence is not None and expected[sequence].stumbles_state


def _order(events: Iterable[Stored], verdict: Verdict) -> None:
    """What has one key comes from one partition of ingress, and goes to one of its topic: in the same order."""
    last: dict[tuple[str, bytes, int], tuple[int, int]] = {}
    for event in events:
        if event.origin is None:
            continue
        partition, offset = event.origin
        line = event.topic, event.key, partition
        before = last.get(line)
        if before is not None and before[1] >= offset:
            verdict.fault("the events of a key are in another order than in ingress", (event, before))
        if before is not None and before[0] != event.partition:
            verdict.fault("the events of a key are in two partitions", (event, before))
        last[line] = event.partition, offset


def fold(topics: Topics) -> dict[str, Rows]:
    """The tables as they must be, from the events and the dead letters."""
    refused = {(letter.topic, letter.source_partition, letter.source_offset) for letter in topics.letters}
    state: Rows = {}
    totals: Rows = {}
    for e in topics.events:
        if (e.topic, e.partition, e.offset) in refused:
            continue
        name, key = e.topic.removeprefix("events."), e.key.decode()
        row = state.setdefault((e.topic, e.partition, f"{name}/{key}"), {"topic": name, "key": key, "count": 0})
        values = [v for v in (row.get("min"), row.get("max"), e.value) if v is not None]
        is_newest = row["count"] == 0 or e.timestamp >= row["last_event_time"]
        row["sum"] = e.value if row.get("sum") is None else row["sum"] + (0.0 if e.value is None else e.value)
        row["min"], row["max"] = min(values, default=None), max(values, default=None)
        row["first_event_time"] = min(row.get("first_event_time", e.timestamp), e.timestamp)
        if is_newest:
            row |= {"last_value": e.value, "last_event_time": e.timestamp, "last_event_id": e.event_id}
        row |= {"count": row["count"] + 1, "offset": e.offset}

        total = totals.setdefault(
            (e.topic, e.partition, f"{name}/{e.event_type}"),
            {"topic": name, "event_type": e.event_type, "count": 0, "last_event_time": e.timestamp},
        )
        newest = max(total["last_event_time"], e.timestamp)
        total |= {"count": total["count"] + 1, "last_event_time": newest, "offset": e.offset}

    letters: Rows = {}
    for letter in topics.letters:
        row = letters.setdefault(
            ("platform.dlq", letter.partition, f"{letter.reason}/{letter.topic}"),
            {"reason": letter.reason, "source_topic": letter.topic, "count": 0},
        )
        row |= {"count": row["count"] + 1, "offset": letter.offset}
    return {"state": state, "totals": totals, "dead-letters": letters}


def compare(verdict: Verdict, what: str, truth: Rows, rows: Rows) -> None:
    """Note each row that is missing, is other than the truth, or is in no truth."""
    for place in truth.keys() - rows.keys():
        verdict.fault(f"{what}: a row is missing", (place, truth[place]))
    for place in rows.keys() - truth.keys():
        verdict.fault(f"{what}: a row that nothing made", (place, rows[place]))
    for place in truth.keys() & rows.keys():
        row = rows[place]
        if any(row.get(name) != value for name, value in truth[place].items()):
            verdict.fault(f"{what}: a row is not the truth", (place, row, truth[place]))


def positions(rows: Rows) -> Mapping[Part, Mapping[str, int]]:
    """Of each part its keys, and the offset of the last record in each row."""
    found: dict[Part, dict[str, int]] = defaultdict(dict)
    for (topic, partition, key), row in rows.items():
        found[topic, partition][key] = row["offset"]
    return found
