"""How every record of an agent ends: done, or in `platform.dlq` with the write confirmed. Nothing else.

A Faust agent whose body raises acknowledges the event and forgets it, so no agent's body does.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from streams.domain.dead_letters import bury
from streams.domain.errors import KafkaAccessError, PlatformError, RegistryAccessError, UnavailableError
from streams.domain.naming import DLQ
from streams.faust_app import Platform
from streams.kafka.consumer import Record
from streams.kafka.producer import MAX_DEAD_LETTER_BYTES, OutgoingRecord
from streams.publishing import now_ms
from streams.retrying import is_retriable, retrying

log = logging.getLogger(__name__)


async def see_to(platform: Platform, record: Record, work: Callable[[], Awaitable[object]]) -> None:
    """Do the work of a record; again, for as long as it takes, where its error may pass; bury the record where not.

    Whatever the error is, a bug of ours too: the record is kept, with the reason, and the agent goes on.
    """
    failures = 0

    def told(error: Exception, so_far: int) -> None:
        nonlocal failures
        failures = so_far
        _say(_place(record), error, so_far)

    try:
        await retrying(work, platform.settings.retry_policy(), may_pass=may_pass, on_retry=told)
    except Exception as exc:
        if not isinstance(exc, PlatformError):
            log.exception("%s cannot be processed", _place(record))
        await dead_letter(platform, record, exc, attempts=failures + 1)


def may_pass(error: Exception) -> bool:
    """Whether a record whose work failed so is kept in hand and tried again.

    Refused credentials and missing rights are no fault of the record: they are waited out too.
    """
    return is_retriable(error) or isinstance(error, KafkaAccessError | RegistryAccessError)


async def dead_letter(platform: Platform, record: Record, error: Exception, *, attempts: int) -> None:
    """Write the record's dead letter and wait, for as long as it takes, until Kafka has it. Never raises."""

    async def write() -> None:
        await platform.producer.deliver(_buried(platform, record, error, attempts))

    await retrying(
        write,
        platform.settings.retry_policy(),
        # Whatever it is, going on would lose the record: hold the partition, and say so.
        may_pass=lambda _: True,
        on_retry=lambda refusal, so_far: _say(f"the dead letter of {_place(record)}", refusal, so_far),
    )
    log.debug("%s is dead: %s", _place(record), error)


def _say(what: str, error: Exception, failures: int) -> None:
    # The first, and then fewer and fewer: Kafka may be away for hours.
    if failures & (failures - 1) == 0:
        log.warning("%s, attempt %d failed: %s", what, failures, error)


def _buried(platform: Platform, record: Record, error: Exception, attempts: int) -> OutgoingRecord:
    letter = bury(
        error,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=record.headers,
        attempts=attempts,
        now_ms=now_ms(),
    )
    schema_id = platform.dead_letter_schema
    if schema_id is None:  # agents start after the platform has registered its schemas
        raise UnavailableError("the schema of dead letters is not registered yet")
    return OutgoingRecord(
        DLQ,
        record.key,
        platform.codec.encode_dead_letter(letter, schema_id),
        letter.kafka_headers(),
        max_bytes=MAX_DEAD_LETTER_BYTES,
    )


def _place(record: Record) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset}"
