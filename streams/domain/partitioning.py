"""Which partition a key belongs to: Kafka's default, so that any client in any language agrees."""

from __future__ import annotations

from functools import lru_cache

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def partition_key(user_id: str | None, device_id: str | None) -> bytes:
    """The message key of an event: its `user_id`, else its `device_id`, as UTF-8.

    Raises ValueError where both are absent: such an event is not valid.
    """
    key = user_id if user_id is not None else device_id
    if key is None:
        raise ValueError("an event needs a user_id or a device_id")
    return key.encode()


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bit, as in `org.apache.kafka.common.utils.Utils.murmur2`, unsigned."""
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k ^= k >> 24
        h = (h * _M & _MASK) ^ (k * _M & _MASK)
    if tail := data[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h ^= h >> 13
    h = h * _M & _MASK
    return h ^ (h >> 15)


@lru_cache(maxsize=65_536)
def partition_for(key: bytes, partitions: int) -> int:
    """The partition of a key among so many, as `BuiltInPartitioner.partitionForKey` of Kafka does."""
    if partitions < 1:
        raise ValueError(f"partitions must be 1 or more, not {partitions}")
    return (murmur2(key) & 0x7FFFFFFF) % partitions
