"""The tables of a worker, in memory: what of them is here, and who has the rest, is what a test says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streams.domain.aggregates import AggregatedEvent
from streams.domain.errors import PlatformError
from streams.domain.naming import AGGREGATES, DLQ
from streams.domain.state import KeyState, TypeTotal
from streams.kafka.batching import MemoryStore, PartitionStatus, Phase, Source, Table
from tables.dead_letters import LetterTotal
from tables.here import TableView
from tables.routing import Owners
from tables.windows import WindowRow, newest_key, window_key

OWN_URL = "http://this-worker.invalid:6066"


@dataclass
class MemoryTables:
    """Five tables without rows, in a worker that has no partition."""

    url: str = OWN_URL
    state: Table[KeyState] = field(default_factory=lambda: Table("state", KeyState, help="state by key"))
    totals: Table[TypeTotal] = field(default_factory=lambda: Table("totals", TypeTotal, help="events by type"))
    windows: Table[WindowRow] = field(default_factory=lambda: Table("windows", WindowRow, help="windows"))
    newest: Table[WindowRow] = field(default_factory=lambda: Table("newest-windows", WindowRow, help="newest windows"))
    letters: Table[LetterTotal] = field(default_factory=lambda: Table("dead-letters", LetterTotal, help="letters"))
    statuses: dict[Source, PartitionStatus] = field(default_factory=dict)
    counts: dict[Source, tuple[int, int]] = field(default_factory=dict)
    owners: Owners = field(default_factory=dict)
    partitions: Mapping[str, int] = field(default_factory=dict)
    waiting: str | None = None
    fails: PlatformError | None = None
    by_reason: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def tables(self) -> list[Table[Any]]:
        """All of them."""
        return [self.state, self.totals, self.windows, self.newest, self.letters]

    def assign(self, source: Source, phase: Phase = Phase.RUNNING, **values: Any) -> None:
        """Give a partition to this worker, with its parts unless they are being made."""
        known: dict[str, Any] = {
            "committed": 10,
            "end": 10,
            "readable": values.get("end", 10),
            "still_s": 0.0,
            "restoring": None,
            "error": None,
        }
        pipeline = {DLQ: "dead-letters", AGGREGATES: "windows"}.get(source.topic, "state")
        self.statuses[source] = PartitionStatus(source, pipeline, phase, **(known | values))
        self.counts.setdefault(source, (0, 0))
        of: dict[str, list[Table[Any]]] = {
            "dead-letters": [self.letters], "windows": [self.windows, self.newest], "state": [self.state, self.totals],
        }  # fmt: skip
        for table in of[pipeline]:
            if phase in (Phase.OPENING, Phase.RESTORING):
                table.parts.pop(source, None)
            else:
                table.parts.setdefault(source, MemoryStore())

    def put(self, partition: int, key: str, offset: int = 0, topic: str = "iot") -> KeyState:
        """A row of the table of state."""
        row = KeyState(topic, key, 1, 2.5, 2.5, 2.5, 2.5, 0, 0, "id", offset)
        self.state.parts[Source(f"events.{topic}", partition)].apply({f"{topic}/{key}": row}, offset + 1)
        return row

    def put_window(self, partition: int, result: AggregatedEvent) -> None:
        """A result, as the agent of windows keeps it; the last one of a kind is its newest."""
        source, row = Source(AGGREGATES, partition), WindowRow(result, 0)
        self.windows.parts[source].apply({window_key(*result.identity): row}, None)
        self.newest.parts[source].apply({newest_key(result.topic, result.event_type, result.window): row}, None)

    def view(self) -> TableView:
        """As the handlers see it."""
        return TableView(
            url=self.url,
            tables=lambda: self.tables,
            changelog=lambda table: f"test-{table.name}-changelog",
            status=lambda: [status for _, status in sorted(self.statuses.items())],
            counts=lambda: self.counts,
            waiting=lambda: self.waiting,
            owners=lambda: self.owners,
            partitions=self._count,
        )

    async def _count(self) -> Mapping[str, int]:
        if self.fails is not None:
            raise self.fails
        return self.partitions
