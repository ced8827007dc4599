"""Every private part of Faust, mode and aiokafka that this package touches, and nothing else does.

Each is named in `PARTS` with a digest of its source; a test compares them with what is installed, so that an upgrade
which changes one fails there, and not at night in production. After reading what has changed,
`python -m streams.kafka.batching.internals` prints the table anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import sys
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import TopicPartitionState
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator
from aiokafka.producer.sender import Sender
from faust.transport import consumer as faust_consumer
from faust.transport.conductor import Conductor
from faust.transport.drivers import aiokafka as driver

PARTS: Final = {
    # The thread that owns the aiokafka consumer: what it builds, where it fetches, how it seeks by itself.
    "AIOKafkaConsumerThread._create_worker_consumer": driver.AIOKafkaConsumerThread._create_worker_consumer,
    "AIOKafkaConsumerThread._fetch_records": driver.AIOKafkaConsumerThread._fetch_records,
    "AIOKafkaConsumerThread._ensure_consumer": driver.AIOKafkaConsumerThread._ensure_consumer,
    "AIOKafkaConsumerThread.seek_to_committed": driver.AIOKafkaConsumerThread.seek_to_committed,
    "AIOKafkaConsumerThread.subscribe": driver.AIOKafkaConsumerThread.subscribe,
    # The consumer of the main thread: what it fetches, what a message is made of, what it calls at a rebalance.
    "Consumer._new_consumer_thread": driver.Consumer._new_consumer_thread,
    "Consumer._to_message": driver.Consumer._to_message,
    "ThreadDelegateConsumer._getmany": faust_consumer.ThreadDelegateConsumer._getmany,
    "Consumer.getmany": faust_consumer.Consumer.getmany,
    "Consumer._wait_next_records": faust_consumer.Consumer._wait_next_records,
    "Consumer._drain_messages": faust_consumer.Consumer._drain_messages,
    "Consumer.ack": faust_consumer.Consumer.ack,
    "Consumer.perform_seek": faust_consumer.Consumer.perform_seek,
    "Consumer.on_partitions_revoked": faust_consumer.Consumer.on_partitions_revoked,
    "Consumer.on_partitions_assigned": faust_consumer.Consumer.on_partitions_assigned,
    # How a subscription is changed while a worker runs.
    "Conductor._subscriber": Conductor._subscriber,
    "Conductor._update_indices": Conductor._update_indices,
    "Conductor._flag_changes": Conductor._flag_changes,
    # That a fetch is drained and its position moved in one step, without giving way to others.
    "Fetcher.fetched_records": Fetcher.fetched_records,
    "Fetcher.seek_to": Fetcher.seek_to,
    "FetchResult.getall": FetchResult.getall,
    "FetchResult.check_assignment": FetchResult.check_assignment,
    "PartitionRecords._unpack_records": PartitionRecords._unpack_records,
    "AIOKafkaConsumer.start": AIOKafkaConsumer.start,
    "AIOKafkaConsumer.seek": AIOKafkaConsumer.seek,
    "AIOKafkaConsumer.highwater": AIOKafkaConsumer.highwater,
    "TopicPartitionState.seek": TopicPartitionState.seek,
    "TopicPartitionState.consumed_to": TopicPartitionState.consumed_to,
    # What is left of a producer that cannot be stopped in order.
    "AIOKafkaProducer.stop": AIOKafkaProducer.stop,
    "Sender.close": Sender.close,
    # What a packed batch does with a record, and what a second batch for a partition waits for.
    "BatchBuilder.append": BatchBuilder.append,
    "MessageAccumulator.add_batch": MessageAccumulator.add_batch,
}


def digest(part: Any) -> str:
    """What changes when the source of a function does: 12 hexadecimal digits of its SHA-256."""
    function = getattr(part, "fun", part)  # of a task of mode's
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:12]


def read_committed(consumer: AIOKafkaConsumer) -> None:
    """Set the isolation level of a consumer that has not started: Faust has no setting for it."""
    consumer._isolation_level = "read_committed"


def wait_at_most(consumer: AIOKafkaConsumer, fetch_max_wait_ms: int) -> None:
    """Set how long a broker may hold a fetch of a consumer that has not started.

    Faust lets it be 1.5 s, and while one is held no other partition of that broker is fetched, say after a seek.
    """
    consumer._fetch_max_wait_ms = fetch_max_wait_ms


def position(consumer: AIOKafkaConsumer, source: Any) -> int | None:
    """The fetch position of an assigned partition, in one step; None while there is none."""
    state = _state(consumer, source)
    return None if state is None else state._position


def highwater(consumer: AIOKafkaConsumer, source: Any) -> int | None:
    """The high watermark of a partition as of its last fetch; None before, and for one that is not assigned.

    aiokafka's own asserts that it is assigned, which it is not, for a moment, whenever the subscription changes.
    """
    state = _state(consumer, source)
    return None if state is None else state.highwater


def last_stable_offset(consumer: AIOKafkaConsumer, source: Any) -> int | None:
    """The same of the last stable offset: up to there records can be read, if only committed ones are."""
    state = _state(consumer, source)
    return None if state is None else state.lso


async def stop(consumer: AIOKafkaConsumer) -> None:
    """Close a consumer. While Kafka is away, its `stop` may end before that, with the cancellation of a fetch of its own.

    That is no cancellation of the caller.
    """
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        await consumer._client.close()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise


async def abandon(producer: AIOKafkaProducer) -> None:
    """Let go of a producer whose `stop` has been given up: what it waits for would keep its connections for ever."""
    if (task := producer._sender.sender_task) is not None:
        task.cancel()
    await producer.client.close()


def _state(consumer: AIOKafkaConsumer, source: Any) -> Any:
    subscription = consumer._subscription.subscription
    assignment = None if subscription is None else subscription.assignment
    return assignment.state_value(source) if assignment is not None and source in assignment.tps else None


def resubscribe(conductor: Any, topics: Iterable[str], pause_s: float = 1.0) -> None:
    """Tell Faust's conductor that its channels have new topics.

    It would wait 45 s for more changes before it subscribes.
    """
    if any(topic not in conductor._topic_name_index for topic in topics):
        conductor._resubscribe_sleep_lock_seconds = pause_s
        conductor._flag_changes()


if __name__ == "__main__":
    for name, part in PARTS.items():
        sys.stdout.write(f'    "{name}": "{digest(part)}",\n')
