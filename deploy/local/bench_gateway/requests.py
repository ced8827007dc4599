"""What is sent: events of 226 bytes of JSON, each with an id of its own, and requests made of them beforehand."""

from __future__ import annotations

from typing import Final

import orjson

TOPIC: Final = "bench"
"""The API's name of the one event topic."""
CONNECTIONS: Final = 64
BATCH: Final = 500
BATCH_CONNECTIONS: Final = 4
DEVICES: Final = 1_000
BODY_BYTES: Final = 226

ID_MARK: Final = "IIIIIIII-0000-4000-8000-IIIIIIIIIIII"
"""Stands in a template for an event id."""
DEVICE_MARK: Final = "device-DDDDDD"
"""Stands in a template for a key."""


def event_id(number: int, run: str) -> str:
    """The id of an event; `run` is 8 hexadecimal digits that no other run has."""
    return f"{run}-0000-4000-8000-{number:012x}"


def number_of(event_id_text: bytes) -> int:
    """The number in an id."""
    return int(event_id_text[24:36], 16)


def event(number: int, run: str, timestamp_ms: int) -> dict[str, object]:
    """An event as a client sends it."""
    return _event(event_id(number, run), f"device-{number % DEVICES:06d}", timestamp_ms)


def template(timestamp_ms: int) -> bytes:
    """The JSON of an event, with marks where its id and its key belong."""
    return orjson.dumps(_event(ID_MARK, DEVICE_MARK, timestamp_ms))


def head(path: str, token: str, content_type: str, length: int, port: int) -> bytes:
    """The head of a POST of a body of this length."""
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Authorization: Bearer {token}",
        f"Content-Type: {content_type}",
        f"Content-Length: {length}",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def _event(id_: str, device: str, timestamp_ms: int) -> dict[str, object]:
    return {
        "event_id": id_,
        "event_type": "sensor.reading",
        "timestamp": timestamp_ms,
        "device_id": device,
        "value": 21.34,
        "payload": {"unit": "C", "site": "h7", "firmware": "4.1", "battery": 87, "tag": "lab"},
    }
