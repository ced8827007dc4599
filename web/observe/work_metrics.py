"""What agents and tables are doing now, for Prometheus. Of this worker; sums over workers are the totals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from aioprometheus.collectors import Collector, Counter, Gauge, Registry

from streams.kafka.batching import Phase, Source, Table
from tables.here import Snapshot, TableView

Labels = dict[str, str]

OTHER: Final = "other"
_MAX_LETTER_LABELS: Final = 200
"""Reasons and topics of dead letters come from whoever writes them: what is beyond is counted together."""


def fill(registry: Registry, view: TableView, letters: Mapping[tuple[str, str], int]) -> None:
    """Put everything into a registry; `letters` are the dead letters by reason and source topic."""
    now = view.now()
    _agents(registry, now, view.counts())
    _tables(registry, now, view.tables())
    _set(
        Gauge("streams_dead_letters", "Dead letters in this worker's partitions of platform.dlq.", registry=registry),
        (({"reason": reason, "source_topic": topic}, count) for (reason, topic), count in bounded(letters).items()),
    )


def bounded(letters: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """The most frequent ones by name, and the others as one."""
    if len(letters) <= _MAX_LETTER_LABELS:
        return dict(letters)
    ordered = sorted(letters.items(), key=lambda item: (-item[1], item[0]))
    found = dict(ordered[:_MAX_LETTER_LABELS])
    rest = sum(count for _, count in ordered[_MAX_LETTER_LABELS:])
    found[OTHER, OTHER] = found.get((OTHER, OTHER), 0) + rest
    return found


def _agents(registry: Registry, now: Snapshot, counts: Mapping[Source, tuple[int, int]]) -> None:
    lag = Gauge("streams_agent_lag", "Offsets of a partition that are not worked on yet.", registry=registry)
    records = Counter("streams_agent_records_total", "Records worked on since it was assigned.", registry=registry)
    transactions = Counter(
        "streams_agent_transactions_total", "Transactions committed since it was assigned.", registry=registry
    )
    phase = Gauge("streams_agent_phase", "1 for the phase that a partition is in.", registry=registry)
    for status in now.statuses:
        topic, partition = status.source
        labels = {"pipeline": status.pipeline, "topic": topic, "partition": str(partition)}
        if status.lag is not None:
            lag.set_value(labels, status.lag)
        if (done := counts.get(status.source)) is not None:
            transactions.set_value(labels, done[0])
            records.set_value(labels, done[1])
        phase.set_value(labels | {"phase": status.phase.value}, 1)


def _tables(registry: Registry, now: Snapshot, tables: Sequence[Table[Any]]) -> None:
    _set(
        Gauge("streams_table_rows", "Rows in this worker's parts of a table.", registry=registry),
        (({"table": table.name}, sum(map(len, now.held(table).values()))) for table in tables),
    )
    _set(
        Gauge("streams_table_restoring", "Parts of a table that are being restored here.", registry=registry),
        (({"table": table.name}, sum(status.phase is Phase.RESTORING for status in now.of(table))) for table in tables),
    )


def _set(collector: Collector, values: Iterable[tuple[Labels, int]]) -> None:
    for labels, value in values:
        collector.set_value({name: _escaped(label) for name, label in labels.items()}, value)


def _escaped(label: str) -> str:
    """A label's value as the text format wants it, which aioprometheus leaves to its callers."""
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
