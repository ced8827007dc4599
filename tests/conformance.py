"""Requests that schemathesis makes from the OpenAPI document, and what it needs to be told that JSON Schema cannot say."""

from __future__ import annotations

import re
from typing import Any
from unittest.mock import MagicMock

import schemathesis
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from streams import schemas
from streams.codecs import AvroCodec, event_to_json, event_to_protobuf, events_to_avro_container
from streams.domain.naming import TOPIC_PATTERN
from streams.kafka.batching import Source
from tables.browsing import Place, cursor
from tests.strategies import events
from tests.web_gateway import SCHEMA_ID
from web.describe.openapi import openapi_document
from web.publish.incoming import SCHEMA_ID as SCHEMA_ID_HEADER
from web.routes import routes

UNSAYABLE = ("createTopic", "evolveTopicSchema")
"""They take a schema as a text or a document: what is one, and has the envelope, JSON Schema cannot say."""
TELLING = ("publishBatch", "validateEvents")
"""A record that is wrong does not make the request so: the answer tells of it."""
EXISTING = {"topic": "iot", "table": "state", "key": "iot/d1", "partition": 0, "offset": 0}

schema_ids = {"event": SCHEMA_ID}
"""The id of the schema `Event`, in the registry of who is asked."""

# A live stream is no request with one answer: property 13 is about it.
api = schemathesis.openapi.from_dict(openapi_document(routes(MagicMock()))).exclude(operation_id="streamEvents")

schemathesis.openapi.format("cursor", st.text(max_size=40).map(lambda key: cursor(Place(key, Source("events.iot", 0)))))
schemathesis.openapi.media_type(
    "application/avro", events().map(lambda event: AvroCodec().encode_event(event, schema_ids["event"]))
)
schemathesis.openapi.media_type("application/x-protobuf", events().map(event_to_protobuf))
schemathesis.openapi.media_type(
    "application/x-ndjson", st.lists(events().map(event_to_json), min_size=1, max_size=3).map(b"\n".join)
)


def check(case: Any, url: str, headers: dict[str, str]) -> None:
    """Send a request and apply every check to the answer: raises a FailureGroup of all that fail."""
    operation_id = case.operation.definition.raw["operationId"]
    excluded = [
        *([positive_data_acceptance] if operation_id in UNSAYABLE else []),
        *([negative_data_rejection] if operation_id in TELLING else []),
    ]
    case.call_and_validate(base_url=url, headers=headers, excluded_checks=excluded)


@api.hook
def flatmap_path_parameters(_context: Any, path_parameters: dict[str, Any] | None) -> Any:
    """What exists, as often as not: else nearly every answer would be that nothing is there."""
    drawn = {
        name: st.sampled_from([value, EXISTING[name]]) if _is_valid(name, value) else st.just(value)
        for name, value in (path_parameters or {}).items()
    }
    return st.fixed_dictionaries(drawn)


@api.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Not with the header that says that there is no frame, where there is one."""
    return SCHEMA_ID_HEADER not in (case.headers or {})


@api.hook
def map_body(context: Any, body: Any) -> Any:
    """In the form of the path: the one media type has two, and numbers two meanings."""
    if isinstance(body, bytes) and context.operation.definition.raw["operationId"] == "publishBatch":
        # A batch in Avro is a file of events, not an event in wire format. What was broken stays so.
        return _as_file(body) if body.startswith(b"\0") else body
    # To JSON Schema 1.0 is an integer; to a decoder that knows types it is none.
    return _with_integers(body)


def _as_file(event: bytes) -> bytes:
    codec = AvroCodec()
    codec.add_schema(schema_ids["event"], schemas.EVENT)
    return events_to_avro_container([codec.decode_event(event)])


def _with_integers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_integers(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_with_integers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_valid(name: str, value: Any) -> bool:
    """Whether it may be replaced: what was made to be refused must stay."""
    return name in ("table", "key") or (name == "topic" and re.fullmatch(TOPIC_PATTERN, str(value)) is not None)
