"""The Avro contracts, written once as classes; the `.avsc` files beside this one are made from them.

`make schemas` writes the files and a test keeps them equal. At run time only the files are read: the Flink
job's environment has no dataclasses-avroschema, and importing it takes half a second.
"""

import dataclasses
import json
import uuid
from datetime import datetime
from pathlib import Path

from dataclasses_avroschema import AvroModel

NAMESPACE = "streams"


@dataclasses.dataclass
class Event(AvroModel):
    """One event of a topic `events.*`."""

    event_id: uuid.UUID
    event_type: str
    timestamp: datetime
    user_id: str | None = None
    device_id: str | None = None
    value: float | None = None
    source: str | None = None
    payload: str = "{ }"
    # An empty object. Not "{}": Apicurio Registry 3.3.3 takes a schema with that very default for no schema at all.

    class Meta:
        """Options of dataclasses-avroschema."""

        namespace = NAMESPACE


@dataclasses.dataclass
class AggregatedEvent(AvroModel):
    """The result of one window of one topic and event type. Upsert on topic, event_type, window, window_start."""

    topic: str
    event_type: str
    window: str
    window_start: datetime
    window_end: datetime
    count: int
    sum: float | None
    avg: float | None
    min: float | None
    max: float | None
    distinct_users: int
    revision: int
    emitted_at: datetime

    class Meta:
        """Options of dataclasses-avroschema."""

        namespace = NAMESPACE


@dataclasses.dataclass
class Header(AvroModel):
    """One header of the original record."""

    name: str
    value: bytes

    class Meta:
        """Options of dataclasses-avroschema."""

        namespace = NAMESPACE


@dataclasses.dataclass
class DLQMessage(AvroModel):
    """A record that could not be processed: its bytes untouched, its origin and the reason."""

    reason: str
    detail: str
    source_topic: str
    source_partition: int | None
    source_offset: int | None
    attempts: int
    replays: int
    failed_at: datetime
    key: bytes | None
    value: bytes | None
    headers: list[Header]

    class Meta:
        """Options of dataclasses-avroschema."""

        namespace = NAMESPACE


@dataclasses.dataclass
class StreamMessage(AvroModel):
    """An event of a live stream, as a binary frame of `format=avro`."""

    # The first, so that the rest is encoded once for all clients.
    cursor: str
    partition: int
    offset: int
    stored_at: datetime
    traceparent: str | None = None
    # The record's value as it is in the log: Confluent's wire format, with its schema's id.
    event: bytes = b""

    class Meta:
        """Options of dataclasses-avroschema."""

        namespace = NAMESPACE


MODELS: dict[str, type[AvroModel]] = {
    "event": Event,
    "aggregated_event": AggregatedEvent,
    "dlq_message": DLQMessage,
    "stream_message": StreamMessage,
}


def rendered() -> dict[str, str]:
    """The text of each `.avsc` file by its name without the ending."""
    return {name: json.dumps(model.avro_schema_to_python(), indent=2) + "\n" for name, model in MODELS.items()}


if __name__ == "__main__":
    for file_name, text in rendered().items():
        Path(__file__).with_name(f"{file_name}.avsc").write_text(text)
