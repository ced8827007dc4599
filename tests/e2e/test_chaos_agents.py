"""A short run of `make chaos-agents`; and that its judge sees each kind of damage, since one that cannot fail proves nothing."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable

import pytest

from tests.chaos.faults import Kind, short
from tests.chaos.judge import Topics, judge
from tests.chaos.report import show
from tests.chaos.run import Chaos, Outcome
from tests.chaos.worker_faults import Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEED = 7
EVENTS = 30_000


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> Outcome:
    directory = tmp_path_factory.mktemp("chaos")
    chaos = Chaos(directory, seed=SEED, events=EVENTS, plan=short(SEED), tell=lambda _: None)
    return asyncio.run(chaos.run())


def test_each_event_ends_once_and_the_tables_are_the_truth_whatever_is_killed(outcome):
    assert outcome.is_sound, show(outcome)
    assert (outcome.verdict.records, outcome.verdict.lost, outcome.verdict.doubled) == (EVENTS, 0, 0)


def test_there_was_something_to_survive(outcome):
    assert {Kind.KILL, Kind.FREEZE, Kind.JOIN, Kind.LEAVE} <= set(outcome.faults)
    # Which of the others had their turn depends on how many transactions there were: on how fast the machine is.
    assert len(set(Fault) & set(outcome.faults)) >= 4, outcome.faults
    assert outcome.fencings > 0
    assert outcome.restored_records > 0
    assert outcome.aborted > 0
    assert outcome.verdict.letters["internal"] == outcome.verdict.letters["state: internal"] == 3


def lose_an_event(topics: Topics) -> None:
    del topics.events[len(topics.events) // 2]


def lose_a_dead_letter(topics: Topics) -> None:
    del topics.letters[-1]


def double_an_event(topics: Topics) -> None:
    last = topics.events[-1]
    topics.events.append(last._replace(offset=last.offset + 1))


def double_a_dead_letter(topics: Topics) -> None:
    topics.letters.append(topics.letters[-1]._replace(offset=10**9))


def take_an_aborted_record_for_real(topics: Topics) -> None:
    topics.events[7] = topics.events[7]._replace(origin=(0, 10**9))


def see_an_aborted_record(topics: Topics) -> None:
    topics.ingress[3] = topics.ingress[3]._replace(sequence=-1)


def change_an_event(topics: Topics) -> None:
    topics.events[11] = topics.events[11]._replace(value=0.125)


def change_a_reason(topics: Topics) -> None:
    topics.letters[5] = topics.letters[5]._replace(reason="unavailable")


def bury_what_is_sound(topics: Topics) -> None:
    event = next(e for e in topics.events if not e.event_id.startswith("bad0bad0"))
    topics.letters.append(topics.letters[0]._replace(topic=event.topic, source_partition=event.partition,
                                                     source_offset=event.offset, reason="internal", offset=10**9))  # fmt: skip


def swap_two_events_of_a_key(topics: Topics) -> None:
    first = topics.events[0]
    second = next(e for e in topics.events[1:] if (e.topic, e.key) == (first.topic, first.key))
    at = topics.events.index(second)
    topics.events[0], topics.events[at] = (
        second._replace(offset=first.offset),
        first._replace(offset=second.offset),
    )


def lose_an_update_of_state(topics: Topics) -> None:
    rows = topics.tables["state"]
    place = max(rows, key=lambda at: rows[at]["count"])
    rows[place]["count"] -= 1


def count_an_event_twice(topics: Topics) -> None:
    next(iter(topics.tables["totals"].values()))["count"] += 1


def lose_a_row(topics: Topics) -> None:
    topics.tables["state"].popitem()


def invent_a_row(topics: Topics) -> None:
    topics.tables["dead-letters"]["platform.dlq", 0, "internal/nowhere"] = {"count": 1, "offset": 0}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lose_an_event, "lost: a record of ingress without an end"),
        (lose_a_dead_letter, "lost: a record of ingress without an end"),
        (double_an_event, "doubled: a record of ingress with more than one end"),
        (double_a_dead_letter, "doubled: a record of ingress with more than one end"),
        (take_an_aborted_record_for_real, "stray: an event of no record of ingress"),
        (see_an_aborted_record, "a record of an aborted transaction is seen in ingress"),
        (change_an_event, "an event that is not as it was sent"),
        (change_a_reason, "a dead letter with a wrong reason or other bytes"),
        (bury_what_is_sound, "stray: a dead letter of an event that is sound"),
        (swap_two_events_of_a_key, "the events of a key are in another order than in ingress"),
        (lose_an_update_of_state, "changelog of state: a row is not the truth"),
        (count_an_event_twice, "changelog of totals: a row is not the truth"),
        (lose_a_row, "changelog of state: a row is missing"),
        (invent_a_row, "changelog of dead-letters: a row that nothing made"),
    ],
)
def test_the_judge_sees(outcome, damage: Callable[[Topics], None], said: str):
    topics = Topics(
        list(outcome.topics.ingress),
        list(outcome.topics.events),
        # Those of ingress: a letter of state stands beside an event, and would be another kind of damage.
        sorted(outcome.topics.letters, key=lambda letter: letter.topic == "platform.ingress"),
        copy.deepcopy(outcome.topics.tables),
    )
    damage(topics)
    assert said in judge(outcome.expected, topics).wrong


def test_a_seed_makes_the_same_plan_again():
    assert short(SEED) == short(SEED)
    assert len({short(seed).steps for seed in random.Random(1).sample(range(1_000), 20)}) > 10
