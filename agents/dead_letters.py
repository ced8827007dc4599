"""`platform.dlq` -> how many dead letters there were, by reason and source topic."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import faust
from faust.types import StreamT

from agents.outcome import may_pass, place
from streams.domain.dead_letters import REASON_HEADER, SOURCE_TOPIC_HEADER
from streams.domain.headers import header
from streams.domain.naming import DLQ
from streams.faust_app import app
from streams.kafka.batching import Batch, Pipeline, ReceivedRecord, Transaction
from streams.kafka.consumer import plain
from tables.dead_letters import LetterTotal, dead_letters, letter_key

log = logging.getLogger(__name__)


class DeadLetters(Pipeline):
    """Counts, by the headers alone: what a letter holds is nobody's to trust."""

    name = "dead-letters"
    tables = (dead_letters,)

    def takes(self, topic: str) -> bool:
        return topic == DLQ

    async def handle(self, transaction: Transaction, records: Sequence[ReceivedRecord]) -> None:
        rows = transaction.rows(dead_letters)
        for record in records:
            headers = plain(record.headers)
            reason, source = header(headers, REASON_HEADER) or "", header(headers, SOURCE_TOPIC_HEADER) or ""
            key = letter_key(reason, source)
            known, at = rows.get(key), record.timestamp
            if known is None:
                rows.put(key, LetterTotal(reason, source, 1, at, at, record.offset))
            elif record.offset > known.offset:
                first, last = min(at, known.first_at), max(at, known.last_at)
                rows.put(key, LetterTotal(reason, source, known.count + 1, first, last, record.offset))

    async def bury(self, transaction: Transaction, record: ReceivedRecord, error: Exception) -> None:
        # Not into platform.dlq again, where it is: that would go round for ever.
        log.error("%s is not counted", place(record), exc_info=error)

    def may_pass(self, error: Exception) -> bool:
        return may_pass(error)


letters = app.topic(DLQ, key_serializer="raw", value_serializer="raw", acks=False)
app.engine.add(DeadLetters())


@app.agent(letters, name="agents.dead_letters")
async def count_letters(stream: StreamT[Any]) -> None:
    """Hand over each batch: the engine works on it in transactions, partition by partition."""
    async for batch in cast("faust.Stream[Batch]", stream):
        app.engine.put(batch)
