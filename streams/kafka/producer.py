"""The one producer of a worker: idempotent, acks=all, partitioned by key as every Kafka client does.

Records are packed into batches of our own (`create_batch`, `send_batch`): aiokafka's `send` makes a future, a look at
the metadata and a log call for each record, which cost more than all the rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerClosed, UnknownTopicOrPartitionError

from streams.domain.errors import (
    KafkaUnavailableError,
    OverloadedError,
    PlatformError,
    RecordRejectedError,
    UnknownTopicError,
)
from streams.domain.partitioning import partition_for
from streams.kafka.errors import translate
from streams.kafka.lanes import Lane, Queued, give_up
from streams.kafka.producer_stats import ProducerStats
from streams.kafka.sending import (
    MAX_DEAD_LETTER_BYTES,
    MAX_RECORD_BYTES,
    Headers,
    Outcome,
    OutgoingRecord,
    Receipt,
    Sending,
)
from streams.kafka.session import CLOSE_S, ProducerSession
from streams.settings import Settings

__all__ = [
    "MAX_DEAD_LETTER_BYTES",
    "MAX_RECORD_BYTES",
    "EventProducer",
    "Headers",
    "Outcome",
    "OutgoingRecord",
    "Receipt",
    "Sending",
]

log = logging.getLogger(__name__)

_METADATA_S: Final = 10.0
"""How long the number of a topic's partitions is believed."""
_TOO_LARGE_S: Final = 60.0
"""How long a topic's limit is believed that was learned from a refusal: an operator may raise it."""
_SILENT_S: Final = 5.0
"""Without an acknowledgement for so long it is Kafka that is away, and not our callers that are too many."""


class EventProducer:
    """Writes records and answers for each: a receipt, or an error of `streams.domain.errors`.

    aiokafka's idempotent producer retries a batch without end, so a record whose caller gave up may still be written;
    it counts as in flight until its fate is known, which bounds memory while Kafka is away. Records that have not left
    yet when their callers give up are not sent any more.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.stats = ProducerStats()
        self._session = ProducerSession(settings, self.stats)
        self._is_started = False
        self._linger_s = settings.kafka_linger_ms / 1000
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._filled: dict[Lane, None] = {}
        """Lanes with records that nobody sends yet, in order."""
        self._flushing: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._partitions: dict[str, tuple[int, float]] = {}
        self._asking: dict[str, asyncio.Task[int]] = {}
        self._too_large: dict[str, tuple[int, float]] = {}
        """A size of record that each topic has refused, and when."""
        self._turn = 0
        self._heard_at = 0.0
        """When Kafka last acknowledged something, or had nothing to acknowledge."""
        self.in_flight = 0
        self.bytes_in_flight = 0

    async def start(self) -> None:
        """Connect. Raises KafkaUnavailableError or KafkaAccessError."""
        await self._session.start()
        self._is_started = True

    async def stop(self) -> None:
        """Send what is queued, for as long as a request may take, then close."""
        self._is_started = False
        if self._flushing is not None:
            self._flushing.cancel()
            self._flush()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
        left = [*self._tasks, *self._asking.values()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CLOSE_S)
        await self._session.stop()
        for lane in self._lanes.values():
            self._let_go(lane.waiting)
            give_up(lane.waiting)
            lane.waiting.clear()

    @property
    def trouble(self) -> str | None:
        """Why it writes nothing, in words that anyone may read; None where it can, or has nothing to write."""
        if self._is_started and not self._session.is_connected:
            return "it has no connection"
        silent_s = time.monotonic() - self._heard_at
        if self.in_flight and silent_s > _SILENT_S:
            return f"nothing was acknowledged for {silent_s:.0f} s"
        return None

    async def send(self, record: OutgoingRecord, deadline_s: float) -> Receipt:
        """Write one record and wait for its acknowledgement, at most so many seconds.

        Raises OverloadedError (nothing was done), KafkaUnavailableError (the record may or may not be
        written), RecordRejectedError, KafkaAccessError or UnknownTopicError.
        """
        deadline = asyncio.get_running_loop().time() + deadline_s
        sending = await self.begin([record], deadline)
        await sending.settled(deadline)
        return _receipt(sending.outcomes[0], f"no acknowledgement from {record.topic} within {deadline_s:g} s")

    async def begin(self, records: Sequence[OutgoingRecord], deadline: float = float("inf")) -> Sending:
        """`prepare` and `submit`, in one."""
        await self.prepare({record.topic for record in records}, deadline)
        return self.submit(records)

    async def prepare(self, topics: Iterable[str], deadline: float = float("inf")) -> None:
        """Learn what must be known of topics before records are submitted to them.

        It is waited for until the deadline (the loop's time, seconds). Raises KafkaUnavailableError, KafkaAccessError
        or UnknownTopicError.
        """
        if not self._is_started:
            raise KafkaUnavailableError("the producer is not connected yet")
        for topic in topics:
            await self._learn(topic, deadline)
            if not self._partitions[topic][0]:
                raise UnknownTopicError(topic, "Kafka has no such topic")

    def is_prepared(self, topic: str) -> bool:
        """Whether `prepare` would have nothing to ask."""
        known = self._partitions.get(topic)
        return known is not None and known[0] > 0 and self._is_started and time.monotonic() - known[1] < _METADATA_S

    def partition_of(self, topic: str, key: bytes) -> int | None:
        """Where a record with this key would go; None where its topic was deleted since it was prepared."""
        count = self._partitions[topic][0]
        return partition_for(key, count) if count else None

    def submit(self, records: Sequence[OutgoingRecord]) -> Sending:
        """Take records over, and return where their outcomes will be. The order within a partition is kept.

        Their topics are prepared. Raises OverloadedError where there is no room for all of them, or
        KafkaUnavailableError; then nothing was done. Wait for what is returned at once: records that nobody waits for
        are not sent.
        """
        if not self._is_started:
            raise KafkaUnavailableError("the producer is not connected")
        sizes = [record.bytes for record in records]
        self._check_room(len(sizes), sum(sizes))
        sending = Sending(len(sizes))
        # Ours, and in the receipt too: one clock for all partitions.
        now = time.time()
        timestamp_ms = int(now * 1000)
        if not self.in_flight:
            self._heard_at = time.monotonic()
        for index, (record, size) in enumerate(zip(records, sizes, strict=True)):
            if (limit := self._limit(record, now)) < size:
                reason = f"{size} bytes are too many for {record.topic}, where records of up to {limit} may fit"
                sending.settle(index, RecordRejectedError(reason))
                continue
            if (lane := self._lane(record)) is None:
                sending.settle(index, UnknownTopicError(record.topic, "Kafka has no such topic"))
                continue
            self.in_flight += 1
            self.bytes_in_flight += size
            lane.waiting.append(Queued(record, size, timestamp_ms, sending, index))
            if not lane.is_busy:
                self._filled[lane] = None
        if self._filled and self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(self._linger_s, self._flush)
        return sending

    def _check_room(self, records: int, size: int) -> None:
        # Alone, a sending may be larger than the bounds: else it could never pass.
        if self.in_flight and self.in_flight + records > self._settings.max_in_flight_events:
            raise self._full(f"{self.in_flight} events are waiting for Kafka")
        if self.bytes_in_flight and self.bytes_in_flight + size > self._settings.max_in_flight_bytes:
            raise self._full(f"{self.bytes_in_flight} bytes are waiting for Kafka")

    def _full(self, detail: str) -> PlatformError:
        is_away = time.monotonic() - self._heard_at > _SILENT_S
        return KafkaUnavailableError(f"Kafka acknowledges nothing: {detail}") if is_away else OverloadedError(detail)

    def _limit(self, record: OutgoingRecord, now: float) -> int:
        if (learned := self._too_large.get(record.topic)) is None:
            return record.max_bytes
        size, at = learned
        if now - at >= _TOO_LARGE_S:
            del self._too_large[record.topic]
            return record.max_bytes
        return min(record.max_bytes, size - 1)

    def _lane(self, record: OutgoingRecord) -> Lane | None:
        """Where a record waits; None where its topic was deleted since it was prepared."""
        if not (count := self._partitions[record.topic][0]):
            return None
        if record.key is None:
            self._turn += 1
            partition = self._turn % count
        else:
            partition = partition_for(record.key, count)
        where = (record.topic, partition)
        if (lane := self._lanes.get(where)) is None:
            lane = self._lanes[where] = Lane(*where)
        return lane

    async def _learn(self, topic: str, deadline: float) -> None:
        """The number of a topic's partitions: asked for once, then looked up again behind the back of those who ask."""
        loop = asyncio.get_running_loop()
        known = self._partitions.get(topic)
        if known is not None and time.monotonic() - known[1] < _METADATA_S:
            return
        asking = self._asking.get(topic)
        if asking is None:
            asking = self._asking[topic] = loop.create_task(self._session.count_partitions(topic))
            asking.add_done_callback(lambda done: self._asked(topic, done))
        if known is not None:
            return
        done, _ = await asyncio.wait({asking}, timeout=max(0.0, deadline - loop.time()))
        if not done:
            raise KafkaUnavailableError(f"Kafka did not say in time how many partitions {topic} has")
        if asking.cancelled():
            raise KafkaUnavailableError("the producer has stopped")
        asking.result()
        # Its callback may have its turn after us.
        self._asked(topic, asking)

    def _asked(self, topic: str, done: asyncio.Task[int]) -> None:
        self._asking.pop(topic, None)
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._partitions[topic] = (done.result(), time.monotonic())
        elif isinstance(error, UnknownTopicError):
            # It was deleted: known as such, until it is asked about again.
            self._partitions[topic] = (0, time.monotonic())

    def _flush(self) -> None:
        """Let every lane send what it has: at once, so that one request to the broker takes all of them."""
        self._flushing = None
        filled, self._filled = self._filled, {}
        for lane in filled:
            if not lane.is_busy:
                lane.is_busy = True
                task = asyncio.get_running_loop().create_task(self._drain(lane))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _drain(self, lane: Lane) -> None:
        try:
            while lane.waiting:
                if (client := await self._session.client()) is not None:
                    await self._send_batch(lane, client)
        finally:
            lane.is_busy = False

    async def _send_batch(self, lane: Lane, client: AIOKafkaProducer) -> None:
        builder = client.create_batch()
        packed, dropped = lane.pack(builder)
        if dropped:
            self.stats.failed += len(dropped)
            self._let_go(dropped)
            give_up(dropped)
        if not packed:
            return
        try:
            partitions = await self._session.partitions_of(client, lane.topic)
            if lane.partition not in partitions:
                self._gone(lane, packed, len(partitions), KafkaUnavailableError(f"{lane.topic} was made anew"))
                return
            acknowledged = await client.send_batch(builder, lane.topic, partition=lane.partition)
        except UnknownTopicOrPartitionError:
            self._gone(lane, packed, 0, UnknownTopicError(lane.topic, "Kafka has no such topic"))
            return
        except ProducerClosed:
            # It was replaced while this waited for its turn: nothing was sent.
            self.stats.retries += 1
            lane.put_back(packed)
            return
        except Exception as exc:  # noqa: BLE001  # as below
            self._refused(lane, packed, client, exc)
            return
        except BaseException:
            lane.put_back(packed)
            raise
        try:
            written = await acknowledged
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is the outcome of these records
            self._refused(lane, packed, client, exc)
            return
        except BaseException:
            self._let_go(packed)
            raise
        if written.offset < 0:
            # The broker knows the batch, and no more where it is (DUPLICATE_SEQUENCE_NUMBER): there is no receipt.
            self._refused(lane, packed, client, KafkaError("the batch is stored, and its place forgotten"))
            return
        self._heard_at = time.monotonic()
        self.stats.written(len(packed), sum(queued.size for queued in packed))
        self._let_go(packed)
        lane.written(packed, written.offset)

    def _gone(self, lane: Lane, packed: list[Queued], partitions: int, outcome: PlatformError) -> None:
        """A topic was deleted, or made anew with fewer partitions. Nothing was sent, so that the session goes on."""
        self._partitions[lane.topic] = (partitions, time.monotonic())
        self._failed(packed, outcome)

    def _refused(self, lane: Lane, packed: list[Queued], client: AIOKafkaProducer, error: Exception) -> None:
        # The refused batch has used up sequence numbers: the broker would refuse all that follow on its partition.
        self._session.replace(client)
        known = isinstance(error, KafkaError | TimeoutError | OSError)
        outcome = translate(error, f"write to {lane.topic}") if known else PlatformError()
        if not known:
            log.error("a batch of %s failed", lane.topic, exc_info=error)
        if isinstance(outcome, RecordRejectedError):
            if lane.halve(packed):
                self.stats.retries += 1
                return
            self._too_large[lane.topic] = (packed[0].size, time.time())
        self._failed(packed, outcome)

    def _failed(self, packed: list[Queued], outcome: PlatformError) -> None:
        self.stats.failed += len(packed)
        self._let_go(packed)
        for queued in packed:
            queued.sending.settle(queued.index, outcome)

    def _let_go(self, records: Sequence[Queued]) -> None:
        self.in_flight -= len(records)
        self.bytes_in_flight -= sum(queued.size for queued in records)


def _receipt(outcome: Outcome | None, too_late: str) -> Receipt:
    if outcome is None:
        raise KafkaUnavailableError(too_late)
    if isinstance(outcome, PlatformError):
        raise outcome
    return outcome
