"""Faust's Kafka transport, which delivers chosen topics in whole batches and leaves all others as they are.

A Faust agent costs 140 to 210 µs of CPU a message, nearly all of it for bringing one message from the fetch to the
agent's body. Here a whole fetch of a partition travels as one message, so that this cost is shared by its records.

For batched topics Faust's own offsets are switched off (`acks=False` on the agent's topic): who works on the batches
commits, in a transaction or by `BatchConsumer.commit`, and seeks back by `BatchConsumer.rollback`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Final, Protocol, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from streams.kafka.batching import collector, internals
from streams.kafka.batching.batch import Batch, Source
from streams.kafka.batching.gates import Gates

T = TypeVar("T")

_HELD_BACK_S: Final = 0.02
"""How long a fetch may wait while a partition is held back: its gate may open any moment."""
_FETCH_MAX_WAIT_MS: Final = 250
_RECORD_BYTES: Final = 512
"""Of a record's objects alone."""


def _size(records: Sequence[Any]) -> int:
    """Bytes that records take in memory, roughly: keys, values, headers, and the objects that hold them."""
    size = _RECORD_BYTES * len(records)
    for record in records:
        size += record.serialized_key_size + record.serialized_value_size
        for name, value in record.headers:
            size += len(name) + len(value or b"")
    return size


class RebalanceListener(Protocol):
    """Told, in the worker's event loop, how the assignment of batched partitions changes. Kafka waits meanwhile."""

    async def on_revoked(self, sources: set[Source]) -> None:
        """These are no longer ours, or soon will be again: end what is begun, begin nothing."""
        ...

    async def on_assigned(self, sources: set[Source]) -> None:
        """These, and no others, are ours now."""
        ...


class _Fetched:
    """A fetch of one partition, as it leaves the consumer's thread."""

    __slots__ = ("end", "epoch", "records", "start")

    def __init__(self, records: Sequence[Any], start: int, end: int, epoch: int) -> None:
        self.records = records
        self.start = start
        self.end = end
        self.epoch = epoch


class _Thread(driver.AIOKafkaConsumerThread):
    """The thread of the aiokafka consumer: it alone seeks and fetches, so here epochs are told apart."""

    consumer: BatchConsumer

    def __post_init__(self) -> None:
        super().__post_init__()
        self._epochs: dict[Source, int] = {}
        self._ends: dict[Source, int] = {}
        self._numbers = count(1)

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        internals.read_committed(consumer)
        internals.wait_at_most(consumer, _FETCH_MAX_WAIT_MS)
        collector.spare_records()
        return consumer

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109  # Faust's signature
        max_records: int | None = None,
    ) -> Mapping[TP, Any]:
        fetched = await super()._fetch_records(consumer, active_partitions, timeout=timeout, max_records=max_records)
        # Nothing is awaited between the drain and here, so the positions are those behind these very records.
        is_batched = self.consumer.is_batched
        found: dict[TP, Any] = {tp: records for tp, records in fetched.items() if not is_batched(tp.topic)}
        for tp in active_partitions:
            if not is_batched(tp.topic):
                continue
            source = Source(*tp)
            end = internals.position(consumer, tp)
            records = fetched.get(tp, ())
            # The position moves without records, too: over markers and what was aborted.
            start = self._ends.get(source)
            # Before our first seek there is no epoch, and nothing to deliver.
            if end is not None and start is not None and (records or end > start):
                found[tp] = _Fetched(records, start, end, self._epochs[source])
                self._ends[source] = end
        return found

    async def seek_to_committed(self) -> Mapping[TP, int]:
        # Faust seeks all of its partitions after each rebalance; batched ones are sought by who works on them.
        consumer = self._ensure_consumer()
        plain = [tp for tp in consumer.assignment() if not self.consumer.is_batched(tp.topic)]
        return await self.call_thread(consumer.seek_to_committed, *plain) if plain else {}

    async def seek_batched(self, source: Source, offset: int) -> int:
        """Seek, and begin a new epoch, in one step. Raises aiokafka's IllegalStateError for one not assigned."""
        self._ensure_consumer().seek(TopicPartition(*source), offset)
        self._ends[source] = offset
        epoch = self._epochs[source] = next(self._numbers)
        return epoch

    async def committed_offset(self, source: Source) -> int | None:
        """The group's committed offset of a partition."""
        offset = await self._ensure_consumer().committed(TopicPartition(*source))
        return None if offset is None or offset < 0 else int(offset)

    async def beginning_offset(self, source: Source) -> int:
        """The first offset that the partition still has."""
        tp = TopicPartition(*source)
        return int((await self._ensure_consumer().beginning_offsets([tp]))[tp])

    def end_of(self, source: Source) -> int | None:
        """The high watermark as of the last fetch, None where it is not known. From any thread."""
        return None if self._consumer is None else internals.highwater(self._consumer, source)

    def readable_end_of(self, source: Source) -> int | None:
        """The last stable offset as of the last fetch, None where it is not known. From any thread."""
        return None if self._consumer is None else internals.last_stable_offset(self._consumer, source)

    async def ending_offset(self, source: Source) -> int:
        """The last stable offset of the partition now."""
        tp = TopicPartition(*source)
        return int((await self._ensure_consumer().end_offsets([tp]))[tp])

    async def commit_offsets(self, offsets: Mapping[Source, int]) -> None:
        """Commit for the group."""
        await self._ensure_consumer().commit({TopicPartition(*source): offset for source, offset in offsets.items()})


class BatchConsumer(driver.Consumer):
    """Faust's consumer, and the wrapper through which batched partitions are committed and rolled back.

    All methods belong to the worker's event loop; those that ask Kafka raise aiokafka's KafkaError.
    """

    _thread: _Thread
    transport: BatchTransport

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._sequence = count(1)
        super().__init__(*args, **kwargs)

    def is_batched(self, topic: str) -> bool:
        """Whether a topic is delivered in batches."""
        return self.transport.is_batched(topic)

    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, Any]:  # noqa: ASYNC109
        gates = self.transport.gates
        active = active_partitions or set()
        batched = {tp for tp in active if self.is_batched(tp.topic)}
        open_gates = gates.fetchable(Source(*tp) for tp in batched)
        wanted = (active - batched) | {TP(*source) for source in open_gates}
        if not wanted:
            # An empty set would mean every partition to aiokafka.
            await asyncio.sleep(_HELD_BACK_S)
            return {}
        if len(open_gates) < len(batched):
            timeout = min(timeout, _HELD_BACK_S)
        found: dict[TP, Any] = {}
        fetches: Mapping[TP, Any] = await super()._getmany(wanted, timeout)
        for tp, fetched in fetches.items():
            if type(fetched) is not _Fetched:
                found[tp] = fetched
                continue
            size = _size(fetched.records)
            batch = Batch(
                Source(*tp),
                fetched.records,
                start=fetched.start,
                end=fetched.end,
                epoch=fetched.epoch,
                size=size,
            )
            if gates.admits(batch):
                found[tp] = [batch]
        return found

    def _to_message(self, tp: TP, record: Any) -> Any:
        if type(record) is not Batch:
            return super()._to_message(tp, record)
        newest = record.records[-1].timestamp / 1000 if record.records else 0.0
        message: Any = ConsumerMessage(
            tp.topic,
            tp.partition,
            # Not a Kafka offset: Faust drops what is not beyond the last one, as all is after a rollback.
            next(self._sequence),
            newest,
            0,
            None,
            None,
            None,
            None,
            0,
            record.bytes,
            tp,
            generation_id=self.app.consumer_generation_id,
        )
        message.value = record  # which Faust's types think are bytes
        return message

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Called by Faust in its event loop when a rebalance begins."""
        await super().on_partitions_revoked(revoked)
        await self.transport.listener.on_revoked(self._batched(revoked))

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Called by Faust in its event loop when a rebalance ends."""
        await super().on_partitions_assigned(assigned, generation_id)
        try:
            await self.transport.listener.on_assigned(self._batched(assigned))
        except Exception as exc:  # aiokafka would log it, and the worker would idle
            await self.app.crash(exc)
            raise

    def _batched(self, tps: Iterable[TP]) -> set[Source]:
        return {Source(*tp) for tp in tps if self.is_batched(tp.topic)}

    async def committed(self, source: Source) -> int | None:
        """The group's committed offset of an assigned partition, None where there is none."""
        return await self._in_thread(self._thread.committed_offset(source))

    async def beginning(self, source: Source) -> int:
        """The first offset that a partition still has."""
        return await self._in_thread(self._thread.beginning_offset(source))

    async def ending(self, source: Source) -> int:
        """The end of what can be read of a partition now."""
        return await self._in_thread(self._thread.ending_offset(source))

    async def rollback(self, source: Source, offset: int) -> int:
        """Seek an assigned partition, back or forth. Returns the epoch whose batches come from there, without a gap.

        Raises aiokafka's IllegalStateError where the partition is not ours.
        """
        return await self._in_thread(self._thread.seek_batched(source, offset))

    async def commit_positions(self, offsets: Mapping[Source, int]) -> None:
        """Commit for the group, at once. Raises aiokafka's CommitFailedError where a rebalance was faster."""
        await self._in_thread(self._thread.commit_offsets(offsets))

    def end_of(self, source: Source) -> int | None:
        """The high watermark as of the last fetch; None before the first one, and for what is not ours."""
        return self._thread.end_of(source)

    def readable_end_of(self, source: Source) -> int | None:
        """The last stable offset as of the last fetch; None before the first one, and for what is not ours."""
        return self._thread.readable_end_of(source)

    def highwater(self, tp: TP) -> int:
        """The same for Faust, which asks in the middle of delivering; 0 where it is not known."""
        return self._thread.end_of(Source(*tp)) or 0

    async def _in_thread(self, work: Coroutine[Any, Any, T]) -> T:
        # Not by Faust's method queue: it has two workers, and one of them may wait in a fetch.
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._thread.thread_loop))


class BatchTransport(driver.Transport):
    """Faust's transport; agents see committed records only (Faust's own reads what was aborted, too)."""

    Consumer = BatchConsumer

    def __init__(
        self,
        *args: Any,
        is_batched: Callable[[str], bool],
        gates: Gates,
        listener: RebalanceListener,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.is_batched = is_batched
        self.gates = gates
        self.listener = listener
