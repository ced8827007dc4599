"""Property 5: a table is the fold of its input's log up to the committed offset, however it came to be.

Restored from a changelog, in part read from disk, after a kill between the commit and the disk, from a changelog that
was compacted, and after the group's offsets were set back: each record is folded in once.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from streams.domain.state import KeyState
from streams.kafka.batching import MemoryStore, Source, Table
from tests.batching_kafka import GROUP, Machine, Step, Worker, a_source, away, changelog_rows, folded, moments, some

Disk = dict[Source, list[tuple[dict[str, KeyState], int | None]]]
"""What each part has been written as, after each write."""


class DiskStore(MemoryStore[KeyState]):
    """Stays when it is closed, as RocksDB does."""

    def __init__(self, disk: Disk, source: Source) -> None:
        super().__init__()
        self._versions = disk.setdefault(source, [({}, None)])
        rows, self.position = self._versions[-1]
        self._rows = dict(rows)

    def apply(self, changes: Any, position: int | None) -> None:
        super().apply(changes, position)
        self._versions.append((dict(self._rows), self.position))

    def reset(self) -> None:
        super().reset()
        self._versions[:] = [({}, None)]

    def close(self) -> None:
        pass


class Tables(Machine):
    def __init__(self) -> None:
        super().__init__()
        self.disk: Disk = {}
        self.highest: dict[Source, int] = {}
        self.restart()

    def new_worker(self) -> Worker:
        def new_store(_: Table[Any], source: Source) -> DiskStore:
            return DiskStore(self.disk, source)

        async def make() -> Worker:
            return Worker(self.kafka, new_store=new_store)

        worker: Worker = self.do(make())
        self.workers.append(worker)
        return worker

    def restart(self) -> None:
        self.new_worker()
        self.rebalance([0, 0, 0])

    @rule(numbers=some, ms=moments)
    def the_worker_stops_and_comes_again(self, numbers: list[int], ms: int) -> None:
        self.in_the_midst(numbers, ms)
        self.do(self.workers.pop().stop())
        self.restart()

    @rule(numbers=some, ms=moments, lost=st.integers(0, 4))
    def the_machine_fails_and_what_was_written_last_is_lost(self, numbers: list[int], ms: int, lost: int) -> None:
        self.in_the_midst(numbers, ms)
        self.do(self.workers.pop().kill())
        for versions in self.disk.values():
            del versions[max(1, len(versions) - lost) :]
        self.restart()

    @rule(step=st.sampled_from(["commit", "committed", "offsets", "start", "read"]), numbers=some, ms=moments)
    def a_step_fails_at_work(self, step: Step, numbers: list[int], ms: int) -> None:
        self.in_the_midst(numbers, ms)
        self.kafka.fail(step, away())

    @rule()
    def the_disk_is_lost(self) -> None:
        self.do(self.workers.pop().kill())
        self.disk.clear()
        self.restart()

    @rule(source=a_source, offset=st.integers(0, 30))
    def the_groups_offset_is_set_back(self, source: Source, offset: int) -> None:
        self.do(self.workers.pop().stop())
        self.note()
        self.kafka.offsets[source] = min(offset, self.kafka.offsets.get(source, 0))
        self.restart()

    @rule()
    def the_changelog_is_compacted(self) -> None:
        for partition in (0, 1):
            log = self.kafka.logs[f"{GROUP}-rows-changelog", partition]
            newest = {entry.key: entry.offset for entry in log.committed()}
            for entry in log.committed():
                if newest[entry.key] != entry.offset:
                    entry.status = "hole"

    def note(self) -> None:
        for source in self.sources:
            self.highest[source] = max(self.highest.get(source, 0), self.kafka.offsets.get(source, 0))

    def all_is_well(self) -> None:
        self.note()
        for source in self.sources:
            log, highest = self.kafka.logs[source], self.highest[source]
            assert changelog_rows(self.kafka, source) == folded(log, highest)
            for worker in self.workers:
                work = worker.works.get(source)
                if work is not None and work.is_complete and work._commit is None:
                    assert worker.snapshot(source) == folded(log, max(highest, work.committed or 0))


Tables.TestCase.settings = settings(max_examples=100, stateful_step_count=25)
TestTables = Tables.TestCase
