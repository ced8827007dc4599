"""What publishing answers: the receipt of one event, the results of a batch, what a dry run found."""

from __future__ import annotations

import msgspec

from streams.codecs import HEADER_BYTES, unframe
from streams.domain.envelope import Event
from streams.domain.errors import InvalidEventError, PlatformError
from streams.kafka.sending import OutgoingRecord
from streams.storing import Buried, Stored
from web.errors import problem_of
from web.problems import DeadLetterPlace, FieldProblem, field_problems


class Accepted(msgspec.Struct, gc=False):
    """The answer to a published event: it is on disk. Times are milliseconds since the Unix epoch."""

    event_id: str
    topic: str
    partition: int
    offset: int
    timestamp: int
    """Event time, as in the event."""
    stored_at: int
    """Kafka's timestamp of the record."""
    schema_id: int
    duplicate: bool
    """Whether this is the receipt of an earlier request: the event was stored then, and not again."""


def accepted(topic: str, event: Event, outcome: Stored, record: OutgoingRecord) -> Accepted:
    """The answer to an event that is on disk, written as this record."""
    receipt = outcome.receipt
    schema_id, _ = unframe((record.value or b"")[:HEADER_BYTES])
    return Accepted(
        event.event_id,
        topic,
        receipt.partition,
        receipt.offset,
        event.timestamp,
        receipt.timestamp_ms,
        schema_id,
        outcome.duplicate,
    )


class Result(msgspec.Struct, omit_defaults=True, gc=False):
    """What became of one record of a batch: of one that is stored, its place; of another, why."""

    ok: bool
    event_id: str | None = None
    partition: int | None = None
    offset: int | None = None
    stored_at: int | None = None
    duplicate: bool = False
    status: int | None = None
    """What a request with this record alone would have been answered."""
    code: str | None = None
    detail: str | None = None
    retriable: bool | None = None
    errors: list[FieldProblem] | None = None
    dead_letter: DeadLetterPlace | None = None


class BatchAnswer(msgspec.Struct, gc=False):
    """The results of a batch, one a record, in their order."""

    topic: str
    schema_id: int
    stored: int
    """How many are on disk, those of earlier requests included."""
    failed: int
    results: list[Result]


class Verdict(msgspec.Struct, omit_defaults=True, gc=False):
    """What a dry run says of one record."""

    valid: bool
    event_id: str | None = None
    """Absent where the event came without one: it would be made when it is published."""
    event_type: str | None = None
    timestamp: int | None = None
    key: str | None = None
    """The partition key."""
    partition: int | None = None
    """Absent where the topic does not exist yet."""
    bytes: int | None = None
    """The size of the record's value in Kafka."""
    code: str | None = None
    detail: str | None = None
    errors: list[FieldProblem] | None = None


class ValidationAnswer(msgspec.Struct, omit_defaults=True, gc=False):
    """What publishing would do; nothing was written."""

    topic: str
    exists: bool
    """Whether the topic exists; where it does not, publishing would create it."""
    valid: int
    invalid: int
    results: list[Verdict]
    schema_id: int | None = None
    """What the events would be written with; absent where the topic does not exist yet."""


def stored_result(event_id: str, outcome: Stored) -> Result:
    """The result of a record that is on disk."""
    receipt = outcome.receipt
    return Result(
        ok=True,
        event_id=event_id,
        partition=receipt.partition,
        offset=receipt.offset,
        stored_at=receipt.timestamp_ms,
        duplicate=outcome.duplicate,
    )


def failed_result(outcome: Buried | PlatformError, event_id: str | None = None) -> Result:
    """The result of a record that is not; the id is there where it could be read."""
    error = outcome.error if isinstance(outcome, Buried) else outcome
    kind = problem_of(error)
    return Result(
        ok=False,
        event_id=event_id,
        status=kind.status.value,
        code=error.code,
        detail=kind.detail if kind.detail is not None else str(error),
        retriable=error.retriable,
        errors=field_problems(error),
        dead_letter=dead_letter_place(outcome) if isinstance(outcome, Buried) else None,
    )


def dead_letter_place(outcome: Buried) -> DeadLetterPlace:
    """Where the bytes of a record are kept that Kafka would not take."""
    return DeadLetterPlace(outcome.letter.partition, outcome.letter.offset)


def invalid_verdict(error: InvalidEventError) -> Verdict:
    """What a dry run says of a record that would be refused."""
    return Verdict(valid=False, code=error.code, detail=str(error), errors=field_problems(error))
