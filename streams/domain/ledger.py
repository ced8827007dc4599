"""The ledger: what has become of every event, by topic and minute, and whether it all adds up.

Pure: whoever reads the topics tells it of each record and asks for the verdict in the end.

Rule 1, ingress. Every committed record of `platform.ingress` has one end: one event with it as its origin, or one
dead letter with it as its source. None is `lost`, unless the group has not come to it yet (`pending`) or its end may
have been deleted by age (`expired`); more than one is `twice`; an end of a record that is not there is `stray`.

Rule 2, windows. For every topic and minute of event time whose window is closed for good:
events = aggregated + late + invalid. See `Ledger.watermark` for what closed means, and `Minute.missing_at_most` for
events that Flink has not confirmed yet.

Rule 3, duplicates. Events of one topic with one event id; all but the first are duplicates. They are a difference
where the rules say so.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from struct import Struct
from typing import Final

from streams.domain.naming import INGRESS
from streams.domain.windows import MINUTE_MS, TUMBLING_1M, Window

MAX_SAMPLES: Final = 5
"""How many places a difference names."""
UNKNOWN: Final = "-"
"""The topic of what names none that exists."""

_ORIGIN = re.compile(rb"(\d{1,10})@(\d{1,18})")

_ABSENT, _WITHOUT_END, _WITH_ONE_END, _WITH_MORE = range(4)
_STATES_OF: Final = tuple(tuple(byte >> shift & 3 for shift in (0, 2, 4, 6)) for byte in range(256))


def minute_of(timestamp_ms: int) -> int:
    """The start of the minute that holds the time."""
    return timestamp_ms // MINUTE_MS * MINUTE_MS


def parse_origin(text: bytes) -> tuple[int, int] | None:
    """The partition and offset that `partition@offset` names; None where it names none."""
    match = _ORIGIN.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2]))


def event_id_bytes(event_id: bytes) -> bytes:
    """The 16 bytes of a UUID in text; what is none, as no event id should be, is hashed to as many."""
    try:
        found = unhexlify(event_id.replace(b"-", b""))
    except ValueError:
        found = b""
    return found if len(found) == 16 else blake2b(event_id, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Whole minutes, start <= t < end; None where there is no bound."""

    start_ms: int | None = None
    end_ms: int | None = None

    @classmethod
    def around(cls, start_ms: int | None, end_ms: int | None) -> TimeRange:
        """The minutes that the range touches: windows can only be compared as a whole."""
        return cls(None if start_ms is None else minute_of(start_ms), None if end_ms is None else -minute_of(-end_ms))

    def __contains__(self, timestamp_ms: int) -> bool:
        return (self.start_ms is None or timestamp_ms >= self.start_ms) and (
            self.end_ms is None or timestamp_ms < self.end_ms
        )


class Ends:
    """How many ends each record of one partition of `platform.ingress` has: two bits an offset."""

    def __init__(self, first: int, end: int) -> None:
        self.first = first
        self._length = end - first
        self._states = bytearray((self._length + 3) // 4)
        self._expired_before = 0
        self.stray = 0
        self.stray_samples: list[int] = []

    def accept(self, offset: int, *, may_be_expired: bool = False) -> None:
        """Note a committed record; its end may have been deleted by age."""
        at = offset - self.first
        self._states[at >> 2] |= _WITHOUT_END << ((at & 3) << 1)
        if may_be_expired:
            self._expired_before = at + 1

    def end(self, offset: int) -> None:
        """Note an end of the record at an offset. Call it when all records are known."""
        at = offset - self.first
        if not 0 <= at < self._length:
            return  # out of the range that is looked at
        shift = (at & 3) << 1
        state = self._states[at >> 2] >> shift & 3
        if state == _ABSENT:
            self.stray += 1
            if len(self.stray_samples) < MAX_SAMPLES:
                self.stray_samples.append(offset)
        elif state != _WITH_MORE:
            self._states[at >> 2] += 1 << shift

    def judge(self, committed: int | None) -> Ended:
        """What has become of the records, given the group's committed offset; None where it has none."""
        reached = min(max((self.first if committed is None else committed) - self.first, 0), self._length)
        expired_before = min(self._expired_before, reached)
        expired = self._count(0, expired_before)
        judged = self._count(expired_before, reached)
        ahead = self._count(reached, self._length)
        twice = sum(counts[_WITH_MORE] for counts in (expired, judged, ahead))
        return Ended(
            records=sum(counts[state] for counts in (expired, judged, ahead) for state in range(1, 4)),
            ended=sum(counts[_WITH_ONE_END] for counts in (expired, judged, ahead)),
            lost=judged[_WITHOUT_END],
            lost_samples=tuple(self._find(_WITHOUT_END, expired_before, reached)) if judged[_WITHOUT_END] else (),
            twice=twice,
            twice_samples=tuple(self._find(_WITH_MORE, 0, self._length)) if twice else (),
            stray=self.stray,
            stray_samples=tuple(self.stray_samples),
            pending=ahead[_WITHOUT_END],
            expired=expired[_WITHOUT_END],
        )

    def _count(self, first: int, end: int) -> Counter[int]:
        """How many offsets from `first` on and before `end` are in each state."""
        aligned, aligned_end = min(-(-first // 4) * 4, end), end // 4 * 4
        if aligned >= aligned_end:
            return Counter(map(self._state, range(first, end)))
        counts = Counter(map(self._state, (*range(first, aligned), *range(aligned_end, end))))
        for byte, times in Counter(memoryview(self._states)[aligned // 4 : aligned_end // 4]).items():
            for state in _STATES_OF[byte]:
                counts[state] += times
        return counts

    def _find(self, state: int, first: int, end: int) -> Iterator[int]:
        """The first few offsets in this state."""
        has = self._states.translate(bytes(state in states for states in _STATES_OF))
        found, byte = 0, has.find(1, first // 4)
        while byte >= 0 and found < MAX_SAMPLES:
            for at in range(max(byte * 4, first), min(byte * 4 + 4, end)):
                if self._state(at) == state and found < MAX_SAMPLES:
                    found += 1
                    yield at + self.first
            byte = has.find(1, byte + 1)

    def _state(self, at: int) -> int:
        return self._states[at >> 2] >> ((at & 3) << 1) & 3


@dataclass(frozen=True, slots=True)
class Ended:
    """What has become of the records of one partition of `platform.ingress`."""

    records: int
    ended: int
    """With just one end."""
    lost: int
    lost_samples: tuple[int, ...]
    twice: int
    twice_samples: tuple[int, ...]
    stray: int
    stray_samples: tuple[int, ...]
    pending: int
    expired: int


@dataclass(slots=True)
class Minute:
    """One row: a topic and a minute. Accepted and dead by the time in Kafka, all else by event time."""

    accepted_http: int = 0
    """Events written straight to their topic."""
    accepted_ingress: int = 0
    """Records of `platform.ingress` that name the topic."""
    dead: Counter[str] = field(default_factory=Counter)
    """Dead letters by reason."""
    events: int = 0
    redriven: int = 0
    """Of the events, those that were dead letters."""
    duplicates: int = 0
    aggregated: int = 0
    late: int = 0
    invalid: int = 0
    unconfirmed_events: int = 0
    """Of the events, those at or behind the position that Flink has committed."""
    unconfirmed_duplicates: int = 0
    unconfirmed_late: int = 0
    """Of the late ones, those at or behind that position."""

    @property
    def accepted(self) -> int:
        """What the platform has taken in, over HTTP and from Kafka clients."""
        return self.accepted_http + self.accepted_ingress

    def missing(self, rules: Rules) -> int:
        """How many events are in no window and neither late nor invalid; below 0: how many are there too often."""
        duplicates = self.duplicates if rules.distinct else 0
        return self.events - duplicates - self.aggregated - self.late - self.invalid

    def missing_at_most(self, rules: Rules) -> int:
        """How many may be missing: Flink has taken in what it has confirmed, and perhaps some of what is behind.

        Of the events behind its committed position, those that are among the late ones have arrived.
        """
        duplicates = self.unconfirmed_duplicates if rules.distinct else 0
        return max(self.unconfirmed_events - duplicates - self.unconfirmed_late, 0)


class State(StrEnum):
    """What can be said of the windows of a topic's minute."""

    BALANCED = "balanced"
    OPEN = "open"
    """Its window has not closed for good."""
    PENDING = "pending"
    """Closed, and Flink has not confirmed as many of its events as are missing."""
    EXPIRED = "expired"
    """Some of its events may have been deleted by age."""
    DIFFERS = "differs"


class Kind(StrEnum):
    """Kinds of differences."""

    LOST = "lost"
    TWICE = "twice"
    STRAY = "stray"
    MISSING = "missing"
    SURPLUS = "surplus"
    DUPLICATES = "duplicates"
    UNREADABLE = "unreadable"
    HELD_BACK = "held_back"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that does not add up."""

    kind: Kind
    topic: str
    """The API's name of an event topic, or the Kafka name of one of the platform's."""
    count: int
    message: str
    minute: int | None = None
    partition: int | None = None
    samples: tuple[str, ...] = ()
    """A few of the places, as topic[partition]@offset."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What must be equal."""

    distinct: bool = False
    """Windows hold each event id once; otherwise, every event."""
    no_duplicates: bool = False
    """A duplicate is a difference."""
    allowed_lateness_ms: int = 0
    """How long after its end a window still takes events; the job's windows take none."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far the platform had come when the reading began."""

    committed: Mapping[int, int] = field(default_factory=dict)
    """The offset that the worker's group has committed in each partition of `platform.ingress`."""
    expired_until: Mapping[str, int] = field(default_factory=dict)
    """By API topic: events of minutes that begin before this time may have been deleted by age."""
    held_back: tuple[str, ...] = ()
    """Partitions in which a transaction stayed open, so that what is behind it could not be read."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the ledger balances."""

    ingress: Mapping[int, Ended]
    states: Mapping[tuple[str, int], State]
    differences: tuple[Difference, ...]

    @property
    def balanced(self) -> bool:
        """Whether everything adds up."""
        return not self.differences


class Ledger:
    """What was counted. Topics are the API's names; memory grows with topics, types and minutes, not with events."""

    def __init__(self) -> None:
        self.minutes: dict[tuple[str, int], Minute] = {}
        self.ends: dict[int, Ends] = {}
        self.watermark: int | None = None
        """The event time that Flink had certainly reached: every 1-minute window that ends at or before it is closed.

        Proven by a result that is there, of any topic and kind of window (a window's result is written once the
        watermark has reached its last millisecond), and by a late event, which carries the watermark at which it came.
        One task of the job reads all topics, so there is one watermark. Only records that were committed when the
        reading began may prove it: Flink commits the results of a checkpoint one partition after the other.
        """
        self.unreadable: Counter[str] = Counter()
        self.unreadable_samples: dict[str, list[str]] = {}
        self.invalid: Counter[str] = Counter()
        """Records of `platform.invalid` without a minute, by topic; UNKNOWN where they name none."""
        self._windows: dict[tuple[str, str, int], tuple[int, int, int]] = {}

    def at(self, topic: str, minute: int) -> Minute:
        """The row of a topic and minute."""
        row = self.minutes.get((topic, minute))
        if row is None:
            row = self.minutes[topic, minute] = Minute()
        return row

    def ended(self, partition: int, offset: int) -> None:
        """Note an end of a record of `platform.ingress`."""
        ends = self.ends.get(partition)
        if ends is not None:
            ends.end(offset)

    def cannot_read(self, topic: str, place: str) -> None:
        """Note a record that is not what its topic holds. `topic`: as in `Difference`."""
        self.unreadable[topic] += 1
        samples = self.unreadable_samples.setdefault(topic, [])
        if len(samples) < MAX_SAMPLES:
            samples.append(place)

    def reached(self, watermark_ms: int) -> None:
        """Note a proof of how far event time had come in Flink."""
        if self.watermark is None or watermark_ms > self.watermark:
            self.watermark = watermark_ms

    def window(self, topic: str, event_type: str, start: int, count: int, *, revision: int, emitted_at: int) -> None:
        """Note a result of a 1-minute window: of each window the highest revision counts, of equal ones the newest."""
        identity = (topic, event_type, start)
        new, known = (revision, emitted_at, count), self._windows.get(identity)
        if known is not None:
            if new[:2] < known[:2]:
                return
            self.at(topic, start).aggregated -= known[2]
        self._windows[identity] = new
        self.at(topic, start).aggregated += count

    def is_closed(self, minute: int, rules: Rules) -> bool:
        """Whether the 1-minute window that starts here is closed for good."""
        window = Window(minute, minute + TUMBLING_1M.size_ms)
        return self.watermark is not None and window.is_closed(self.watermark, rules.allowed_lateness_ms)

    def state(self, topic: str, minute: int, rules: Rules, limits: Limits) -> State:
        """What can be said of a row."""
        row = self.minutes[topic, minute]
        if not self.is_closed(minute, rules):
            return State.OPEN
        expired_until = limits.expired_until.get(topic)
        if expired_until is not None and minute < expired_until:
            return State.EXPIRED
        missing = row.missing(rules)
        if missing == 0:
            return State.BALANCED
        return State.PENDING if 0 < missing <= row.missing_at_most(rules) else State.DIFFERS

    def judge(self, rules: Rules, limits: Limits) -> Verdict:
        """The verdict, by the rules of this module."""
        ingress = {
            partition: ends.judge(limits.committed.get(partition)) for partition, ends in sorted(self.ends.items())
        }
        states = {
            (topic, minute): self.state(topic, minute, rules, limits)
            for topic, minute in sorted(self.minutes)
            if has_event_time(self.minutes[topic, minute])
        }
        found = [
            Difference(Kind.HELD_BACK, place.partition("[")[0], 1, f"an open transaction holds back {place}")
            for place in limits.held_back
        ]
        found += [difference for partition, ended in ingress.items() for difference in _of_ingress(partition, ended)]
        found += self._of_windows(states, rules)
        found += self._of_duplicates(rules)
        found += self._of_unreadable()
        return Verdict(ingress, states, tuple(found))

    def _of_windows(self, states: Mapping[tuple[str, int], State], rules: Rules) -> Iterator[Difference]:
        for (topic, minute), state in states.items():
            if state is State.DIFFERS:
                row = self.minutes[topic, minute]
                missing = row.missing(rules)
                held = row.events - (row.duplicates if rules.distinct else 0)
                sums = f"{held} events, but {row.aggregated} aggregated + {row.late} late + {row.invalid} invalid"
                yield Difference(Kind.MISSING if missing > 0 else Kind.SURPLUS, topic, abs(missing), sums, minute)

    def _of_duplicates(self, rules: Rules) -> Iterator[Difference]:
        if rules.no_duplicates:
            for (topic, minute), row in sorted(self.minutes.items(), key=lambda item: item[0]):
                if row.duplicates:
                    message = f"of {row.events} events, with the event id of another one: {row.duplicates}"
                    yield Difference(Kind.DUPLICATES, topic, row.duplicates, message, minute)

    def _of_unreadable(self) -> Iterator[Difference]:
        """What could not be read is accounted for where it is in `platform.invalid`, by topic or at least by number."""
        unnamed = self.invalid[UNKNOWN]
        for topic, count in sorted(self.unreadable.items()):
            excess = max(count - self.invalid[topic], 0)
            taken = min(excess, unnamed)
            unnamed -= taken
            if excess > taken:
                samples = tuple(self.unreadable_samples[topic])
                message = f"records that cannot be read and are not in platform.invalid: {excess - taken}"
                yield Difference(Kind.UNREADABLE, topic, excess - taken, message, samples=samples)


def has_event_time(row: Minute) -> bool:
    """Whether a row has anything that is counted by event time."""
    return bool(row.events or row.aggregated or row.late or row.invalid)


def _of_ingress(partition: int, ended: Ended) -> Iterator[Difference]:
    topic = INGRESS
    found = (
        (Kind.LOST, ended.lost, ended.lost_samples, "records without an event or a dead letter"),
        (Kind.TWICE, ended.twice, ended.twice_samples, "records with more than one event or dead letter"),
        (Kind.STRAY, ended.stray, ended.stray_samples, "events and dead letters of records that are not there"),
    )
    for kind, count, offsets, what in found:
        if count:
            samples = tuple(f"{topic}[{partition}]@{offset}" for offset in offsets)
            yield Difference(kind, topic, count, f"{what}: {count}", partition=partition, samples=samples)


class Identified:
    """One occurrence of an event id, as bytes: what is kept of an event until duplicates are counted."""

    layout: Final = Struct(">16sHBqq")
    size: Final = layout.size
    key_size: Final = 18
    """An occurrence begins with what two of the same event have in common: its id and topic."""
    pack: Final = layout.pack
    """Event id, number of the topic, 1 where Flink has not confirmed it, time in Kafka, minute."""


Duplicates = Counter[tuple[int, int, bool]]
"""How many duplicates there are, by number of the topic, minute, and whether Flink has not confirmed them."""


def count_duplicates(occurrences: Iterable[bytes], most: int) -> Duplicates | None:
    """All occurrences of each event but the first; None where there are more than so many different events.

    The first is one that Flink has confirmed, if there is one, then the oldest in Kafka, then the one that came first.
    """
    first: dict[bytes, bytes] = {}
    found: Duplicates = Counter()
    order = slice(Identified.key_size, Identified.key_size + 9)
    for occurrence in occurrences:
        key = occurrence[: Identified.key_size]
        known = first.get(key)
        if known is None:
            if len(first) == most:
                return None
            first[key] = occurrence
            continue
        again = occurrence
        # Big endian, so bytes compare as the numbers do; times in Kafka are never below 0.
        if occurrence[order] < known[order]:
            first[key], again = occurrence, known
        _, topic, unconfirmed, _, minute = Identified.layout.unpack(again)
        found[topic, minute, bool(unconfirmed)] += 1
    return found
