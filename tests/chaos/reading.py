"""Reads what is in the topics as any reader of committed records would: by another Kafka client than the platform's."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams import schemas
from streams.codecs import HEADER_BYTES, parse
from tests.chaos.events import ABORTED, SEQUENCE_HEADER, Fate, Sent, Source
from tests.chaos.judge import Arrived, Expected, Letter, Rows, Stored, Topics

TABLES: Final = ("state", "totals", "dead-letters")
_EVENT = parse(schemas.EVENT)
_LETTER = parse(schemas.DLQ_MESSAGE)
_POLL_S: Final = 30.0


def read_topics(bootstrap_servers: str, app_id: str) -> Topics:
    """Everything that the judge looks at. Raises KafkaException."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "chaos-judge",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        found = list(consumer.list_topics(timeout=_POLL_S).topics)
        return Topics(
            ingress=[_arrived(m) for m in read(consumer, ["platform.ingress"])],
            events=[_stored(m) for m in read(consumer, [name for name in found if name.startswith("events.")])],
            letters=[_letter(m) for m in read(consumer, ["platform.dlq"])],
            tables={name: _rows(read(consumer, [f"{app_id}-{name}-changelog"])) for name in TABLES},
        )
    finally:
        consumer.close()


def read(consumer: Consumer, topics: Iterable[str]) -> Iterator[Message]:
    """Every committed record of some topics, those of a partition in its order."""
    known = consumer.list_topics(timeout=_POLL_S).topics
    partitions = [TopicPartition(topic, number, 0) for topic in topics for number in known[topic].partitions]
    consumer.assign(partitions)
    rest = len(partitions)
    heard_at = time.monotonic()
    while rest:
        # It waits for all of the 2,000, or so long.
        messages = consumer.consume(2_000, timeout=0.1)
        if messages:
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > _POLL_S:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{rest} partitions have not come to their end"))
        for message in messages:
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                rest -= 1
            else:
                raise KafkaException(error)
    consumer.unassign()


def expectations(source: Source) -> dict[int, Expected]:
    """How every record of a source must end, by its number."""
    return {record.sequence: _expected(record) for record in source.records()}


def _expected(record: Sent) -> Expected:
    event = record.event
    return Expected(
        None if record.fate is Fate.EVENT else record.fate.value,
        f"events.{record.topic}",
        record.key,
        event.event_id,
        event.event_type,
        event.timestamp,
        event.value,
        # Kept to compare a dead letter with; an event is compared field by field.
        b"" if record.fate is Fate.EVENT else record.value,
        record.stumbles_state,
    )


def _arrived(message: Message) -> Arrived:
    sequence = _headers(message)[SEQUENCE_HEADER]
    return Arrived(*_place(message), -1 if sequence == ABORTED else int(sequence))


def _stored(message: Message) -> Stored:
    origin = _headers(message).get("ingress-origin")
    body: Any = fastavro.schemaless_reader(io.BytesIO(_value(message)[HEADER_BYTES:]), _EVENT, None)
    partition, _, offset = (origin or b"").partition(b"@")
    return Stored(
        str(message.topic()),
        *_place(message),
        message.key() or b"",
        (int(partition), int(offset)) if origin else None,
        body["event_id"],
        body["event_type"],
        body["timestamp"],
        body["value"],
    )


def _letter(message: Message) -> Letter:
    headers = _headers(message)
    body: Any = fastavro.schemaless_reader(io.BytesIO(_value(message)[HEADER_BYTES:]), _LETTER, None)
    return Letter(
        *_place(message),
        headers["dlq-reason"].decode(),
        headers["dlq-source-topic"].decode(),
        int(headers["dlq-source-partition"]),
        int(headers["dlq-source-offset"]),
        body["value"],
    )


def _rows(changelog: Iterable[Message]) -> Rows:
    """The newest row of each key, as compaction would leave it."""
    rows: Rows = {}
    for message in changelog:
        topic, _, key = (message.key() or b"").decode().partition("|")
        place = topic, _place(message)[0], key
        if message.value() is None:
            rows.pop(place, None)
        else:
            rows[place] = json.loads(_value(message))
    return rows


def _place(message: Message) -> tuple[int, int]:
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return partition, offset


def _value(message: Message) -> bytes:
    value = message.value()
    assert value is not None
    return value


def _headers(message: Message) -> dict[str, bytes]:
    found: Any = message.headers() or ()
    return {name: value or b"" for name, value in found}


def ends_of_logs(logs: Sequence[Path], lines: int) -> str:
    """The last lines of some logs."""
    return "\n".join(
        f"--- {log.parent.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
        for log in logs
        if log.exists()
    )
