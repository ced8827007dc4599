"""Faust agents at the speed of the client below them, exactly once.

A Faust agent is given one message at a time, and that costs more than most work on it. Here agents are given whole
fetches of chosen topics, and the work on them is done in Kafka transactions: what it writes, what it changes in its
tables, and the offset behind what it read become visible together, once, whatever is killed meanwhile.

- `transport`, `gates`, `batch`: batches are delivered, with back-pressure, at rebalances, after a rollback;
- `partition`, `chain`, `transactions`, `pipeline`: the work on one input partition, exactly once;
- `committed`: the other way to work on batches, at least once, by the body of an agent;
- `tables`, `restoring`, `rocks`: state that follows its input, and its restoration;
- `collector`: Python's collector of cycles, which would walk all records in hand again and again;
- `subscription`: topics that come while workers run;
- `internals`: every private part of Faust and aiokafka that is touched, guarded by a test;
- `engine`: all of it together.

    class Doubling(Pipeline):
        name = "doubling"

        def takes(self, topic): return topic == "numbers"

        def may_pass(self, error): return isinstance(error, KafkaError) and error.retriable

        async def handle(self, transaction, records):
            for record in records:
                transaction.send("doubled", record.partition, record.key, str(2 * int(record.value)).encode())

        async def bury(self, transaction, record, error):
            transaction.send("not-doubled", record.partition, record.key, record.value)

    engine.add(Doubling())

    @app.agent(app.topic("numbers", key_serializer="raw", value_serializer="raw", acks=False))
    async def double(stream):
        async for batch in stream:
            engine.put(batch)

The package knows nothing of the platform that it is part of.
"""

from streams.kafka.batching.batch import Batch, ReceivedRecord, Source
from streams.kafka.batching.engine import Engine, PartitionStatus, complaint
from streams.kafka.batching.gates import Gates, Limits
from streams.kafka.batching.partition import TRUSTED, Pace, Phase
from streams.kafka.batching.pipeline import Pipeline, Transaction
from streams.kafka.batching.subscription import GrowingSubscription
from streams.kafka.batching.tables import Changes, MemoryStore, Row, Store, Table, changelog_topic
from streams.kafka.batching.transactions import (
    AbortedError,
    BrokenError,
    FencedError,
    Outbox,
    TransactionalProducer,
)
from streams.kafka.batching.transport import BatchTransport

__all__ = [
    "TRUSTED",
    "AbortedError",
    "Batch",
    "BatchTransport",
    "BrokenError",
    "Changes",
    "Engine",
    "FencedError",
    "Gates",
    "GrowingSubscription",
    "Limits",
    "MemoryStore",
    "Outbox",
    "Pace",
    "PartitionStatus",
    "Phase",
    "Pipeline",
    "ReceivedRecord",
    "Row",
    "Source",
    "Store",
    "Table",
    "Transaction",
    "TransactionalProducer",
    "changelog_topic",
    "complaint",
]
