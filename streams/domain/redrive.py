"""Which dead letters are redriven, which are not and why, and how fast. Pure: clocks belong to the caller."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Self

import msgspec

from streams.domain.dead_letters import REASON_HEADER, REPLAYS_HEADER, SOURCE_TOPIC_HEADER, DeadLetter
from streams.domain.headers import DLQ_ORIGIN, EVENT_TOPIC, Headers, header
from streams.domain.naming import EVENTS_PREFIX, INGRESS

DUPLICATE: Final = "duplicate_event"
"""The reason of letters whose event is stored already: redriven only where the filter names it."""

_PLACE = re.compile(r"([0-9]{1,10})@([0-9]{1,18})", re.ASCII)


class Place(NamedTuple):
    """Where a dead letter is in `platform.dlq`: what it is known by. In JSON it is `[partition, offset]`."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}@{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The place that `partition@offset` names. Raises ValueError."""
        found = _PLACE.fullmatch(text)
        if found is None:
            raise ValueError(f"expected partition@offset, such as 0@17, not {text!r}")
        return cls(int(found[1]), int(found[2]))


class LetterFilter(msgspec.Struct, frozen=True):
    """Which dead letters are meant: those that pass every condition that is set."""

    reasons: frozenset[str] = frozenset()
    """Any of these; none: every reason."""
    source_topic: str | None = None
    """The Kafka topic that the record came from."""
    event_topic: str | None = None
    """The API's name of the topic that the event is for."""
    from_ms: int | None = None
    """from_ms <= failed_at < to_ms, milliseconds since the Unix epoch."""
    to_ms: int | None = None
    letters: frozenset[Place] = frozenset()
    """Any of these places; none: everywhere."""

    def may_match(self, place: Place, headers: Sequence[tuple[str, bytes]]) -> bool:
        """Whether a record of `platform.dlq` may pass, by what can be told without decoding it."""
        if self.letters and place not in self.letters:
            return False
        reason, source = header(headers, REASON_HEADER), header(headers, SOURCE_TOPIC_HEADER)
        if self.reasons and reason is not None and reason not in self.reasons:
            return False
        return self.source_topic is None or source is None or source == self.source_topic

    def matches(self, place: Place, letter: DeadLetter) -> bool:
        """Whether a dead letter passes."""
        return (
            (not self.letters or place in self.letters)
            and (not self.reasons or letter.reason in self.reasons)
            and (self.source_topic is None or letter.source_topic == self.source_topic)
            and (self.event_topic is None or event_topic_of(letter) == self.event_topic)
            and (self.from_ms is None or letter.failed_at >= self.from_ms)
            and (self.to_ms is None or letter.failed_at < self.to_ms)
        )


def event_topic_of(letter: DeadLetter) -> str | None:
    """The API's name of the topic that the letter's event is for; None where the letter does not say."""
    if letter.source_topic.startswith(EVENTS_PREFIX):
        return letter.source_topic[len(EVENTS_PREFIX) :]
    return header(letter.headers, EVENT_TOPIC) if letter.source_topic == INGRESS else None


class Refusal(StrEnum):
    """Why a letter is not redriven, whatever is in it."""

    DUPLICATE = DUPLICATE
    """Its event is stored already, and the filter does not ask for such letters by name."""
    LOOP_GUARD = "loop_guard"
    """It has been redriven as often as may be, and has come back each time."""
    SOURCE = "source"
    """It is no event: it comes neither from ingress nor from an event topic."""


def refusal(letter: DeadLetter, wanted: LetterFilter, max_replays: int) -> Refusal | None:
    """Why a letter that passes the filter is not redriven all the same; None where it may be tried."""
    if letter.reason == DUPLICATE and DUPLICATE not in wanted.reasons:
        return Refusal.DUPLICATE
    if letter.replays >= max_replays:
        return Refusal.LOOP_GUARD
    if letter.source_topic != INGRESS and not letter.source_topic.startswith(EVENTS_PREFIX):
        return Refusal.SOURCE
    return None


def redriven_headers(headers: Sequence[tuple[str, bytes]], place: Place, letter: DeadLetter) -> Headers:
    """The headers of a redriven event: where it comes from, and how often it has come this way."""
    return (
        *headers,
        (DLQ_ORIGIN, str(place).encode()),
        (REPLAYS_HEADER, str(letter.replays + 1).encode()),
    )


class Tally(msgspec.Struct):
    """What became of the letters that passed the filter."""

    redriven: int = 0
    already_redriven: int = 0
    """By an earlier run."""
    invalid: dict[str, int] = {}
    """Still not valid, by the code of their error today: they stay where they are."""
    refused: dict[str, int] = {}
    """By `Refusal`."""

    @property
    def letters(self) -> int:
        """All of them."""
        return self.redriven + self.already_redriven + sum(self.invalid.values()) + sum(self.refused.values())

    def add_invalid(self, code: str) -> None:
        """One more that is not valid."""
        self.invalid[code] = self.invalid.get(code, 0) + 1

    def add_refused(self, why: str) -> None:
        """One more that is refused."""
        self.refused[why] = self.refused.get(why, 0) + 1


class Pace:
    """So many a second: in any interval at most rate x interval, and the one lot that it begins with.

    Time that was lost is not made up for: what follows a pause is no faster than what went before it.
    """

    def __init__(self, per_second: float) -> None:
        if per_second <= 0:
            raise ValueError(f"the rate must be above 0, not {per_second}")
        self._per_second = per_second
        self._free_at = float("-inf")

    def delay_s(self, count: int, now_s: float) -> float:
        """How long to wait before the next lot, of so many, may go; it is taken to go then."""
        at = max(now_s, self._free_at)
        self._free_at = at + count / self._per_second
        return at - now_s
