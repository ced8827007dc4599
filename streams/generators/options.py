"""What a user can ask of the generator, checked once."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from streams.domain.errors import ConfigurationError
from streams.generators.rates import Pattern

KINDS: Final = ("iot", "clickstream", "transactions")
"""The kinds of events; each is also the name of the topic that they go to."""

MAX_HISTORY_EVENTS_S: Final = 360.0
"""The history holds at most this many seconds' worth of events at the rate: a longer one is thinned."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


class Via(StrEnum):
    """The way that events take into the platform."""

    HTTP = "http"
    INGRESS = "ingress"


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorOptions:
    """Options of a run. Raises ConfigurationError, which names the option and what it takes."""

    kinds: tuple[str, ...] = KINDS
    rate: float = 100.0
    """Events a second, of all kinds together, that the live part has in the mean."""
    duration_s: float | None = None
    """How long the live part lasts; None and no `count`: until stopped."""
    count: int | None = None
    """How many events are sent at most, those of the history, invalid and duplicate ones among them."""
    history_s: float = 0.0
    """How far before the start the event time begins; these are sent at once."""
    pattern: Pattern = Pattern.STEADY
    day_s: float = 600.0
    """How many seconds a day of the diurnal pattern takes."""
    seed: int = 1
    start_ms: int | None = None
    """The start, ms since the epoch; None: when the platform is ready."""
    invalid_ratio: float = 0.0
    late_ratio: float = 0.0
    duplicate_ratio: float = 0.0
    late_by_s: float = 600.0
    """How far behind the stream's event time a late event is, at least."""
    late_after_s: float = 5.0
    """No event is late before this second of the live part: the watermark must have got past it first."""
    keys: int = 1_000
    """How many devices there are, and how many users."""
    zipf_exponent: float = 1.1
    via: Via = Via.HTTP
    concurrency: int | None = None
    """How many events are under way at once; None: 64 over HTTP, 256 through ingress."""
    give_up_after_s: float = 60.0
    """How long one event is tried before the run ends with an error."""
    ready_within_s: float = 300.0
    """How long the platform is waited for before the first event, over HTTP."""
    json: bool = False

    def __post_init__(self) -> None:
        _check(bool(self.kinds), "--kind", "one or more kinds", self.kinds)
        for kind in self.kinds:
            _check(kind in KINDS, "--kind", f"one of {', '.join(KINDS)}", kind)
        _check(len(set(self.kinds)) == len(self.kinds), "--kind", "each kind once", ", ".join(self.kinds))
        _check(0.001 <= self.rate <= 1e6, "--rate", "events a second, 0.001 to 1000000", self.rate)
        _check(self.duration_s is None or _positive(self.duration_s), "--duration", "a time above 0", self.duration_s)
        _check(self.count is None or self.count >= 1, "--count", "1 or more", self.count)
        _check(0 <= self.history_s <= 86_400, "--history", "0 to 24h", self.history_s)
        _check(_positive(self.day_s), "--day", "a time above 0", self.day_s)
        shares = {
            "--invalid-ratio": self.invalid_ratio,
            "--late-ratio": self.late_ratio,
            "--duplicate-ratio": self.duplicate_ratio,
        }
        for name, share in shares.items():
            _check(0 <= share <= 1, name, "0 to 1", share)
        _check(sum(shares.values()) <= 1, " + ".join(shares), "at most 1 together", sum(shares.values()))
        _check(60 <= self.late_by_s <= 86_400, "--late-by", "1m to 24h", self.late_by_s)
        _check(self.late_after_s >= 0, "--late-after", "0 s or more", self.late_after_s)
        _check(1 <= self.keys <= 1_000_000, "--keys", "1 to 1000000", self.keys)
        _check(0 <= self.zipf_exponent <= 10, "--zipf-exponent", "0 to 10", self.zipf_exponent)
        _check(self.concurrency is None or self.concurrency >= 1, "--concurrency", "1 or more", self.concurrency)
        _check(self.ready_within_s > 0, "--ready-within", "a time above 0", self.ready_within_s)
        _check(self.give_up_after_s > 0, "--give-up-after", "a time above 0", self.give_up_after_s)

    @property
    def workers(self) -> int:
        """How many events are under way at once."""
        if self.concurrency is not None:
            return self.concurrency
        return 64 if self.via is Via.HTTP else 256

    @property
    def history_rate(self) -> float:
        """Events a second of event time in the history."""
        return self.rate * min(1.0, MAX_HISTORY_EVENTS_S / self.history_s) if self.history_s else self.rate


def parse_options(
    *,
    kinds: Sequence[str] = (),
    duration: str | None = None,
    history: str | None = None,
    pattern: str = Pattern.STEADY,
    via: str = Via.HTTP,
    rate: float = 100.0,
    count: int | None = None,
    seed: int = 1,
    invalid_ratio: float = 0.0,
    late_ratio: float = 0.0,
    duplicate_ratio: float = 0.0,
    keys: int = 1_000,
    zipf_exponent: float = 1.1,
    concurrency: int | None = None,
    give_up_after: str | None = None,
    ready_within: str | None = None,
    day: str | None = None,
    late_by: str | None = None,
    late_after: str | None = None,
    json: bool = False,
) -> GeneratorOptions:
    """The options in the words of the command line: durations as `90`, `90s`, `6m`, `1.5h`; no kind means all.

    What is None keeps its default.
    Raises ConfigurationError, which names the option and what it takes.
    """
    _check(pattern in list(Pattern), "--pattern", f"one of {', '.join(Pattern)}", pattern)
    _check(via in list(Via), "--via", f"one of {', '.join(Via)}", via)
    times = {
        "duration_s": ("--duration", duration),
        "history_s": ("--history", history),
        "give_up_after_s": ("--give-up-after", give_up_after),
        "ready_within_s": ("--ready-within", ready_within),
        "day_s": ("--day", day),
        "late_by_s": ("--late-by", late_by),
        "late_after_s": ("--late-after", late_after),
    }
    given: dict[str, Any] = {
        name: parse_duration(text, option) for name, (option, text) in times.items() if text is not None
    }
    return GeneratorOptions(
        kinds=tuple(kinds) or KINDS,
        rate=rate,
        count=count,
        pattern=Pattern(pattern),
        seed=seed,
        invalid_ratio=invalid_ratio,
        late_ratio=late_ratio,
        duplicate_ratio=duplicate_ratio,
        keys=keys,
        zipf_exponent=zipf_exponent,
        via=Via(via),
        concurrency=concurrency,
        json=json,
        **given,
    )


def parse_duration(text: str, option: str = "duration") -> float:
    """Seconds of a text such as `90`, `250ms`, `30s`, `6m` or `1.5h`. Raises ConfigurationError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(f"{option}: it takes a time such as 90, 30s, 6m or 1.5h, not {text!r}")
    return float(match[1]) * _UNIT_S[match[2]]


def _positive(seconds: float) -> bool:
    return 0 < seconds < math.inf


def _check(ok: bool, option: str, takes: str, got: object) -> None:  # noqa: FBT001
    if not ok:
        raise ConfigurationError(f"{option}: it takes {takes}, not {got}")
