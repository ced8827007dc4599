"""The tables of a worker, in memory: what of them is here, and who has the rest, is what a test says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streams.domain.errors import PlatformError
from streams.domain.state import KeyState, TypeTotal
from streams.kafka.batching import MemoryStore, PartitionStatus, Phase, Source, Table
from tables.dead_letters import LetterTotal
from tables.here import TableView
from tables.routing import Owners

OWN_URL = "http://this-worker.invalid:6066"


@dataclass
class MemoryTables:
    """Three tables without rows, in a worker that has no partition."""

    url: str = OWN_URL
    state: Table[KeyState] = field(default_factory=lambda: Table("state", KeyState, help="state by key"))
    totals: Table[TypeTotal] = field(default_factory=lambda: Table("totals", TypeTotal, help="events by type"))
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
        return [self.state, self.totals, self.letters]

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
        pipeline = "dead-letters" if source.topic == "platform.dlq" else "state"
        self.statuses[source] = PartitionStatus(source, pipeline, phase, **(known | values))
        self.counts.setdefault(source, (0, 0))
        tables: list[Table[Any]] = [self.letters] if pipeline == "dead-letters" else [self.state, self.totals]
        for table in tables:
            if phase in (Phase.OPENING, Phase.RESTORING):
                table.parts.pop(source, None)
            else:
                table.parts.setdefault(source, MemoryStore())

    def put(self, partition: int, key: str, offset: int = 0, topic: str = "iot") -> KeyState:
        """A row of the table of state."""
        row = KeyState(topic, key, 1, 2.5, 2.5, 2.5, 2.5, 0, 0, "id", offset)
        self.state.parts[Source(f"events.{topic}", partition)].apply({f"{topic}/{key}": row}, offset + 1)
        return row

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
