"""The wire contracts and the records in memory say the same, and the files are those of the classes."""

from __future__ import annotations

import json

import msgspec
import pytest

from streams import schemas
from streams.domain.aggregates import AggregatedEvent
from streams.domain.dead_letters import DeadLetter
from streams.domain.envelope import Event
from streams.schemas import event_pb2
from streams.schemas.models import rendered

PAIRS = [(schemas.EVENT, Event), (schemas.AGGREGATED_EVENT, AggregatedEvent), (schemas.DLQ_MESSAGE, DeadLetter)]


@pytest.mark.parametrize(("schema", "struct"), PAIRS)
def test_the_fields_of_the_schema_are_those_of_the_record_in_memory(schema, struct):
    fields = [field["name"] for field in json.loads(schema)["fields"]]
    assert fields == [field.name for field in msgspec.structs.fields(struct)]


def test_the_protobuf_event_has_the_same_fields():
    assert [field.name for field in event_pb2.Event.DESCRIPTOR.fields] == [
        field.name for field in msgspec.structs.fields(Event)
    ]
    assert all(field.has_presence for field in event_pb2.Event.DESCRIPTOR.fields)


def test_the_files_are_made_from_the_classes():
    """Red? Run `make schemas`."""
    texts = {
        "event": schemas.EVENT,
        "aggregated_event": schemas.AGGREGATED_EVENT,
        "dlq_message": schemas.DLQ_MESSAGE,
        "stream_message": schemas.STREAM_MESSAGE,
    }
    assert rendered() == texts


def test_a_live_message_begins_with_its_cursor_in_every_format():
    """What comes after it is rendered once for all clients."""
    assert json.loads(schemas.STREAM_MESSAGE)["fields"][0] == {"name": "cursor", "type": "string"}
    assert event_pb2.StreamMessage.DESCRIPTOR.fields_by_name["cursor"].number == 1
