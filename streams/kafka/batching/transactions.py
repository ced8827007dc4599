"""Writing all or nothing: records of many partitions, and the offset that they were made from, in one transaction.

KIP-98: whoever starts a producer with a transactional id fences every earlier one of that id and ends its open
transaction. So one id for each input partition makes a new owner of the partition the only writer for it, whatever
a former owner, frozen or cut off, may still try.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerFenced

from streams.kafka.batching import internals

log = logging.getLogger(__name__)

Headers = Sequence[tuple[str, bytes]]

MAX_BATCH_BYTES: Final = 524_288
"""Half of what a broker takes by default (`message.max.bytes`); a larger record goes as a batch of its own."""

_CLOSE_S: Final = 2.0
_ABANDON_S: Final = 1.0
_ABORT_S: Final = 10.0


class FencedError(Exception):
    """Another producer was started with this transactional id, or the broker has ended the transaction for its age.

    This producer can do nothing any more. Whether the last transaction was committed is told by its offset.
    """


class BrokenError(Exception):
    """The outcome of the transaction is not known, or the producer cannot go on: start a new one, read the offset."""


class AbortedError(Exception):
    """Nothing of the transaction was written; the same may be tried again. The cause says why."""


class Outbox:
    """The records of one transaction, packed for the wire as they come; nothing is sent before the commit."""

    __slots__ = ("_builders", "_full", "_new_builder", "records")

    def __init__(self, new_builder: Callable[[], Any]) -> None:
        self._new_builder = new_builder
        self._builders: dict[tuple[str, int], Any] = {}
        self._full: dict[tuple[str, int], list[Any]] = {}
        self.records = 0

    def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
    ) -> None:
        """Add a record; its timestamp is now where none is given."""
        if type(headers) is not list:
            headers = list(headers)
        where = (topic, partition)
        builder = self._builders.get(where)
        if builder is None:
            builder = self._builders[where] = self._new_builder()
        if builder.append(timestamp=timestamp_ms, key=key, value=value, headers=headers) is None:
            self._full.setdefault(where, []).append(builder)
            builder = self._builders[where] = self._new_builder()
            if builder.append(timestamp=timestamp_ms, key=key, value=value, headers=headers) is None:
                raise ValueError(f"a record of {topic} does not fit into an empty batch")
        self.records += 1

    def batches(self) -> Mapping[tuple[str, int], Sequence[Any]]:
        """The packed batches of each partition, in order."""
        return {where: [*self._full.get(where, ()), builder] for where, builder in self._builders.items()}


class TransactionalProducer:
    """A producer under one transactional id. Not for concurrent use: one transaction at a time.

    `options` are keyword arguments of every aiokafka client: addresses and security.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        transactional_id: str,
        *,
        transaction_timeout_ms: int = 15_000,
        request_timeout_ms: int = 10_000,
        max_batch_bytes: int = MAX_BATCH_BYTES,
    ) -> None:
        self.transactional_id = transactional_id
        self._options = dict(options)
        self._transaction_timeout_ms = transaction_timeout_ms
        self._request_timeout_ms = request_timeout_ms
        self._max_batch_bytes = max_batch_bytes
        self._client: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Connect; fence earlier producers of this id, and wait until their open transaction has ended.

        Raises aiokafka's KafkaError.
        """
        client = AIOKafkaProducer(
            **self._options,
            client_id=self.transactional_id,
            transactional_id=self.transactional_id,
            transaction_timeout_ms=self._transaction_timeout_ms,
            request_timeout_ms=self._request_timeout_ms,
            # So that a topic which was given more partitions is soon written to in all of them.
            metadata_max_age_ms=20_000,
            max_batch_size=self._max_batch_bytes,
            linger_ms=0,
            acks="all",
        )
        try:
            await client.start()
        except BaseException:
            await client.stop()
            raise
        self._client = client

    async def stop(self) -> None:
        """Close the connections; an open transaction is left to the next `start` or its timeout."""
        client, self._client = self._client, None
        if client is not None:
            # A task of its own: cancelled in the middle, aiokafka's stop() would swallow the cancellation.
            stopping = asyncio.get_running_loop().create_task(client.stop())
            stopping.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await asyncio.shield(stopping)
            except Exception as exc:  # noqa: BLE001  # whatever it is, a new producer may be started
                log.warning("the producer %s did not close in order: %r", self.transactional_id, exc)
                stopping.cancel()
                await self._abandon(client)

    async def _abandon(self, client: AIOKafkaProducer) -> None:
        try:
            async with asyncio.timeout(_ABANDON_S):
                await internals.abandon(client)
        except Exception as exc:  # noqa: BLE001  # as above
            log.warning("the connections of %s are left behind: %r", self.transactional_id, exc)

    @property
    def is_started(self) -> bool:
        """Whether `start` has been called, and neither `stop` nor an error since."""
        return self._client is not None

    def outbox(self) -> Outbox:
        """An empty outbox for the next transaction."""
        return Outbox(self._running.create_batch)

    async def partitions_of(self, topic: str) -> int:
        """How many partitions a topic has. Raises aiokafka's KafkaError."""
        return len(await self._running.partitions_for(topic))

    async def commit(
        self, outbox: Outbox, offsets: Mapping[tuple[str, int], int] | None = None, group_id: str | None = None
    ) -> Mapping[tuple[str, int], int]:
        """Write the records and the group's offsets, all or nothing.

        Returns, for each partition written to, the offset after the last record. Raises FencedError, BrokenError or
        AbortedError; only after the last may the producer be used again.
        """
        client = self._running
        try:
            await client.begin_transaction()
            ends = await _send(client, outbox)
            if offsets:
                positions = {TopicPartition(*where): offset for where, offset in offsets.items()}
                await client.send_offsets_to_transaction(positions, group_id)
        except (ProducerFenced, InvalidProducerEpoch) as exc:
            raise FencedError(f"{self.transactional_id} is fenced: {exc!r}") from exc
        except Exception as exc:
            await self._abort(client)
            # A batch that was refused has used up sequence numbers: the broker would take none that follow. So begin
            # a new session, which also ends what the abort may have left.
            await self.stop()
            await self._restart()
            raise AbortedError(str(exc) or type(exc).__name__) from exc
        try:
            await client.commit_transaction()
        except (ProducerFenced, InvalidProducerEpoch) as exc:
            raise FencedError(f"{self.transactional_id} is fenced: {exc!r}") from exc
        except Exception as exc:
            raise BrokenError(f"{self.transactional_id}: the outcome is not known: {exc!r}") from exc
        return ends

    async def _restart(self) -> None:
        try:
            await self.start()
        except KafkaError as exc:
            raise BrokenError(f"{self.transactional_id} cannot start again: {exc!r}") from exc

    async def _abort(self, client: AIOKafkaProducer) -> None:
        try:
            async with asyncio.timeout(_ABORT_S):
                await client.abort_transaction()
        except (ProducerFenced, InvalidProducerEpoch) as exc:
            raise FencedError(f"{self.transactional_id} is fenced: {exc!r}") from exc
        except Exception as exc:
            raise BrokenError(f"{self.transactional_id} cannot abort: {exc!r}") from exc

    @property
    def _running(self) -> AIOKafkaProducer:
        if self._client is None:
            raise BrokenError(f"{self.transactional_id} is not started")
        return self._client


async def _send(client: AIOKafkaProducer, outbox: Outbox) -> dict[tuple[str, int], int]:
    async def send_all(where: tuple[str, int], builders: Sequence[Any]) -> int:
        # One by one: aiokafka's queue of a partition holds one batch, and its waiters overtake each other.
        acknowledged = []
        for builder in builders:
            future = await client.send_batch(builder, where[0], partition=where[1])
            # When one fails, nobody asks for the others: asyncio would log each as forgotten.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            acknowledged.append(future)
        receipts = [await future for future in acknowledged]
        end: int = receipts[-1].offset + builders[-1].record_count()
        return end

    try:
        # A group, so that no send of a failed transaction is left that could slip into the next one.
        async with asyncio.TaskGroup() as group:
            tasks = {
                where: group.create_task(send_all(where, builders)) for where, builders in outbox.batches().items()
            }
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    ends: dict[tuple[str, int], int] = {where: task.result() for where, task in tasks.items()}
    return ends
