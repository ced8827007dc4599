"""How a record ends that is not simply done: tried again, or in `platform.dlq`, in the transaction that moves past it."""

from __future__ import annotations

import logging

from streams.domain.dead_letters import bury
from streams.domain.errors import KafkaAccessError, PlatformError, RegistryAccessError, UnavailableError
from streams.domain.naming import DLQ
from streams.domain.partitioning import partition_for
from streams.faust_app import Platform
from streams.kafka.batching import Pipeline, ReceivedRecord, Transaction
from streams.kafka.consumer import plain
from streams.kafka.errors import platform_error
from streams.publishing import now_ms
from streams.retrying import is_retriable

log = logging.getLogger(__name__)


def may_pass(error: Exception) -> bool:
    """Whether the work of a record that failed so is tried again, for as long as it takes.

    Refused credentials and missing rights are no fault of the record: they are waited out too.
    """
    error = platform_error(error, "write")
    return is_retriable(error) or isinstance(error, KafkaAccessError | RegistryAccessError)


async def dead_letter(platform: Platform, transaction: Transaction, record: ReceivedRecord, error: Exception) -> None:
    """Put the record's dead letter into the transaction.

    Whatever the error is, a bug of ours too: the record is kept, with the reason.
    """
    error = platform_error(error, "write what came of it")
    if not isinstance(error, PlatformError):
        log.error("%s cannot be processed", place(record), exc_info=error)
    schema_id = platform.dead_letter_schema
    if schema_id is None:  # agents start after the platform has registered its schemas
        raise UnavailableError("the schema of dead letters is not registered yet")
    letter = bury(
        error,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=plain(record.headers),
        attempts=transaction.attempt,
        now_ms=now_ms(),
    )
    partitions = await transaction.partitions_of(DLQ)
    transaction.send(
        DLQ,
        record.partition % partitions if record.key is None else partition_for(record.key, partitions),
        record.key,
        platform.codec.encode_dead_letter(letter, schema_id),
        letter.kafka_headers(),
    )


class BuryingPipeline(Pipeline):
    """A pipeline of the platform: what fails for good is buried in `platform.dlq`."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def bury(self, transaction: Transaction, record: ReceivedRecord, error: Exception) -> None:
        await dead_letter(self._platform, transaction, record, error)

    def may_pass(self, error: Exception) -> bool:
        return may_pass(error)


def place(record: ReceivedRecord) -> str:
    """Where a record is, for a log."""
    return f"{record.topic}[{record.partition}]@{record.offset}"
