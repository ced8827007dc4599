"""The JSON Schema of an event as clients send it, made from the types that validate it; and that of a CloudEvent."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streams.domain.validation import JsonFields
from web.describe.schemas import Schema, portable
from web.parameters import TIME_NUMBER, TIME_TEXT

_DESCRIPTIONS: Final = {
    "event_type": "what happened, such as `sensor.reading`",
    "timestamp": "event time: RFC 3339 with a time zone, or epoch milliseconds; not far ahead of the server's clock",
    "event_id": "a UUID, the identity of the event; made by the server when it is absent",
    "user_id": "the partition key; this or `device_id` is required",
    "device_id": "the partition key where there is no `user_id`",
    "value": "what windows aggregate",
    "source": "who sent it",
    "payload": "a JSON object of the client's own, kept as it was sent",
}

EXAMPLE: Final = {
    "event_type": "sensor.reading",
    "timestamp": "2025-01-01T12:00:00Z",
    "device_id": "d-1",
    "value": 21.5,
    "payload": {"unit": "C"},
}


CLOUDEVENT_EXAMPLE: Final = {
    "specversion": "1.0",
    "id": "4711",
    "source": "/plant/7",
    "type": "sensor.reading",
    "time": "2025-01-01T12:00:00Z",
    "subject": "d-1",
    "value": 21.5,
    "data": {"unit": "C"},
}


def _event_schema() -> Schema:
    properties: dict[str, Any] = {}
    for field in msgspec.structs.fields(JsonFields):
        properties[field.encode_name] = portable(msgspec.json.schema(field.type)) | {
            "description": _DESCRIPTIONS[field.encode_name]
        }
    properties["timestamp"]["anyOf"] = [TIME_NUMBER, TIME_TEXT]
    properties["payload"]["type"] = "object"
    return {
        "type": "object",
        "properties": properties,
        "required": [field.encode_name for field in msgspec.structs.fields(JsonFields) if field.required],
        "anyOf": [{"required": [key], "properties": {key: {"type": "string"}}} for key in ("user_id", "device_id")],
        "additionalProperties": False,
    }


EVENT: Final = _event_schema()
"""An event in JSON."""


def _cloudevent_schema() -> Schema:
    own = EVENT["properties"]
    key = {"type": "string", "minLength": 1, "maxLength": 256}
    return {
        "type": "object",
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {
                "type": "string",
                "minLength": 1,
                "description": "a UUID is the `event_id`; else one is made of it and `source`",
            },
            "source": {**own["source"]["anyOf"][0], "minLength": 1, "description": "the event's `source`"},
            "type": {**own["event_type"], "description": "the `event_type`"},
            "time": {**TIME_TEXT, "description": "the `timestamp`; the time of arrival where it is absent"},
            "userid": {**key, "description": "the `user_id`"},
            "deviceid": {**key, "description": "the `device_id`"},
            "partitionkey": {**key, "description": "the `device_id` where neither is there"},
            "subject": {**key, "description": "the same, in the last place"},
            "value": {"type": "number", "description": own["value"]["description"]},
            "data": {"type": "object", "description": "the `payload`"},
        },
        "required": ["specversion", "id", "source", "type"],
        "anyOf": [{"required": [name]} for name in ("userid", "deviceid", "partitionkey", "subject")],
    }


CLOUDEVENT: Final = _cloudevent_schema()
"""A CloudEvent in JSON (structured mode); attributes that are not here are left out."""
