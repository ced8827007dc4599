"""The one producer of a worker: idempotent, acks=all, partitioned by key as every Kafka client does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata

from streams.domain.errors import KafkaUnavailableError, OverloadedError, PlatformError, RecordRejectedError
from streams.domain.partitioning import partition_for
from streams.kafka.errors import translate, translated
from streams.kafka.security import aiokafka_options
from streams.settings import Settings

log = logging.getLogger(__name__)

MAX_RECORD_BYTES: Final = 1_048_576
"""The broker's default `message.max.bytes`; a larger record is refused before it is queued."""

MAX_DEAD_LETTER_BYTES: Final = 2 * MAX_RECORD_BYTES
"""A dead letter holds a whole record, and why: its topic takes twice as much."""

_MAX_BATCH_BYTES: Final = 131_072

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class OutgoingRecord:
    """A record to be written."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = field(default_factory=tuple)
    max_bytes: int = MAX_RECORD_BYTES
    """What its topic takes."""

    @property
    def bytes(self) -> int:
        """Its size, without the few bytes that the record format adds."""
        named = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + named


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where an acknowledged record is: on disk by all in-sync replicas."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class EventProducer:
    """Writes records and answers for each: a receipt, or an error of `streams.domain.errors`.

    aiokafka's idempotent producer retries without end, so a record whose caller gave up may still be
    written; it counts as in flight until its fate is known, which bounds memory while Kafka is away.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: AIOKafkaProducer | None = None
        self._replacing: asyncio.Task[None] | None = None
        self.in_flight = 0
        self.bytes_in_flight = 0

    async def start(self) -> None:
        """Connect. Raises KafkaUnavailableError or KafkaAccessError."""
        self._client = await self._connect()

    async def stop(self) -> None:
        """Send what is queued, for as long as a request may take, then close."""
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait({self._replacing})
        client, self._client = self._client, None
        if client is not None:
            await self._close(client)

    async def send(self, record: OutgoingRecord, deadline_s: float) -> Receipt:
        """Write one record and wait for its acknowledgement, at most so many seconds.

        Raises OverloadedError (nothing was done), KafkaUnavailableError (the record may or may not be
        written), RecordRejectedError, KafkaAccessError or UnknownTopicError.
        """
        try:
            async with asyncio.timeout(deadline_s):
                acknowledged = await self._enqueue(record)
                # Shielded: the record stays queued when the caller gives up, and must stay counted.
                return await asyncio.shield(acknowledged)
        except TimeoutError as exc:
            raise KafkaUnavailableError(f"no acknowledgement from {record.topic} within {deadline_s:g} s") from exc

    async def deliver(self, record: OutgoingRecord) -> Receipt:
        """Write one record and wait, without a deadline, until it is acknowledged or has failed. Raises as `send`."""
        return await (await self._enqueue(record))

    async def _enqueue(self, record: OutgoingRecord) -> asyncio.Future[Receipt]:
        client = self._client
        if client is None:
            raise KafkaUnavailableError("the producer is not connected yet")
        size = record.bytes
        if size > record.max_bytes:
            raise RecordRejectedError(f"{record.topic} takes records of up to {record.max_bytes} bytes, not {size}")
        if self.in_flight >= self._settings.max_in_flight_events:
            raise OverloadedError(f"{self.in_flight} events are waiting for Kafka")
        if self.bytes_in_flight + size > self._settings.max_in_flight_bytes:
            raise OverloadedError(f"{self.bytes_in_flight} bytes are waiting for Kafka")
        # Ours, and in the receipt too: aiokafka's receipts bear the time of the first record of their batch.
        timestamp_ms = time.time_ns() // 1_000_000
        # Counted from here on: aiokafka lets callers wait in send() while its batches are full.
        self.in_flight += 1
        self.bytes_in_flight += size
        try:
            with translated(f"write to {record.topic}"):
                sent = await client.send(
                    record.topic, record.value, key=record.key, headers=list(record.headers), timestamp_ms=timestamp_ms
                )
        except BaseException:
            self.in_flight -= 1
            self.bytes_in_flight -= size
            raise
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

        def settle(done: asyncio.Future[RecordMetadata]) -> None:
            self.in_flight -= 1
            self.bytes_in_flight -= size
            if done.cancelled():
                receipt.cancel()
            elif (error := done.exception()) is not None:
                self._failed(client, record.topic, error, receipt)
            elif not receipt.done():
                where = done.result()
                receipt.set_result(Receipt(where.topic, where.partition, where.offset, timestamp_ms))

        sent.add_done_callback(settle)
        return receipt

    def _failed(
        self, client: AIOKafkaProducer, topic: str, error: BaseException, receipt: asyncio.Future[Receipt]
    ) -> None:
        # The failed batch used up sequence numbers: the broker would refuse all that follow on its partition.
        self._replace(client)
        if not receipt.done():
            known = isinstance(error, KafkaError | TimeoutError | OSError)
            receipt.set_exception(translate(error, f"write to {topic}") if known else error)
            receipt.exception()  # the caller may be gone: then nobody else retrieves it

    def _replace(self, broken: AIOKafkaProducer) -> None:
        if self._client is broken:
            self._client = None
            self._replacing = asyncio.get_running_loop().create_task(self._reconnect(broken))

    async def _reconnect(self, broken: AIOKafkaProducer) -> None:
        log.warning("a batch failed for good: the producer starts a new session")
        await self._close(broken)
        policy = self._settings.retry_policy()
        failures = 0
        while self._client is None:
            try:
                self._client = await self._connect()
            except PlatformError as exc:  # refused credentials too: they may be rotated under a running worker
                failures += 1
                log.warning("the producer cannot connect, trying again: %s", exc)
                await asyncio.sleep(policy.ceiling_s(failures))

    async def _connect(self) -> AIOKafkaProducer:
        client = AIOKafkaProducer(
            **aiokafka_options(self._settings),
            client_id=self._settings.app_id,
            acks="all",
            enable_idempotence=True,
            linger_ms=self._settings.kafka_linger_ms,
            max_batch_size=_MAX_BATCH_BYTES,
            max_request_size=MAX_DEAD_LETTER_BYTES,
            request_timeout_ms=10_000,
            partitioner=_partition,
        )
        with translated(f"connect to Kafka at {self._settings.kafka_bootstrap_servers}"):
            try:
                await client.start()
            except BaseException:
                await client.stop()
                raise
        return client

    async def _close(self, client: AIOKafkaProducer) -> None:
        try:
            async with asyncio.timeout(10):
                await client.stop()
        except (KafkaError, TimeoutError) as exc:
            log.warning("the producer did not close in order: %r", exc)


def _partition(key: bytes | None, all_partitions: list[int], available: list[int]) -> int:
    if key is None:
        return (available or all_partitions)[0]
    return all_partitions[partition_for(key, len(all_partitions))]
