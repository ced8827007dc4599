"""Who is asked for a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streams.worker
from streams.domain.partitioning import partition_for
from streams.kafka.batching import Source
from tables.routing import INPUTS, Inputs, by_owner, count_partitions, elsewhere, is_worker_url, plan

ME, YOU, THEY = "http://me:1", "http://you:2", "https://they:3/base"
OWNERS = {
    ME: {"events.iot": [0], "platform.dlq": [0, 1]},
    YOU: {"events.iot": [1, 3], "events.web": [0]},
    THEY: {"events.iot": [2], "platform.dlq": []},
}


def iot(*numbers):
    return {Source("events.iot", number) for number in numbers}


@given(st.text(min_size=1).filter(lambda key: key.isprintable()), st.integers(1, 50))
def test_the_partition_of_a_row_of_state_is_that_of_its_events(key, count):
    first, everywhere = plan(INPUTS["state"], f"iot/{key}", {"events.iot": count})
    assert first == Source("events.iot", partition_for(key.encode(), count))
    assert everywhere == iot(*range(count))


@pytest.mark.parametrize(
    ("table", "key", "expected"),
    [
        ("totals", "iot/sensor.reading", iot(0, 1)),
        ("totals", "nowhere/x", set()),
        ("totals", "no-slash", set()),
        ("state", "no-slash", set()),
        ("windows", "iot/a/tumbling-1m/0", {Source("platform.aggregates", 0)}),
        ("newest-windows", "anything", {Source("platform.aggregates", 0)}),
        ("dead-letters", "/", {Source("platform.dlq", 0)}),
        ("seen-ids", "0", set()),
    ],
)
def test_a_row_without_a_partition_of_its_own_may_be_in_any_of_its_topic(table, key, expected):
    counts = {"events.iot": 2, "platform.aggregates": 1, "platform.dlq": 1}
    assert plan(INPUTS[table], key, counts) == (None, expected)


def test_partitions_are_asked_of_who_has_them():
    assert by_owner(iot(1, 2, 3, 4), OWNERS, ME) == ({YOU: iot(1, 3), THEY: iot(2)}, iot(4))


def test_what_the_router_says_is_mine_is_nobody_s_when_i_do_not_have_it():
    assert by_owner(iot(0, 1), OWNERS, ME) == ({YOU: iot(1)}, iot(0))


@pytest.mark.parametrize(
    "url", ["ftp://x", "javascript:alert(1)", "//host", "http://", "http://u:p@host", "http://h:x", "http://h/?a=b", ""]
)
def test_nobody_is_asked_at_an_address_that_no_worker_has(url):
    assert not is_worker_url(url)
    assert by_owner(iot(0), {url: {"events.iot": [0]}}, ME) == ({}, iot(0))
    assert elsewhere(INPUTS["state"], {url: {"events.iot": [0]}}, ME) == {}


def test_the_other_workers_of_a_table_are_told_with_their_partitions():
    assert elsewhere(INPUTS["state"], OWNERS, ME) == {
        YOU: [Source("events.iot", 1), Source("events.iot", 3), Source("events.web", 0)],
        THEY: [Source("events.iot", 2)],
    }
    assert elsewhere(INPUTS["dead-letters"], OWNERS, ME) == {}


def test_a_topic_has_as_many_partitions_as_kafka_or_a_worker_says():
    assert count_partitions({"events.iot": 2, "x": 1}, OWNERS) == {
        "events.iot": 4,
        "events.web": 1,
        "platform.dlq": 2,
        "x": 1,
    }


def test_the_inputs_of_each_table_are_those_of_its_agent():
    topics = ["events.iot", "events.x", "platform.ingress", "platform.dlq", "platform.aggregates", "platform.late"]
    pipelines = streams.worker.app.engine._pipelines
    assert {pipeline.name for pipeline in pipelines} >= {"state", "windows", "dead-letters", "ingest"}
    for pipeline in pipelines:
        for table in pipeline.tables:
            inputs = INPUTS[table.name]
            assert [inputs.takes(t) for t in topics] == [pipeline.takes(t) for t in topics], table.name
    assert Inputs("platform.ingress") == INPUTS["seen-ids"]
