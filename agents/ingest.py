"""`platform.ingress` -> `events.<topic>`, or `platform.dlq` where a record is not valid; each record once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import faust
from faust.types import StreamT

from agents.outcome import BuryingPipeline, dead_letter, may_pass
from streams.domain.duplicates import IdBlock, id_bytes
from streams.domain.errors import DuplicateEventError, UnknownTopicError
from streams.domain.headers import EVENT_ID, EVENT_TOPIC, INGRESS_ORIGIN, header
from streams.domain.naming import INGRESS
from streams.domain.partitioning import partition_for
from streams.faust_app import Platform, app
from streams.intake import event_record
from streams.kafka.batching import Batch, ReceivedRecord, Transaction
from streams.kafka.producer import OutgoingRecord
from streams.publishing import now_ms
from tables.seen import SeenStore, seen


class Ingest(BuryingPipeline):
    """Validates and routes; exactly once, since what it writes is committed with the offset."""

    name = "ingest"

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform)
        self._deduplicate = platform.settings.deduplicate_ingress
        # A part of its table is only kept where it is used.
        self.tables = (seen,) if self._deduplicate else ()

    def takes(self, topic: str) -> bool:
        return topic == INGRESS

    async def handle(self, transaction: Transaction, records: Sequence[ReceivedRecord]) -> None:
        for record in records:
            try:
                out = await self._event(transaction, record)
                if self._deduplicate:
                    self._check_new(transaction, out)
            except Exception as exc:
                if may_pass(exc):
                    raise
                await dead_letter(self._platform, transaction, record, exc)
            else:
                await self._send(transaction, record, out)
        if self._deduplicate and records:
            self._remember(transaction, records[-1].offset)

    async def _event(self, transaction: Transaction, record: ReceivedRecord) -> OutgoingRecord:
        name = header(record.headers, EVENT_TOPIC)
        if name is None:
            raise UnknownTopicError("", f"the record has no header {EVENT_TOPIC}")
        return await event_record(record, await self._topic(transaction, name), self._platform.publisher)

    async def _topic(self, transaction: Transaction, name: str) -> str:
        """The Kafka topic of a name; whether it exists is asked once in a transaction."""
        scratch = transaction.scratch
        known: dict[str, str | None] = scratch.setdefault("topics", {})
        if name not in known:
            # The records were there before: one answer serves for all of their names, or many unknown ones would
            # hold the partition up for a second each.
            since: float = scratch.setdefault("since", time.monotonic())
            try:
                known[name] = await self._platform.catalog.require(name, certain=True, since=since, create=True)
            except UnknownTopicError:
                known[name] = None
        topic = known[name]
        if topic is None:
            raise UnknownTopicError(name)
        return topic

    async def _send(self, transaction: Transaction, record: ReceivedRecord, out: OutgoingRecord) -> None:
        counts: dict[str, int] = transaction.scratch.setdefault("partitions", {})
        partitions = counts.get(out.topic)
        if partitions is None:
            partitions = counts[out.topic] = await transaction.partitions_of(out.topic)
        key = out.key or b""  # a valid event has a key
        origin = (INGRESS_ORIGIN, b"%d@%d" % (record.partition, record.offset))
        transaction.send(out.topic, partition_for(key, partitions), key, out.value, [*out.headers, origin])

    def _check_new(self, transaction: Transaction, out: OutgoingRecord) -> None:
        event_id = header(out.headers, EVENT_ID) or ""
        id_ = id_bytes(event_id)
        coming: dict[bytes, None] = transaction.scratch.setdefault("ids", {})
        store = cast("SeenStore", transaction.store(seen))
        if id_ in coming or id_ in store.ids:
            raise DuplicateEventError(event_id)
        coming[id_] = None

    def _remember(self, transaction: Transaction, offset: int) -> None:
        """All ids of the transaction so far, as one block in place of the block of the call before."""
        coming: dict[bytes, None] = transaction.scratch.get("ids", {})
        if not coming:
            return
        rows = transaction.rows(seen)
        now = now_ms()
        rows.changed.clear()
        store = cast("SeenStore", transaction.store(seen))
        for name in store.ids.overdue(now, len(coming)):
            rows.remove(name)
        rows.put(f"{offset:020d}", IdBlock(offset, now, b"".join(coming)))


ingress = app.topic(INGRESS, key_serializer="raw", value_serializer="raw", acks=False)
app.engine.add(Ingest(app.platform))


@app.agent(ingress, name="agents.ingest")
async def ingest(stream: StreamT[Any]) -> None:
    """Hand over each batch: the engine works on it in transactions, partition by partition."""
    async for batch in cast("faust.Stream[Batch]", stream):
        app.engine.put(batch)
