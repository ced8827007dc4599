"""What a transaction sends: packed in order, in batches that a broker takes."""

from __future__ import annotations

from functools import partial

from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.batching import Outbox
from tests.batching_kafka import Builder

LIMIT = 1_000
records = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 1), st.integers(0, 400)), max_size=60)


@given(records)
def test_full_batches_roll_over_and_the_order_of_each_partition_is_kept(sent):
    outbox = Outbox(partial(Builder, LIMIT))
    for number, (topic, partition, size) in enumerate(sent):
        outbox.append(topic, partition, b"%d" % number, b"x" * size, [("h", b"%d" % number)], number)
    assert outbox.records == len(sent)
    assert set(outbox.batches()) == {(topic, partition) for topic, partition, _ in sent}
    for where, builders in outbox.batches().items():
        packed = [record for builder in builders for record in builder.records]
        wanted = [n for n, (topic, partition, _) in enumerate(sent) if (topic, partition) == where]
        assert [key for key, *_ in packed] == [b"%d" % n for n in wanted]
        assert [timestamp for *_, timestamp in packed] == wanted
        assert all(builder.records for builder in builders)
        assert all(builder.size <= LIMIT for builder in builders)


def test_with_the_clients_own_builders_a_reader_gets_every_record_in_order():
    """Some are larger than a whole batch: each of those has a batch of its own."""
    outbox = Outbox(lambda: BatchBuilder(LIMIT, 0, is_transactional=1))
    values = [b"%d" % number * (3_000 if number % 10 == 7 else 40) for number in range(40)]
    for value in values:
        outbox.append("a", 0, b"key", value, (("h", b"1"),), 5)
    builders = outbox.batches()["a", 0]
    assert len(builders) > 4
    read = []
    for builder in builders:
        packed = MemoryRecords(bytes(builder._build()))
        batch = packed.next_batch()
        assert batch is not None
        read += [(record.key, record.value, list(record.headers), record.timestamp) for record in batch]
    assert read == [(b"key", value, [("h", b"1")], 5) for value in values]


def test_tombstones_and_records_without_a_key_are_packed():
    outbox = Outbox(lambda: BatchBuilder(LIMIT, 0, is_transactional=1))
    outbox.append("a", 0, b"key", None)
    outbox.append("a", 0, None, b"value")
    [builder] = outbox.batches()["a", 0]
    batch = MemoryRecords(bytes(builder._build())).next_batch()
    assert batch is not None
    assert [(record.key, record.value) for record in batch] == [(b"key", None), (None, b"value")]
