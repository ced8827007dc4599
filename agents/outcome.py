"""How every record of an agent ends: done, or in `platform.dlq` with the write confirmed. Nothing else.

A Faust agent whose body raises acknowledges the event and forgets it, so no agent's body does.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from streams.domain.dead_letters import bury
from streams.domain.errors import PlatformError, UnavailableError
from streams.domain.naming import DLQ
from streams.faust_app import Platform
from streams.kafka.consumer import Record
from streams.kafka.producer import MAX_DEAD_LETTER_BYTES, OutgoingRecord
from streams.publishing import now_ms
from streams.retrying import retrying

log = logging.getLogger(__name__)


async def see_to(platform: Platform, record: Record, work: Callable[[], Awaitable[object]]) -> None:
    """Do the work of a record; again, for as long as it takes, where its error may pass; bury the record where not.

    Whatever the error is, a bug of ours too: the record is kept, with the reason, and the agent goes on.
    """
    failures = 0

    def count(error: Exception, so_far: int) -> None:
        nonlocal failures
        failures = so_far
        # The first, and then fewer and fewer: Kafka may be away for hours.
        if so_far & (so_far - 1) == 0:
            log.warning("%s, attempt %d: %s", _place(record), so_far, error)

    try:
        await retrying(work, platform.settings.retry_policy(), on_retry=count)
    except Exception as exc:
        if not isinstance(exc, PlatformError):
            log.exception("%s cannot be processed", _place(record))
        await dead_letter(platform, record, exc, attempts=failures + 1)


async def dead_letter(platform: Platform, record: Record, error: Exception, *, attempts: int) -> None:
    """Write the record's dead letter and wait, for as long as it takes, until Kafka has it."""
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
    buried = OutgoingRecord(
        DLQ,
        record.key,
        platform.codec.encode_dead_letter(letter, schema_id),
        letter.kafka_headers(),
        max_bytes=MAX_DEAD_LETTER_BYTES,
    )
    await retrying(lambda: platform.producer.deliver(buried), platform.settings.retry_policy())
    log.debug("%s is dead: %s", _place(record), letter.reason)


def _place(record: Record) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset}"
