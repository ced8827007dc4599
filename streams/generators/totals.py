"""What was sent and what became of it: exact counts, and what each minute of event time must hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from streams.domain.windows import MINUTE_MS
from streams.generators.emission import Emission, Intent
from streams.generators.sink import Outcome, Verdict

FORMAT_VERSION: Final = 1
"""Of `Totals.as_json`; raised when a field changes its meaning or goes away."""

MAX_EXAMPLES: Final = 5
_SCALE: Final = 1_000
_OPEN_MINUTES: Final = 60
"""How long a minute's users are kept one by one, beyond the lateness: an endless run must not fill the memory."""


class ValueTotals:
    """Count, sum, minimum and maximum of values and the distinct users; the sum is exact."""

    __slots__ = ("_max", "_min", "_sealed_users", "_sum", "_users", "_values", "count")

    def __init__(self) -> None:
        self.count = 0
        self._values = 0
        # Thousandths: no kind has more decimals, so that the order of adding does not matter.
        self._sum = 0
        self._min = 0
        self._max = 0
        self._users: set[str] = set()
        self._sealed_users: int | None = None

    def add(self, value: float | None, user_id: str | None) -> None:
        """One more event."""
        self.count += 1
        if user_id is not None:
            self._users.add(user_id)
        if value is None:
            return
        scaled = round(value * _SCALE)
        if self._values == 0:
            self._min = self._max = scaled
        elif scaled < self._min:
            self._min = scaled
        elif scaled > self._max:
            self._max = scaled
        self._values += 1
        self._sum += scaled

    def seal(self) -> None:
        """Forget who the users were, but not how many."""
        self._sealed_users = self.distinct_users
        self._users = set()

    @property
    def distinct_users(self) -> int:
        """How many different user ids there were."""
        return len(self._users) if self._sealed_users is None else self._sealed_users

    def as_json(self) -> dict[str, object]:
        """In the words of `AggregatedEvent`: without a value, sum, min and max are null."""
        some = self._values > 0
        return {
            "count": self.count,
            "sum": self._sum / _SCALE if some else None,
            "min": self._min / _SCALE if some else None,
            "max": self._max / _SCALE if some else None,
            "distinct_users": self.distinct_users,
        }


@dataclass(slots=True)
class MinuteTotals:
    """The accepted events of one topic, type and minute of event time."""

    accepted: ValueTotals = field(default_factory=ValueTotals)
    """All of them, the late and the duplicate ones among them."""
    on_time: ValueTotals = field(default_factory=ValueTotals)
    """The distinct ones that came on time: what a window of that minute must hold."""
    late: int = 0
    duplicates: int = 0
    repeated: int = 0
    """Accepted, and not stored again: the receiver has known them."""


@dataclass(slots=True)
class TopicTotals:
    """The counts of one topic. Those of intents add up to `emitted`, and so do those of verdicts."""

    intents: Counter[Intent] = field(default_factory=Counter)
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    invalid_by_code: Counter[str] = field(default_factory=Counter)
    invalid_by_reason: Counter[str] = field(default_factory=Counter)
    invalid_by_fault: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    retries: int = 0
    uncertain: int = 0
    surprises: int = 0

    @property
    def emitted(self) -> int:
        """How many emissions were tried; a retried one counts once."""
        return self.intents.total()

    def as_json(self) -> dict[str, object]:
        """See `docs/generators.md`."""
        return {
            "emitted": self.emitted,
            "valid": self.intents[Intent.VALID],
            "invalid": self.intents[Intent.INVALID],
            "late": self.intents[Intent.LATE],
            "duplicates": self.intents[Intent.DUPLICATE],
            "accepted": self.verdicts[Verdict.ACCEPTED],
            "repeated": self.repeated,
            "rejected": self.verdicts[Verdict.REJECTED],
            "failed": self.verdicts[Verdict.FAILED],
            "retries": self.retries,
            "uncertain": self.uncertain,
            "surprises": self.surprises,
            "invalid_by_code": dict(sorted(self.invalid_by_code.items())),
            "invalid_by_reason": dict(sorted(self.invalid_by_reason.items())),
            "invalid_by_fault": dict(sorted(self.invalid_by_fault.items())),
        }


class Totals:
    """The totals of a run. `late_by_s` is how far behind a late event may be, at least."""

    def __init__(self, *, late_by_s: float = 600.0) -> None:
        self.topics: dict[str, TopicTotals] = {}
        self.examples: list[str] = []
        self.elapsed_s = 0.0
        self.start_ms = 0
        self.seed = 0
        self.via = ""
        self.stopped_by: str | None = None
        """What ended the run before its time: a signal's name or an error; else None."""
        self._minutes: dict[tuple[str, str, int], MinuteTotals] = {}
        self._open: dict[int, list[MinuteTotals]] = {}
        self._newest = 0
        self._kept_open = (int(late_by_s) // 60 + _OPEN_MINUTES) * MINUTE_MS

    @property
    def emitted(self) -> int:
        """How many emissions were tried, of all topics."""
        return sum(topic.emitted for topic in self.topics.values())

    @property
    def retries(self) -> int:
        """How many attempts followed a first one."""
        return sum(topic.retries for topic in self.topics.values())

    @property
    def surprises(self) -> int:
        """How many answers were not what the event's intent asks for."""
        return sum(topic.surprises for topic in self.topics.values())

    @property
    def failed(self) -> int:
        """How many emissions were given up."""
        return sum(topic.verdicts[Verdict.FAILED] for topic in self.topics.values())

    def minute(self, topic: str, event_type: str, minute_ms: int) -> MinuteTotals | None:
        """The totals of a minute, given its start in ms since the epoch; None where nothing was accepted."""
        return self._minutes.get((topic, event_type, minute_ms))

    def settle(self, emission: Emission, outcome: Outcome) -> None:
        """Count one emission, once its fate is known or given up."""
        topic = self.topics.get(emission.topic)
        if topic is None:
            topic = self.topics[emission.topic] = TopicTotals()
        topic.intents[emission.intent] += 1
        topic.verdicts[outcome.verdict] += 1
        topic.repeated += outcome.repeated
        topic.retries += outcome.retries
        topic.uncertain += outcome.uncertain
        if (error := emission.error) is not None:
            topic.invalid_by_code[error.code] += 1
            topic.invalid_by_reason[error.reason] += 1
            topic.invalid_by_fault[error.fault] += 1
        elif outcome.verdict is Verdict.ACCEPTED:
            self._add_to_minute(emission, repeated=outcome.repeated)
        if outcome.surprise is not None:
            topic.surprises += 1
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.append(outcome.surprise)

    def as_json(self) -> dict[str, object]:
        """A stable form; documented in `docs/generators.md`."""
        return {
            "version": FORMAT_VERSION,
            "seed": self.seed,
            "start_ms": self.start_ms,
            "via": self.via,
            "elapsed_s": round(self.elapsed_s, 3),
            "emitted": self.emitted,
            "stopped_by": self.stopped_by,
            "topics": {name: totals.as_json() for name, totals in sorted(self.topics.items())},
            "minutes": [
                {
                    "topic": topic,
                    "event_type": event_type,
                    "window_start": start_ms,
                    "window_end": start_ms + MINUTE_MS,
                    "accepted": minute.accepted.as_json(),
                    "on_time": minute.on_time.as_json(),
                    "late": minute.late,
                    "duplicates": minute.duplicates,
                    "repeated": minute.repeated,
                }
                for (topic, event_type, start_ms), minute in sorted(self._minutes.items())
            ],
            "surprise_examples": list(self.examples),
        }

    def _add_to_minute(self, emission: Emission, *, repeated: bool) -> None:
        start_ms = emission.event_time_ms // MINUTE_MS * MINUTE_MS
        identity = (emission.topic, emission.event_type, start_ms)
        minute = self._minutes.get(identity)
        if minute is None:
            minute = self._minutes[identity] = MinuteTotals()
            self._open.setdefault(start_ms, []).append(minute)
            if start_ms > self._newest:
                self._newest = start_ms
                self._seal()
        minute.accepted.add(emission.value, emission.user_id)
        minute.repeated += repeated
        if emission.intent is Intent.VALID:
            minute.on_time.add(emission.value, emission.user_id)
        elif emission.intent is Intent.LATE:
            minute.late += 1
        else:
            minute.duplicates += 1

    def _seal(self) -> None:
        for start_ms in [m for m in self._open if m < self._newest - self._kept_open]:
            for minute in self._open.pop(start_ms):
                minute.accepted.seal()
                minute.on_time.seal()
