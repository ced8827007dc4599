"""Which ids are known to have been seen: against a list of everything that came."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streams.domain.duplicates import ID_BYTES, IdBlock, SeenIds, id_bytes, split

WINDOW_MS = 1_000
MAX_IDS = 12


def id_of(number: int) -> bytes:
    return number.to_bytes(ID_BYTES, "big")


class Seen(RuleBasedStateMachine):
    """As the ingest agent does it: overdue blocks go in the transaction that brings new ids; known ids are not new."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = SeenIds(WINDOW_MS, MAX_IDS)
        self.blocks: dict[str, IdBlock] = {}
        """What the table holds: what a restarted worker has."""
        self.came: list[tuple[int, int]] = []
        """Each new id, and when it came."""
        self.now = 0

    @rule(ms=st.integers(0, 700))
    def time_passes(self, ms):
        self.now += ms

    @rule(numbers=st.lists(st.integers(0, 40), max_size=6))
    def ids_come(self, numbers):
        new = [n for n in dict.fromkeys(numbers) if id_of(n) not in self.seen]
        if not new:
            return
        for name in self.seen.overdue(self.now, len(new)):
            self.seen.remove(name)
            del self.blocks[name]
        name = f"{len(self.came):020d}"
        block = self.blocks[name] = IdBlock(len(self.came), self.now, b"".join(map(id_of, new)))
        self.seen.put(name, block)
        self.came += [(n, self.now) for n in new]

    @rule()
    def the_worker_restarts(self):
        self.seen = SeenIds(WINDOW_MS, MAX_IDS)
        for name, block in self.blocks.items():
            self.seen.put(name, block)

    @rule()
    def everything_is_forgotten(self):
        self.seen.clear()
        self.blocks.clear()
        self.came.clear()

    @invariant()
    def what_came_lately_is_known_unless_too_much_came_after_it(self):
        newest_first = self.came[::-1]
        for place, (number, at) in enumerate(newest_first):
            # A block goes as a whole, so the limit is kept to within one block: six ids.
            if self.now - at <= WINDOW_MS and place < MAX_IDS - 6:
                assert id_of(number) in self.seen

    @invariant()
    def there_are_never_more_than_allowed_and_none_that_never_came(self):
        assert len(self.seen) <= MAX_IDS
        came = {number for number, _ in self.came}
        assert all((id_of(number) in self.seen) <= (number in came) for number in range(41))
        assert len(self.seen) == sum(len(block.ids) for block in self.blocks.values()) // ID_BYTES

    @invariant()
    def blocks_that_are_overdue_are_the_oldest_ones(self):
        names = self.seen.overdue(self.now, 1)
        assert names == sorted(self.blocks)[: len(names)]
        old = [name for name, block in self.blocks.items() if self.now - block.seen_at > WINDOW_MS]
        assert set(old) <= set(names)


Seen.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestSeen = Seen.TestCase


def test_an_id_that_is_in_two_blocks_is_known_as_long_as_the_later_one():
    seen = SeenIds(WINDOW_MS, MAX_IDS)
    seen.put("1", IdBlock(1, 0, id_of(7) + id_of(8)))
    seen.put("2", IdBlock(2, 0, id_of(7)))
    seen.remove("1")
    assert (id_of(7) in seen, id_of(8) in seen, len(seen)) == (True, False, 1)


def test_a_block_that_is_put_again_is_replaced():
    seen = SeenIds(WINDOW_MS, MAX_IDS)
    seen.put("1", IdBlock(1, 0, id_of(7)))
    seen.put("1", IdBlock(1, 0, id_of(8)))
    assert (id_of(7) in seen, id_of(8) in seen) == (False, True)


def test_an_id_is_the_same_in_every_spelling_of_it():
    text = "00000000-0000-4000-8000-00000000000a"
    assert id_bytes(text) == id_bytes(text.upper()) == uuid.UUID(text).bytes
    assert list(split(id_bytes(text) * 3)) == [uuid.UUID(text).bytes] * 3


@pytest.mark.parametrize(("window", "most"), [(0, 1), (1, 0)])
def test_limits_under_which_nothing_would_be_known_are_refused(window, most):
    with pytest.raises(ValueError, match="1 or more"):
        SeenIds(window, most)
