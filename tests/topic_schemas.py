"""Schemas of a topic's own, for tests: orders, in each language."""

from __future__ import annotations

import json
from typing import Any

from streams import schemas
from streams.domain.envelope_schema import JSON_ENVELOPE

PROTO = """
syntax = "proto3";
package shop;
message Placed {
  optional string event_id = 1;
  optional string event_type = 2;
  optional int64 timestamp = 3;
  optional string user_id = 4;
  optional string device_id = 5;
  optional double value = 6;
  optional string source = 7;
  Order payload = 8;
}
message Order {
  optional string order = 1;
  optional int32 count = 2;
}
"""

JSON_SCHEMA: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {name: {"type": type_} for name, type_ in JSON_ENVELOPE.items() if name != "payload"}
    | {"payload": {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]}},
}


def typed_avro(*more: dict[str, Any]) -> str:
    """The envelope with an order for a payload, and more fields of it."""
    line = {
        "type": "record",
        "name": "Line",
        "fields": [{"name": "sku", "type": "string"}, {"name": "count", "type": "int"}],
    }
    return with_payload(
        {
            "type": "record",
            "name": "Order",
            "fields": [
                {"name": "order", "type": "string"},
                {"name": "lines", "type": {"type": "array", "items": line}},
                {"name": "note", "type": ["null", "string"], "default": None},
                *more,
            ],
        }
    )


def with_payload(type_: Any) -> str:
    """The envelope with a payload of this Avro type."""
    schema = json.loads(schemas.EVENT)
    schema["fields"][-1] = {"name": "payload", "type": type_}
    return json.dumps(schema | {"name": "Placed", "namespace": "shop"})
