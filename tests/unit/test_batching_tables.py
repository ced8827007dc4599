"""A part of a table, as one transaction sees it; and the keys by which parts share a changelog."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.state import TypeTotal
from streams.kafka.batching import Changes, MemoryStore, Source, Table, changelog_topic
from streams.kafka.batching.tables import changelog_key, parse_changelog_key

topics = st.from_regex(r"[a-zA-Z0-9._-]{1,40}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8")) | st.sampled_from(["|", "a|b", "||", "é|\x00", "\U0001f600"])


def row(count: int) -> TypeTotal:
    return TypeTotal("iot", "a", count, 0, count)


@given(topics, texts)
def test_a_changelogs_key_says_the_topic_and_the_key_whatever_the_key(topic, key):
    assert parse_changelog_key(changelog_key(topic, key)) == (topic, key)


@given(st.lists(st.tuples(topics, texts), unique=True, min_size=2))
def test_no_two_rows_share_a_changelog_key(places):
    assert len({changelog_key(topic, key) for topic, key in places}) == len(places)


def test_a_key_that_is_not_ours_is_refused():
    with pytest.raises(ValueError, match="no key of a table"):
        parse_changelog_key(b"something")


def test_a_changelog_is_named_as_fausts_are():
    assert changelog_topic("streams", "state") == "streams-state-changelog"


keys = st.sampled_from("abcd")


@given(
    st.dictionaries(keys, st.integers(0, 9)),
    st.lists(st.tuples(st.sampled_from(["put", "remove", "commit", "abort"]), keys, st.integers(0, 9))),
)
def test_a_transaction_sees_its_own_changes_and_others_see_them_with_the_commit(before, steps):
    """A dict beside it, with a copy for each transaction."""
    store = MemoryStore[TypeTotal]()
    store.apply({key: row(n) for key, n in before.items()}, 3)
    committed = {key: row(n) for key, n in before.items()}
    changes, seen = Changes(store), dict(committed)
    for what, key, number in steps:
        if what == "put":
            changes.put(key, row(number))
            seen[key] = row(number)
        elif what == "remove":
            changes.remove(key)
            seen.pop(key, None)
        else:
            if what == "commit":
                store.apply(changes.changed, None)
                committed = seen
            changes, seen = Changes(store), dict(committed)
        assert {k: changes.get(k) for k in "abcd"} == {k: seen.get(k) for k in "abcd"}
        assert dict(changes.items()) == seen
        assert len(list(changes.items())) == len(seen)
        assert dict(store.items()) == committed
    assert store.position == 3


def test_a_table_is_all_of_its_parts_that_are_here():
    table = Table("totals", TypeTotal)
    a, b = Source("in", 0), Source("in", 1)
    for number, source in enumerate((a, b)):
        store = MemoryStore[TypeTotal]()
        store.apply({"k": row(number), f"only {number}": row(9)}, None)
        table.parts[source] = store
    assert table.get(b, "k") == row(1)
    assert table.get(Source("other", 0), "k") is None
    assert list(table.find("k")) == [(a, row(0)), (b, row(1))]
    assert len(table) == len(list(table.items())) == 4
    del table.parts[a]
    assert list(table.find("only 0")) == []


def test_parts_may_leave_while_a_table_is_read():
    """At a rebalance, between two steps of who reads."""
    table = Table("totals", TypeTotal)
    for number in range(3):
        table.parts[Source("in", number)] = MemoryStore()
        table.parts[Source("in", number)].apply({"k": row(number)}, None)
    told = []
    for source, _, _ in table.items():
        told.append(source)
        table.parts.clear()
    assert len(told) == 3


@given(st.builds(TypeTotal, texts, texts, st.integers(0, 2**60), st.integers(-(2**60), 2**60), st.integers(0, 2**60)))
def test_a_row_is_the_same_after_its_way_through_the_changelog(made):
    table = Table("totals", TypeTotal)
    assert table.decode(table.encode(made)) == made
