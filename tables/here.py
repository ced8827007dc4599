"""What this worker has of each table, and who has the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streams.faust_app import StreamsApp
from streams.kafka.batching import TRUSTED, PartitionStatus, Source, Store, Table
from tables.routing import INPUTS, Inputs, Owners


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How the partitions of this worker stand, asked once for all tables."""

    waiting: str | None
    """Why it is not known which partitions are ours; None where it is."""
    statuses: Sequence[PartitionStatus]

    def of(self, table: Table[Any]) -> list[PartitionStatus]:
        """The input partitions of a table that are assigned to this worker."""
        takes = inputs_of(table).takes
        return [status for status in self.statuses if takes(status.source.topic)]

    def held(self, table: Table[Any]) -> dict[Source, Store[Any]]:
        """The parts that are here, complete, and nobody else's by now."""
        parts = table.parts
        return {
            status.source: parts[status.source]
            for status in self.statuses
            if status.source in parts and is_trusted(status)
        }

    def not_ready(self, table: Table[Any]) -> str | None:
        """Why the parts of a table that are assigned to this worker cannot all be read; None where they can."""
        if self.waiting is not None:
            return self.waiting
        held = self.held(table)
        return next(
            (f"{status.source} is {status.phase}" for status in self.of(table) if status.source not in held), None
        )


@dataclass(frozen=True, slots=True)
class TableView:
    """The tables of one worker, to be looked at."""

    url: str
    """By which other workers reach this one."""
    tables: Callable[[], Sequence[Table[Any]]]
    changelog: Callable[[Table[Any]], str]
    """The changelog topic of a table."""
    status: Callable[[], Sequence[PartitionStatus]]
    counts: Callable[[], Mapping[Source, tuple[int, int]]]
    """Transactions and records of each partition since it was assigned."""
    waiting: Callable[[], str | None]
    """Why it is not known which partitions are ours; None where it is."""
    owners: Callable[[], Owners]
    """Who has which partitions, as of the last rebalance."""
    partitions: Callable[[], Awaitable[Mapping[str, int]]]
    """The number of partitions of each topic in Kafka. Raises KafkaUnavailableError or KafkaAccessError."""

    def table(self, name: str) -> Table[Any] | None:
        """The table of this name."""
        return next((table for table in self.tables() if table.name == name), None)

    def now(self) -> Snapshot:
        """How things stand; true until the event loop goes on."""
        return Snapshot(self.waiting(), self.status())


def inputs_of(table: Table[Any]) -> Inputs:
    """Which input partitions a table has parts for."""
    return INPUTS[table.name]


def is_trusted(status: PartitionStatus) -> bool:
    """Whether the parts of a partition, where they are complete, can be read."""
    return status.phase in TRUSTED


def table_view(app: StreamsApp) -> TableView:
    """The tables of an app."""
    engine = app.engine

    def status() -> Sequence[PartitionStatus]:
        # Before anything is assigned, there may be no consumer to ask.
        return engine.status() if engine.counts() else ()

    def waiting() -> str | None:
        # `rebalancing` spans each change of the assignment.
        if app.rebalancing:
            return "partitions are being reassigned"
        return None if engine.counts() else engine.unready()

    return TableView(
        url=str(app.conf.canonical_url),
        tables=lambda: engine.tables,
        changelog=engine.changelog,
        status=status,
        counts=engine.counts,
        waiting=waiting,
        owners=app.router.external_topics_metadata,
        partitions=app.platform.admin.topics,
    )
