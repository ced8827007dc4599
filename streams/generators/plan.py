"""Everything that a run sends, in order: a pure function of the options and the start time."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from itertools import chain, islice
from typing import Final

import msgspec

from streams.generators.draws import Draws
from streams.generators.emission import Draft, Emission, ExpectedError, Intent
from streams.generators.faults import FAULTS, Fault
from streams.generators.kinds import Kind, kind_of
from streams.generators.options import GeneratorOptions
from streams.generators.rates import RateProfile, Steady, shape_of
from streams.generators.zipf import ZipfSampler

JITTER_MS: Final = 3_000
"""An event on time is up to this much older than the moment it is due."""
LATE_SPREAD_MS: Final = 30_000
"""A late event is up to this much later still than `late_by_s`."""
DUPLICATE_WITHIN_S: Final = 2.0
"""A duplicate follows its original within this time, so it is on time too: with the jitter, 5 s behind at most."""

_REMEMBERED: Final = 64
_NAMESPACE: Final = uuid.UUID("7f0d2c52-1f0a-5b8e-9a3e-2d9f6f0b7c41").bytes
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def emissions(options: GeneratorOptions, start_ms: int) -> Iterator[Emission]:
    """The emissions of a run that starts at `start_ms` (ms since the epoch), byte for byte the same each time.

    They come in the order in which they are due; the history first. Event ids differ between starts, so that
    two runs of one seed are not each other's duplicates. Endless where neither duration nor count is given.
    """
    plan = _Plan(options, start_ms)
    slots = chain(_history(options), _live(options))
    return (plan.emission(due_s) for due_s in islice(slots, options.count))


def _history(options: GeneratorOptions) -> Iterator[float]:
    if not options.history_s:
        return
    profile = RateProfile(Steady(), options.history_rate, options.history_s)
    for due_s in profile.arrivals(Draws(options.seed, "history")):
        yield due_s - options.history_s


def _live(options: GeneratorOptions) -> Iterator[float]:
    profile = RateProfile(shape_of(options.pattern, options.day_s), options.rate, options.duration_s)
    return profile.arrivals(Draws(options.seed, "arrivals"))


class _Plan:
    """What is remembered from one emission to the next."""

    def __init__(self, options: GeneratorOptions, start_ms: int) -> None:
        keys = ZipfSampler(options.keys, options.zipf_exponent)
        self._options = options
        self._start_ms = start_ms
        self._draws = Draws(options.seed, "plan")
        self._kinds = tuple((n, kind_of(n, Draws(options.seed, n), keys)) for n in options.kinds)
        self._late_from = 1.0 - options.late_ratio
        self._duplicate_from = self._late_from - options.duplicate_ratio
        self._late_by_ms = round(options.late_by_s * 1000)
        self._ids = sha1(_NAMESPACE + f"{options.seed}/{start_ms}/".encode(), usedforsecurity=False)
        self._drafted = 0
        self._recent: deque[Emission] = deque(maxlen=_REMEMBERED)

    def emission(self, due_s: float) -> Emission:
        """The next one, due at a time."""
        draws = self._draws
        due_ms = self._start_ms + int(due_s * 1000 // 1)
        dice = draws.uniform()
        if dice < self._options.invalid_ratio:
            return self._drafted_event(due_s, due_ms, Intent.INVALID)
        if dice >= self._late_from and due_s >= self._options.late_after_s:
            behind_ms = JITTER_MS + self._late_by_ms + draws.below(LATE_SPREAD_MS)
            return self._drafted_event(due_s, due_ms - behind_ms, Intent.LATE)
        if self._duplicate_from <= dice < self._late_from and (original := self._original(due_s)) is not None:
            return msgspec.structs.replace(original, send_at_s=due_s, intent=Intent.DUPLICATE)
        # Squared: most are nearly on time, few are much behind.
        jitter = draws.uniform()
        emission = self._drafted_event(due_s, due_ms - int(jitter * jitter * JITTER_MS), Intent.VALID)
        self._recent.append(emission)
        return emission

    def _original(self, due_s: float) -> Emission | None:
        """An event on time that was due moments ago, if there is one."""
        recent = self._recent
        while recent and recent[0].send_at_s < due_s - DUPLICATE_WITHIN_S:
            recent.popleft()
        return self._draws.pick(recent) if recent else None

    def _drafted_event(self, due_s: float, event_time_ms: int, intent: Intent) -> Emission:
        draws = self._draws
        topic, kind = self._kinds[draws.below(len(self._kinds))] if len(self._kinds) > 1 else self._kinds[0]
        draft = kind.draft(event_time_ms)
        event_id = self._event_id()
        document = _document(event_id, draft, kind, event_time_ms)
        fault: Fault | None = None
        error: ExpectedError | None = None
        if intent is Intent.INVALID:
            fault = draws.pick(FAULTS)
            body, error = fault.spoil(document), fault.expected
        else:
            body = msgspec.json.encode(document)
        key = draft.user_id or draft.device_id
        return Emission(
            topic,
            body,
            None if key is None or (fault is not None and fault.keyless) else key.encode(),
            due_s,
            event_id,
            draft.event_type,
            event_time_ms,
            draft.user_id,
            draft.value,
            intent,
            error,
        )

    def _event_id(self) -> str:
        """A name-based UUID (RFC 9562, version 5) of the seed, the start and the place in the run."""
        self._drafted += 1
        digest = self._ids.copy()
        digest.update(b"%d" % self._drafted)
        h = digest.hexdigest()
        variant = "89ab"[int(h[16], 16) & 3]
        return f"{h[:8]}-{h[8:12]}-5{h[13:16]}-{variant}{h[17:20]}-{h[20:32]}"


def _document(event_id: str, draft: Draft, kind: Kind, event_time_ms: int) -> dict[str, object]:
    document: dict[str, object] = {
        "event_id": event_id,
        "event_type": draft.event_type,
        "timestamp": _rfc3339(event_time_ms) if kind.text_timestamps else event_time_ms,
    }
    # An absent field and a null one mean the same; most clients leave it out.
    if draft.user_id is not None:
        document["user_id"] = draft.user_id
    if draft.device_id is not None:
        document["device_id"] = draft.device_id
    if draft.value is not None:
        document["value"] = draft.value
    document["source"] = draft.source
    document["payload"] = draft.payload
    return document


def _rfc3339(time_ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds")
