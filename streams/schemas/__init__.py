"""The wire contracts: Avro (`.avsc`, made from `models.py`) and Protobuf (`event.proto`).

Here only the texts are read, so that the Flink job needs nothing else.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final


def _read(name: str) -> str:
    return files(__name__).joinpath(f"{name}.avsc").read_text()


EVENT: Final = _read("event")
AGGREGATED_EVENT: Final = _read("aggregated_event")
DLQ_MESSAGE: Final = _read("dlq_message")
STREAM_MESSAGE: Final = _read("stream_message")
