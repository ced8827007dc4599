"""What the table pages tell: the JSON of each, and what its HTML is made from."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from streams.kafka.batching import Source
from web.read.workers import RowAnswer


class Partition(msgspec.Struct, frozen=True):
    """An input partition of a table: it has a part of its own."""

    topic: str
    partition: int


class PartAnswer(msgspec.Struct, frozen=True):
    """A part of a table that is assigned to this worker."""

    topic: str
    partition: int
    phase: str
    """What is being done with its input partition, such as `running` or `restoring`."""
    rows: int | None
    """None while the part is not complete."""
    changelog_offset: int | None
    """The offset of the changelog up to which it is written."""
    changelog_lag: int | None
    """Offsets of changelogs still to be read: those of every table that is restored with it; None: not known yet."""
    committed: int | None
    """The offset of its input partition up to which everything is in it."""


class WorkerAnswer(msgspec.Struct, frozen=True):
    """Another worker, and the input partitions of a table that it has."""

    url: str
    partitions: list[Partition]


class TableAnswer(msgspec.Struct, frozen=True):
    """A table, as this worker sees it."""

    name: str
    help: str
    rows: int
    """Here, in complete parts; of RocksDB its own estimate."""
    state: str
    """`ready`, `restoring`, or `waiting` for anything else."""
    changelog: str
    """The changelog topic."""
    changelog_lag: int
    parts: list[PartAnswer]
    elsewhere: list[WorkerAnswer]


class TablesAnswer(msgspec.Struct, frozen=True):
    """Every table."""

    worker: str
    """The URL of this worker."""
    tables: list[TableAnswer]


class KeyEntry(msgspec.Struct, frozen=True):
    """A key on a page of keys."""

    key: str
    topic: str
    partition: int
    offset: int
    """The last offset of that input partition that was folded into the row."""


class KeysAnswer(msgspec.Struct, frozen=True):
    """A page of the keys that this worker has."""

    table: str
    prefix: str
    limit: int
    keys: list[KeyEntry]
    after: str | None
    """The cursor of the next page; null on the last one."""
    partitions: list[Partition]
    """The parts that were looked through."""
    elsewhere: list[WorkerAnswer]
    """Who has the others."""


class KeyAnswer(msgspec.Struct, frozen=True):
    """Every row of a key: one for each input partition that has made one."""

    table: str
    key: str
    rows: list[RowAnswer]


def partitions(sources: Iterable[Source]) -> list[Partition]:
    """These input partitions, in order."""
    return [Partition(*source) for source in sorted(sources)]
