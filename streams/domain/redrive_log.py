"""The records of `platform.redrives`: who redrove which dead letters, when and by what filter; and what they add up to.

Each is a JSON document, whose `record` says which of the three it is. The letters of a `redriven` record were written
to their event topics in the same transaction as the record: the log and the events never disagree.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from streams.domain.errors import RedriveLogError
from streams.domain.redrive import LetterFilter, Place, Tally


class _Entry(msgspec.Struct, frozen=True, tag_field="record", kw_only=True):
    run_id: str
    who: str
    started_at: int
    """When the run was asked for: milliseconds since the Unix epoch, as all times here."""
    filter: LetterFilter


class RunStarted(_Entry, frozen=True, tag="started", kw_only=True):
    """A run has begun: whatever ran before it cannot write any more. Twice where the run had to start over."""

    rate: float
    """Records a second."""
    limit: int | None
    """How many letters it redrives at most."""
    max_replays: int


class LettersRedriven(_Entry, frozen=True, tag="redriven", kw_only=True):
    """The letters whose events were written in this record's transaction."""

    at: int
    letters: tuple[Place, ...]


class Ending(StrEnum):
    """How a run ended."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    """On request: Ctrl-C, or the worker stopped."""
    FAILED = "failed"


class RunFinished(_Entry, frozen=True, tag="finished", kw_only=True):
    """The last record of a run that could still write one: its totals."""

    at: int
    ending: Ending
    totals: Tally
    error: str | None = None
    """The code of the error that ended it."""


LogEntry = RunStarted | LettersRedriven | RunFinished

_decoder: Final[msgspec.json.Decoder[LogEntry]] = msgspec.json.Decoder(LogEntry)
_encoder: Final = msgspec.json.Encoder(order="deterministic")


def encode_entry(entry: LogEntry) -> bytes:
    """The record's value."""
    return _encoder.encode(entry)


def decode_entry(value: bytes | None) -> LogEntry:
    """The record in these bytes. Raises RedriveLogError."""
    try:
        return _decoder.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RedriveLogError(f"a record of the log of redrives cannot be read: {exc}") from exc


class RunState(StrEnum):
    """How a run is, as far as the log tells."""

    COMPLETED = Ending.COMPLETED.value
    STOPPED = Ending.STOPPED.value
    FAILED = Ending.FAILED.value
    SUPERSEDED = "superseded"
    """Another run was started before this one had ended."""
    OPEN = "open"
    """It runs, or its process has died."""


class Run(msgspec.Struct):
    """A run, as the log has it."""

    id: str
    who: str
    started_at: int
    filter: LetterFilter
    rate: float
    limit: int | None
    max_replays: int
    state: RunState = RunState.OPEN
    redriven: int = 0
    """How many letters, by the records of its transactions; the totals of its end say the same."""
    transactions: int = 0
    finished_at: int | None = None
    totals: Tally | None = None
    error: str | None = None


class RedriveLog:
    """What the records say, read from the first on in order."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        """By id, in the order in which they began."""
        self.redriven: dict[Place, str] = {}
        """The letters that were redriven, and the id of the run that did it."""
        self._newest: str | None = None

    def add(self, value: bytes | None) -> None:
        """The next record. Raises RedriveLogError."""
        match decode_entry(value):
            case RunStarted() as entry:
                self._begin(entry)
            case LettersRedriven() as entry:
                run = self._run(entry)
                run.redriven += len(entry.letters)
                run.transactions += 1
                self.redriven.update(dict.fromkeys(entry.letters, entry.run_id))
            case RunFinished() as entry:
                run = self._run(entry)
                run.state, run.finished_at = RunState(entry.ending), entry.at
                # A run that failed may not know whether its last transaction was committed: the log does.
                run.totals = msgspec.structs.replace(entry.totals, redriven=run.redriven)
                run.error = entry.error

    def was_superseded(self, run_id: str) -> bool:
        """Whether another run has begun since this one last did."""
        return run_id in self.runs and self._newest != run_id

    def letters_of(self, run_id: str) -> list[Place]:
        """The letters that a run redrove, in order."""
        return sorted(place for place, by in self.redriven.items() if by == run_id)

    def newest_first(self) -> list[Run]:
        """Every run."""
        return list(reversed(self.runs.values()))

    def _begin(self, entry: RunStarted) -> None:
        before = self.runs.get(self._newest) if self._newest is not None else None
        if before is not None and before.id != entry.run_id and before.state is RunState.OPEN:
            before.state = RunState.SUPERSEDED
        self._newest = entry.run_id
        run = self.runs.get(entry.run_id)
        if run is None:
            self.runs[entry.run_id] = Run(
                entry.run_id,
                entry.who,
                entry.started_at,
                entry.filter,
                entry.rate,
                entry.limit,
                entry.max_replays,
            )
        elif run.state is RunState.SUPERSEDED:
            run.state = RunState.OPEN

    def _run(self, entry: LettersRedriven | RunFinished) -> Run:
        try:
            return self.runs[entry.run_id]
        except KeyError:
            raise RedriveLogError(f"the log of redrives has no beginning of the run {entry.run_id}") from None
