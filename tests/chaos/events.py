"""What is sent to `platform.ingress`: every record follows from the seed and its number, and so does how it must end."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from streams.codecs import AvroCodec, Format, write_event
from streams.domain.envelope import Event
from streams.domain.headers import CONTENT_TYPE, EVENT_TOPIC
from streams.domain.partitioning import partition_for
from streams.generators.zipf import ZipfSampler

TOPICS: Final = ("iot", "clickstream", "transactions")
SEQUENCE_HEADER: Final = "chaos-sequence"
ABORTED: Final = b"aborted"
"""The sequence of records that are written in transactions which are aborted: nobody may ever see one."""
INGEST_BUG_HEADER: Final = "chaos-bug"
"""On a record over which the ingest agent of a chaos worker stumbles, each time: it must end in `platform.dlq`."""
STATE_BUG_PREFIX: Final = "bad0bad0"
"""Event ids over which the state agent of a chaos worker stumbles, each time."""
KEYS: Final = 3_000
EXPONENT: Final = 1.05
"""The most frequent key has a tenth of all events."""
TYPES: Final = ("made", "seen", "moved", "sold")
_FORMATS: Final = tuple(Format)


class Fate(StrEnum):
    """How a record of ingress must end: as an event, or in `platform.dlq` under this reason."""

    EVENT = "event"
    MALFORMED = "malformed_event"
    INVALID = "invalid_event"
    UNKNOWN_TOPIC = "unknown_topic"
    UNSUPPORTED = "unsupported_format"
    BUG = "internal"


@dataclass(frozen=True, slots=True)
class Sent:
    """One record."""

    sequence: int
    fate: Fate
    topic: str
    """The API's name."""
    event: Event
    """What is in `events.<topic>`, where its fate is to be an event."""
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    partition: int
    """Of `platform.ingress`."""

    @property
    def stumbles_state(self) -> bool:
        """Whether the state agent stumbles over its event."""
        return self.event.event_id.startswith(STATE_BUG_PREFIX)


class Source:
    """Makes the records, as often as they are asked for."""

    def __init__(self, seed: int, count: int, partitions: int, schema_id: int, *, now_ms: int) -> None:
        self.count = count
        self._seed = seed
        self._partitions = partitions
        self._schema_id = schema_id
        self._begin_ms = now_ms - 600_000
        self._codec = AvroCodec()
        self._keys = ZipfSampler(KEYS, EXPONENT)
        # Few: each costs a dozen transactions until it is alone.
        chosen = random.Random(f"{seed}/bugs").sample(range(count), min(count, 2 * max(3, count // 20_000)))
        self._ingest_bugs = frozenset(chosen[::2])
        self._state_bugs = frozenset(chosen[1::2])

    def records(self, first: int = 0, end: int | None = None) -> Iterator[Sent]:
        """The records with these numbers, first <= number < end."""
        return (self.record(number) for number in range(first, self.count if end is None else end))

    def record(self, sequence: int) -> Sent:
        """The record of a number."""
        draw = random.Random(self._seed * 1_000_003 + sequence)
        key = f"key-{self._keys.rank(draw.random())}"
        topic = TOPICS[sequence % len(TOPICS)]
        event = Event(
            event_id=str(uuid.UUID(int=draw.getrandbits(128) | 1 << 127)),
            event_type=draw.choice(TYPES),
            # Mostly forward, never quite.
            timestamp=self._begin_ms + sequence + draw.randrange(5_000),
            user_id=key if draw.random() < 0.7 else None,
            device_id=key,
            value=None if draw.random() < 0.2 else round(draw.uniform(-1_000, 1_000), 3),
            source="chaos",
            payload=f'{{"sequence":{sequence}}}',
        )
        if sequence in self._state_bugs:
            event = _renamed(event, STATE_BUG_PREFIX + event.event_id[len(STATE_BUG_PREFIX) :])
            return self._valid(sequence, topic, event, draw)
        if sequence in self._ingest_bugs:
            return self._valid(sequence, topic, event, draw, bug=True)
        if draw.random() < 0.03:
            return self._invalid(sequence, topic, event, draw)
        return self._valid(sequence, topic, event, draw)

    def aborted(self, draw: random.Random) -> Sent:
        """A record, valid or not, for a transaction that is aborted."""
        record = self.record(draw.randrange(self.count))
        headers = tuple((name, value) for name, value in record.headers if name != SEQUENCE_HEADER)
        return Sent(
            -1,
            record.fate,
            record.topic,
            record.event,
            record.key,
            record.value,
            (*headers, (SEQUENCE_HEADER, ABORTED)),
            draw.randrange(self._partitions),
        )

    def _valid(self, sequence: int, topic: str, event: Event, draw: random.Random, *, bug: bool = False) -> Sent:
        format_ = draw.choice(_FORMATS)
        value = write_event(event, format_, self._codec, self._schema_id)
        headers = [(CONTENT_TYPE, format_.value.encode())]
        if bug:
            headers.append((INGEST_BUG_HEADER, b"1"))
        return self._sent(
            sequence, Fate.BUG if bug else Fate.EVENT, topic, event, key=event.key, value=value, headers=headers
        )

    def _invalid(self, sequence: int, topic: str, event: Event, draw: random.Random) -> Sent:
        """Wrong in one of several ways."""
        fate = draw.choice((Fate.MALFORMED, Fate.INVALID, Fate.UNKNOWN_TOPIC, Fate.UNSUPPORTED))
        content_type, value = Format.JSON.value, write_event(event, Format.JSON, self._codec, self._schema_id)
        key: bytes | None = event.key
        match fate:
            case Fate.MALFORMED:
                value, key = value[: draw.randrange(1, len(value) - 1)], None
            case Fate.INVALID:
                value = json.dumps({"event_type": "made", "timestamp": "yesterday", "number": sequence}).encode()
            case Fate.UNKNOWN_TOPIC:
                topic = "nowhere"
            case _:
                content_type = "text/plain"
        return self._sent(
            sequence, fate, topic, event, key=key, value=value, headers=[(CONTENT_TYPE, content_type.encode())]
        )

    def _sent(
        self,
        sequence: int,
        fate: Fate,
        topic: str,
        event: Event,
        *,
        key: bytes | None,
        value: bytes,
        headers: list[tuple[str, bytes]],
    ) -> Sent:
        partition = sequence % self._partitions if key is None else partition_for(key, self._partitions)
        own = ((EVENT_TOPIC, topic.encode()), (SEQUENCE_HEADER, b"%d" % sequence))
        return Sent(sequence, fate, topic, event, key, value, (*own, *headers), partition)


def _renamed(event: Event, event_id: str) -> Event:
    return Event(
        event_id,
        event.event_type,
        event.timestamp,
        event.user_id,
        event.device_id,
        event.value,
        event.source,
        event.payload,
    )
