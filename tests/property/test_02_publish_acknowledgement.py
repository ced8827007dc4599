"""Property 2: what was said to be stored is in the log at its place, once per id, whatever fails and whoever asks again.

The real store and the real producer on a Kafka of memory that refuses, delays, and loses batches; clients give up and
ask again under the same ids, some with other contents.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streams.codecs import HEADER_BYTES, AvroCodec
from streams.domain.errors import (
    IdempotencyConflictError,
    KafkaUnavailableError,
    OverloadedError,
    PlatformError,
    RecordRejectedError,
)
from streams.domain.naming import DLQ
from streams.kafka.producer import OutgoingRecord
from streams.settings import Settings
from streams.storing import Buried, EventStore, Offer, Outcome, Stored
from tests.batching_kafka import Clockless
from tests.producer_kafka import MemoryBroker, MemoryKafkaProducer

TOPIC = "events.iot"
ids = st.integers(0, 2) | st.none()
contents = st.sampled_from(["a", "a", "a", "b"])
is_large = st.sampled_from([False] * 7 + [True])
events = st.lists(st.tuples(ids, contents, is_large), min_size=1, max_size=6)
FRAME = b"\x00" * HEADER_BYTES


class Publishing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=Clockless)
        self.broker = MemoryBroker()
        self.settings = Settings(max_in_flight_events=12, retry_base_s=0.01, retry_cap_s=0.1)
        self.producer = MemoryKafkaProducer(self.settings, self.broker)
        self.store = EventStore(self.settings, self.producer, AvroCodec(), lambda: 9)
        self.do(self.producer.start())
        self.posts: list[tuple[list[Offer], asyncio.Task[list[Outcome]]]] = []
        self.unnamed = 0

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def offer(self, number: int | None, content: str, *, is_large: bool) -> Offer:
        if number is None:
            self.unnamed += 1
        name = f"n{self.unnamed}" if number is None else f"id{number}"
        value = FRAME + f"{name} {content}".encode() + b"." * (2_000 if is_large else 0)
        record = OutgoingRecord(TOPIC, name.encode(), value)
        return Offer(record, () if number is None else ((TOPIC, name),))

    @rule(events=events, deadline_s=st.sampled_from([0.001, 0.05, 5.0, 5.0]), wait_ms=st.sampled_from([0, 10, 10]))
    def a_client_posts(self, events: list[tuple[int | None, str, bool]], deadline_s: float, wait_ms: int) -> None:
        offers = [self.offer(number, content, is_large=large) for number, content, large in events]

        async def post() -> list[Outcome]:
            return await self.store.store(offers, asyncio.get_running_loop().time() + deadline_s)

        async def begin() -> asyncio.Task[list[Outcome]]:
            return asyncio.get_running_loop().create_task(post())

        self.posts.append((offers, self.do(begin())))
        self.time_passes(wait_ms)

    @rule(ms=st.integers(0, 100))
    def time_passes(self, ms: int) -> None:
        self.do(asyncio.sleep(ms / 1000))

    @rule(holding=st.booleans())
    def kafka_is_slow_or_not(self, holding: bool) -> None:  # noqa: FBT001
        self.broker.holding = holding
        if not holding:
            self.broker.release()

    @rule(fault=st.sampled_from(["lost", "", "", "", "", "unsure"]))
    def one_of_the_next_batches_may_fail(self, fault: str) -> None:
        self.broker.faults.append(fault)

    @invariant()
    def everything_stored_is_where_its_receipt_says(self) -> None:
        for offers, task in self.posts:
            if not task.done() or isinstance(task.exception(), PlatformError):
                continue
            outcomes = task.result()
            assert len(outcomes) == len(offers)
            for offer, outcome in zip(offers, outcomes, strict=True):
                if isinstance(outcome, Stored):
                    where = outcome.receipt
                    assert self.broker.logs[where.topic, where.partition][where.offset].value == offer.record.value
                elif isinstance(outcome, Buried):
                    assert isinstance(outcome.error, RecordRejectedError)
                    letter = self.broker.logs[DLQ, outcome.letter.partition][outcome.letter.offset]
                    assert (offer.record.value or b"") in (letter.value or b"")
                    assert not self.broker.copies(TOPIC, offer.record.value or b"")
                else:
                    assert isinstance(outcome, KafkaUnavailableError | IdempotencyConflictError), outcome

    @invariant()
    def the_order_of_a_request_is_kept_within_a_partition(self) -> None:
        for _, task in self.posts:
            if task.done() and task.exception() is None:
                new = [o.receipt for o in task.result() if isinstance(o, Stored) and not o.duplicate]
                for partition in {receipt.partition for receipt in new}:
                    offsets = [receipt.offset for receipt in new if receipt.partition == partition]
                    assert offsets == sorted(offsets)

    @invariant()
    def each_id_is_stored_once_and_means_one_event(self) -> None:
        stored = [
            (r.value or b"")[HEADER_BYTES:].split()[0]
            for (topic, _), log in self.broker.logs.items()
            if topic == TOPIC
            for r in log
            # A batch that was written, and of which the producer was told that it had failed: asked for again, such an
            # event is there twice. That is for those who read to tell, by the id.
            if r.value not in self.broker.unsure
        ]
        assert len(stored) == len(set(stored))

    def an_id_is_bound_by_what_is_stored_and_by_nothing_else(self, number: int) -> None:
        offers = {content: self.offer(number, content, is_large=False) for content in "ab"}
        stored = {c for c, offer in offers.items() if self.broker.copies(TOPIC, offer.record.value or b"")}
        [outcome] = self.do(self.store.store([offers["a"]], 1e9))
        if isinstance(outcome, IdempotencyConflictError):
            assert "b" in stored
        else:
            assert isinstance(outcome, Stored)
            assert not outcome.duplicate or "a" in stored

    @invariant()
    def what_is_in_flight_is_bounded_and_counted(self) -> None:
        assert 0 <= self.producer.in_flight <= self.settings.max_in_flight_events
        assert self.producer.bytes_in_flight >= 0

    def teardown(self) -> None:
        self.broker.holding = False
        self.broker.release()
        self.do(asyncio.sleep(20))
        for _, task in self.posts:
            assert task.done()
            error = task.exception()
            assert error is None or isinstance(error, OverloadedError | KafkaUnavailableError)
        assert (self.producer.in_flight, self.producer.bytes_in_flight) == (0, 0)
        self.broker.faults.clear()
        for number in range(3):
            self.an_id_is_bound_by_what_is_stored_and_by_nothing_else(number)
        self.everything_stored_is_where_its_receipt_says()
        self.do(self.producer.stop())
        self.runner.close()


Publishing.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestPublishing = Publishing.TestCase
