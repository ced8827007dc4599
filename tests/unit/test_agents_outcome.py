"""How a record ends, whatever its work does: done, or a confirmed dead letter. Never lost by an error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from agents.outcome import see_to
from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.dead_letters import DeadLetter
from streams.domain.errors import (
    FieldError,
    InvalidEventError,
    KafkaAccessError,
    KafkaUnavailableError,
    PlatformError,
    RecordRejectedError,
    RegistryAccessError,
    RegistryUnavailableError,
    UnknownSchemaError,
)
from streams.domain.naming import DLQ
from streams.faust_app import Platform
from streams.kafka.consumer import Record
from streams.kafka.producer import OutgoingRecord
from streams.settings import Settings

RECORD = Record("platform.ingress", 2, 9, 0, b"key", b"value", (("h", b"1"),))


class Letters:
    """A producer of memory that fails as often as it is told."""

    def __init__(self, failures: list[Exception]) -> None:
        self.failures = failures
        self.sent: list[OutgoingRecord] = []

    async def deliver(self, record: OutgoingRecord) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append(record)


def platform(*failures: Exception) -> tuple[Platform, Letters, AvroCodec]:
    codec = AvroCodec()
    codec.add_schema(9, schemas.DLQ_MESSAGE)
    letters = Letters(list(failures))
    settings = Settings(retry_base_s=0.001, retry_cap_s=0.002)
    made = SimpleNamespace(settings=settings, codec=codec, producer=letters, dead_letter_schema=9)
    return cast("Platform", made), letters, codec


class Work:
    """Fails with each of these errors in turn, then is done."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.attempts = 0

    async def __call__(self) -> None:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)


def only_letter(letters: Letters, codec: AvroCodec) -> DeadLetter:
    [record] = letters.sent
    assert (record.topic, record.key) == (DLQ, b"key")
    return codec.decode_dead_letter(record.value or b"")


async def test_what_is_done_is_done_once():
    on, letters, _ = platform()
    work = Work()
    await see_to(on, RECORD, work)
    assert (work.attempts, letters.sent) == (1, [])


@pytest.mark.parametrize(
    "error",
    [KafkaUnavailableError("a"), RegistryUnavailableError("a"), KafkaAccessError("a"), RegistryAccessError("a")],
)
async def test_what_may_pass_and_what_is_no_fault_of_the_record_is_waited_out(error):
    on, letters, _ = platform()
    work = Work(error, error, error)
    await see_to(on, RECORD, work)
    assert (work.attempts, letters.sent) == (4, [])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidEventError([FieldError("/value", "no")]), "invalid_event"),
        (UnknownSchemaError("7"), "unknown_schema"),
        (RecordRejectedError("too large"), "record_rejected"),
        (KeyError("a bug of ours"), "internal"),
        (RecursionError(), "internal"),
    ],
)
async def test_what_will_not_pass_is_buried_with_its_bytes_and_the_reason(error, reason):
    on, letters, codec = platform()
    await see_to(on, RECORD, Work(KafkaUnavailableError("away"), error))
    letter = only_letter(letters, codec)
    assert (letter.reason, letter.attempts) == (reason, 2)
    assert (letter.key, letter.value, letter.headers) == (RECORD.key, RECORD.value, RECORD.headers)
    assert (letter.source_topic, letter.source_partition, letter.source_offset) == ("platform.ingress", 2, 9)


@pytest.mark.parametrize(
    "refusal", [KafkaAccessError("no right"), RecordRejectedError("too large"), PlatformError("?"), ValueError("a bug")]
)
async def test_a_dead_letter_that_is_refused_is_tried_until_it_is_taken(refusal):
    on, letters, codec = platform(refusal, refusal, refusal)
    await see_to(on, RECORD, Work(InvalidEventError([])))
    assert only_letter(letters, codec).reason == "invalid_event"
    assert letters.failures == []
