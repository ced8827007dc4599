"""Property 4: equal keys, equal partition, and the partition that every other Kafka client chooses."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from streams import schemas
from streams.codecs import AvroCodec, Format, read_event, write_event
from streams.domain.partitioning import murmur2, partition_for, partition_key
from streams.domain.validation import EventRules
from tests.strategies import NOW_MS, events, keys


@given(st.binary(max_size=100))
def test_the_hash_is_that_of_another_client(data):
    assert murmur2(data) == aiokafka_murmur2(data) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    # org.apache.kafka.common.utils.UtilsTest.testMurmur2, signed there
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_that_of_kafkas_own_tests(data, expected):
    assert murmur2(data) == expected & 0xFFFFFFFF


@given(events(), events(), st.integers(1, 200))
def test_events_of_one_key_share_a_partition(first, second, partitions):
    same_key = first.key == second.key
    same_partition = partition_for(first.key, partitions) == partition_for(second.key, partitions)
    assert same_partition or not same_key
    assert 0 <= partition_for(first.key, partitions) < partitions


@given(events(), st.sampled_from(Format))
def test_the_key_is_the_same_in_whatever_format_an_event_comes(event, format_):
    codec = AvroCodec()
    codec.add_schema(7, schemas.EVENT)
    data = write_event(event, format_, codec, 7)
    read = read_event(data, format_, codec, rules=EventRules(), now_ms=NOW_MS, new_event_id=lambda: "never")
    assert read.key == event.key


@given(keys, st.none() | keys)
def test_the_user_comes_before_the_device(user, device):
    assert partition_key(user, device) == user.encode()
    assert partition_key(None, user) == user.encode()


def test_an_event_without_user_and_device_has_no_key():
    with pytest.raises(ValueError, match="user_id or a device_id"):
        partition_key(None, None)


def test_there_is_no_partition_among_none():
    with pytest.raises(ValueError, match="1 or more"):
        partition_for(b"a", 0)
