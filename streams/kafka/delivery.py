"""How Faust reads from Kafka for us, and what it hands to an agent as the record that the platform knows."""

from __future__ import annotations

from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.types import EventT

from streams.kafka.consumer import Record, plain


def received(event: EventT[bytes]) -> Record:
    """The record of a Faust event, whose topic is read with raw serializers."""
    message = event.message
    headers: Any = message.headers or ()
    return Record(
        message.topic,
        message.partition,
        message.offset,
        int(message.timestamp * 1000),
        message.key,
        message.value,
        plain(headers.items() if isinstance(headers, dict) else headers),
    )


class _CommittedThread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: driver.Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust has no setting for it, and the consumer has not started yet.
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        return consumer


class _CommittedConsumer(driver.Consumer):
    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _CommittedThread(self, loop=self.loop, beacon=self.beacon)


class CommittedTransport(driver.Transport):
    """Faust's Kafka transport, but agents see only records whose transaction was committed.

    Faust's own reads what was aborted, too: events that were never there, and window results that were taken back.
    """

    Consumer = _CommittedConsumer
