"""Rows on disk: the same as in memory, whatever is done with them, and still there after a kill."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streams.domain.state import TypeTotal
from streams.kafka.batching import MemoryStore, Source, Table
from streams.kafka.batching.rocks import MAX_AGE_S, RocksStore, StoreError

ROOT = Path(__file__).parents[2]
TABLE = Table("totals", TypeTotal)
SOURCE = Source("events.iot", 3)
# Among them what RocksDB's own keys of ours might collide with.
keys = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["\x00position", "position", "\xff", ""])
rows = st.builds(
    TypeTotal, st.just("iot"), st.text(max_size=5), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)
)


def row(count: int) -> TypeTotal:
    return TypeTotal("iot", "a", count, 0, count)


class OnDisk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.model = MemoryStore[TypeTotal]()
        self.store = self.opened()

    def opened(self) -> RocksStore[TypeTotal]:
        return RocksStore(Path(self.directory.name), TABLE, SOURCE)

    @rule(changes=st.dictionaries(keys, st.none() | rows, max_size=6), position=st.none() | st.integers(0, 10**12))
    def apply(self, changes, position):
        for store in (self.store, self.model):
            store.apply(changes, position)

    @rule()
    def close_and_open(self):
        self.store.close()
        self.store = self.opened()

    @rule()
    def reset(self):
        self.store.reset()
        self.model.reset()

    @rule(key=keys)
    def get(self, key):
        assert self.store.get(key) == self.model.get(key)

    @rule(start=keys)
    def keys_from_somewhere_on(self, start):
        assert list(self.store.keys(start)) == sorted(self.model.keys(start))

    @invariant()
    def both_hold_the_same(self):
        assert list(self.store.keys()) == sorted(self.model.keys())
        assert dict(self.store.items()) == dict(self.model.items())
        assert self.store.position == self.model.position

    def teardown(self):
        self.store.close()
        self.directory.cleanup()


OnDisk.TestCase.settings = settings(max_examples=15, stateful_step_count=15)
TestOnDisk = OnDisk.TestCase


def test_rows_and_their_position_survive_a_kill(tmp_path):
    program = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from tests.unit.test_rocks_store import SOURCE, TABLE, row
        from streams.kafka.batching.rocks import RocksStore
        store = RocksStore(Path({str(tmp_path)!r}), TABLE, SOURCE)
        for n in range(500):
            store.apply({{f"k{{n % 100}}": row(n), "gone": None}}, n + 1)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -9
    store = RocksStore(tmp_path, TABLE, SOURCE)
    assert dict(store.items()) == {f"k{n % 100}": row(n) for n in range(400, 500)}
    assert store.position == 500
    store.close()


def test_what_was_last_written_long_ago_is_read_anew(tmp_path, monkeypatch):
    store = RocksStore(tmp_path, TABLE, SOURCE)
    store.apply({"a": row(1)}, 7)
    store.close()
    now = time.time()
    monkeypatch.setattr("streams.kafka.batching.rocks.time.time", lambda: now + MAX_AGE_S - 60)
    store = RocksStore(tmp_path, TABLE, SOURCE)
    assert (store.position, store.get("a")) == (7, row(1))
    store.close()
    monkeypatch.setattr("streams.kafka.batching.rocks.time.time", lambda: now + MAX_AGE_S + 60)
    store = RocksStore(tmp_path, TABLE, SOURCE)
    assert (store.position, store.get("a")) == (None, None)
    store.close()


def test_a_directory_that_another_has_is_named_with_what_to_do(tmp_path):
    first = RocksStore(tmp_path, TABLE, SOURCE)
    with pytest.raises(StoreError) as refused:
        RocksStore(tmp_path, TABLE, SOURCE)
    assert str(tmp_path / "totals" / "events.iot-3") in str(refused.value)
    assert "a data directory of its own" in str(refused.value)
    first.close()
    RocksStore(tmp_path, TABLE, SOURCE).close()


def test_what_cannot_be_a_directory_is_named(tmp_path):
    (tmp_path / "totals").write_text("a file")
    with pytest.raises(StoreError, match="totals"):
        RocksStore(tmp_path, TABLE, SOURCE)


@pytest.mark.parametrize("kind", ["memory", "rocksdb"])
def test_rows_may_change_while_they_are_told(tmp_path, kind):
    store = MemoryStore[TypeTotal]() if kind == "memory" else RocksStore(tmp_path, TABLE, SOURCE)
    before = {f"k{n}": row(n) for n in range(50)}
    store.apply(before, 50)
    told = {}
    for number, (key, value) in enumerate(store.items()):
        store.apply({f"k{49 - number}": None, f"new{number}": row(number)}, None)
        told[key] = value
    assert told == before
    assert dict(store.items()) == {f"new{number}": row(number) for number in range(50)}
    store.close()


def test_parts_of_tables_and_partitions_do_not_mix(tmp_path):
    places = [(Table("a", TypeTotal), Source("in", 1)), (Table("a", TypeTotal), Source("in-1", 1)), (TABLE, SOURCE)]
    stores = [RocksStore(tmp_path, table, source) for table, source in places]
    for number, store in enumerate(stores):
        store.apply({"k": row(number)}, number)
    assert [store.get("k") for store in stores] == [row(0), row(1), row(2)]
    for store in stores:
        store.close()
