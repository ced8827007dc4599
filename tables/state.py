"""Per-key state of every event topic: one row for each topic and key, partitioned as the events are."""

from __future__ import annotations

from typing import Final

from faust.types import TableT

from streams.domain.state import KeyState
from streams.faust_app import app

state: Final[TableT[str, KeyState]] = app.Table(
    "state", partitions=app.platform.settings.kafka_partitions, help="count, last value and last event time by key"
)
