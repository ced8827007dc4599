"""The events that are read: small, valid, their keys few and hot as in real traffic. The same at every run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from deploy.local.bench_agents.cases import KEYS, ZIPF_EXPONENT
from streams.codecs import AvroCodec
from streams.domain.envelope import Event
from streams.domain.headers import CONTENT_TYPE, EVENT_TOPIC, event_headers
from streams.domain.partitioning import partition_for
from streams.generators.zipf import ZipfSampler

TOPIC: Final = "bench"
"""The API's name of the one event topic."""
SEED: Final = 20_261_125
START_MS: Final = 1_795_564_800_000
"""2026-11-25T00:00:00Z."""
_PAYLOAD: Final = '{"unit":"C","site":"hall-7","firmware":"4.12.1","battery":87,"tags":["lab","calibrated"]}'


class Made(NamedTuple):
    """A record to fill a topic with."""

    partition: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


class _Json(msgspec.Struct):
    event_id: str
    event_type: str
    timestamp: int
    device_id: str
    value: float
    payload: msgspec.Raw


def events(count: int, *, distinct: bool) -> Iterator[Event]:
    """So many events: each of a key of its own, or of 100,000 keys by Zipf's law."""
    draw = random.Random(SEED)
    zipf = ZipfSampler(KEYS, ZIPF_EXPONENT)
    for number in range(count):
        rank = number if distinct else zipf.rank(draw.random())
        yield Event(
            f"{draw.getrandbits(32):08x}-{number >> 16 & 0xFFFF:04x}-4{number & 0xFFF:03x}-8000-{number:012x}",
            "sensor.reading",
            START_MS + number,
            None,
            f"device-{rank:06d}",
            round(draw.gauss(20, 5), 2),
            None,
            _PAYLOAD,
        )


def ingress(count: int, partitions: int) -> Iterator[Made]:
    """Records of `platform.ingress`: JSON, as many in every partition."""
    encode = msgspec.json.Encoder().encode
    headers = [(EVENT_TOPIC, TOPIC.encode()), (CONTENT_TYPE, b"application/json")]
    payload = msgspec.Raw(_PAYLOAD.encode())
    for number, event in enumerate(events(count, distinct=False)):
        assert event.device_id is not None
        assert event.value is not None
        fields = _Json(event.event_id, event.event_type, event.timestamp, event.device_id, event.value, payload)
        yield Made(number % partitions, event.key, encode(fields), headers)


def stored(count: int, partitions: int, codec: AvroCodec, schema_id: int, *, distinct: bool = False) -> Iterator[Made]:
    """Records of `events.bench`: Avro, by key, with the headers that ingest gives them."""
    for event in events(count, distinct=distinct):
        key = event.key
        headers = list(event_headers(event, "application/json", event.timestamp, None))
        yield Made(partition_for(key, partitions), key, codec.encode_event(event, schema_id), headers)
