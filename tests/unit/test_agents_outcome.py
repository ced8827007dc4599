"""How a record ends whose work fails: tried again, or a dead letter in the transaction that moves past it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from agents.outcome import dead_letter, may_pass, place
from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.dead_letters import DeadLetter
from streams.domain.errors import (
    FieldError,
    InvalidEventError,
    KafkaAccessError,
    KafkaUnavailableError,
    RecordRejectedError,
    RegistryAccessError,
    RegistryUnavailableError,
    UnavailableError,
    UnknownSchemaError,
)
from streams.domain.naming import DLQ
from streams.domain.partitioning import partition_for
from streams.faust_app import Platform
from streams.kafka.batching import Source
from tests.batching_kafka import Entry, begun, sent

RECORD = Entry(9, b"key", b"value", (("h", b"1"),), topic="platform.ingress", partition=2)


def platform(schema_id: int | None = 9) -> tuple[Platform, AvroCodec]:
    codec = AvroCodec()
    codec.add_schema(9, schemas.DLQ_MESSAGE)
    return cast("Platform", SimpleNamespace(codec=codec, dead_letter_schema=schema_id)), codec


async def letter_of(error: Exception, record: Entry = RECORD, attempt: int = 1) -> tuple[DeadLetter, int]:
    """The letter, and the partition that it is for."""
    on, codec = platform()
    transaction, outbox = begun(Source(record.topic, record.partition), attempt=attempt)
    await dead_letter(on, transaction, record, error)
    [(topic, partition, key, value, headers)] = sent(outbox)
    letter = codec.decode_dead_letter(value or b"")
    assert (topic, key) == (DLQ, record.key)
    assert headers == dict(letter.kafka_headers())
    return letter, partition


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (KafkaUnavailableError("a"), True),
        (RegistryUnavailableError("a"), True),
        (KafkaConnectionError(), True),
        (KafkaTimeoutError(), True),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        # Refused credentials are no fault of the record.
        (KafkaAccessError("a"), True),
        (RegistryAccessError("a"), True),
        (TopicAuthorizationFailedError(), True),
        (InvalidEventError([]), False),
        (UnknownSchemaError("7"), False),
        (RecordRejectedError("a"), False),
        (MessageSizeTooLargeError(), False),
        (KeyError("a bug of ours"), False),
        (RecursionError(), False),
    ],
)
def test_what_is_away_is_waited_for_and_what_is_at_fault_is_not(error, passes):
    assert may_pass(error) is passes


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidEventError([FieldError("/value", "no")]), "invalid_event"),
        (UnknownSchemaError("7"), "unknown_schema"),
        (MessageSizeTooLargeError(), "record_rejected"),
        (KeyError("a bug of ours"), "internal"),
        (RecursionError(), "internal"),
    ],
)
async def test_a_dead_letter_has_the_records_bytes_and_the_reason(error, reason):
    letter, partition = await letter_of(error, attempt=3)
    assert (letter.reason, letter.attempts) == (reason, 3)
    assert (letter.key, letter.value, letter.headers) == (RECORD.key, RECORD.value, RECORD.headers)
    assert (letter.source_topic, letter.source_partition, letter.source_offset) == ("platform.ingress", 2, 9)
    assert partition == partition_for(b"key", 4)


async def test_a_record_without_key_or_header_values_is_kept_too():
    bare = Entry(9, None, None, (("h", None),), topic="platform.ingress", partition=7)  # type: ignore[arg-type]
    letter, partition = await letter_of(KeyError("x"), bare)
    assert (letter.key, letter.value, letter.headers) == (None, None, (("h", b""),))
    assert partition == 7 % 4


async def test_before_its_schema_is_registered_a_dead_letter_is_waited_for():
    on, _ = platform(None)
    transaction, outbox = begun(Source("platform.ingress", 2))
    with pytest.raises(UnavailableError) as refused:
        await dead_letter(on, transaction, RECORD, KeyError("x"))
    assert may_pass(refused.value)
    assert sent(outbox) == []


def test_a_place_says_topic_partition_and_offset():
    assert place(RECORD) == "platform.ingress[2]@9"
