"""Burying: a record that cannot be processed is written to `platform.dlq`, and nothing goes on before it is."""

from __future__ import annotations

import logging

from streams.domain.dead_letters import bury
from streams.domain.errors import UnavailableError
from streams.faust_app import Platform
from streams.kafka.consumer import Record
from streams.kafka.producer import OutgoingRecord
from streams.publishing import now_ms
from streams.retrying import retrying
from streams.topics import DLQ

log = logging.getLogger(__name__)


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
        DLQ, record.key, platform.codec.encode_dead_letter(letter, schema_id), letter.kafka_headers()
    )
    await retrying(lambda: platform.producer.deliver(buried), platform.settings.retry_policy())
    log.debug("%s[%d]@%d is dead: %s", record.topic, record.partition, record.offset, letter.reason)
