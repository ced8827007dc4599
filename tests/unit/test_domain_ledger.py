"""The ledger's decisions, rule by rule; whole histories are in tests/property/test_ledger.py."""

from __future__ import annotations

import uuid

import pytest

from streams.domain.ledger import (
    MAX_SAMPLES,
    UNKNOWN,
    Ends,
    Identified,
    Kind,
    Ledger,
    Limits,
    Rules,
    State,
    TimeRange,
    count_duplicates,
    event_id_bytes,
    minute_of,
    parse_origin,
)

MINUTE = 60_000
READ_ALL = Limits()
PLAIN = Rules()


def accepted(*offsets: int, first=100, end=120, expired=()) -> Ends:
    ends = Ends(first, end)
    for offset in offsets:
        ends.accept(offset, may_be_expired=offset in expired)
    return ends


def test_a_record_with_one_end_is_no_difference():
    ends = accepted(100, 103, 119)
    for offset in (100, 103, 119):
        ends.end(offset)
    found = ends.judge(120)
    assert (found.records, found.ended) == (3, 3)
    assert (found.lost, found.twice, found.stray, found.pending, found.expired) == (0, 0, 0, 0, 0)


def test_a_record_without_an_end_is_lost_once_the_group_has_passed_it():
    ends = accepted(101, 102, 107)
    assert (ends.judge(102).lost, ends.judge(102).pending) == (1, 2)
    assert ends.judge(102).lost_samples == (101,)
    assert (ends.judge(103).lost, ends.judge(103).pending) == (2, 1)
    assert ends.judge(108).lost_samples == (101, 102, 107)
    assert ends.judge(10_000).lost == 3


@pytest.mark.parametrize("committed", [None, 0, 100])
def test_a_group_that_has_committed_nothing_has_lost_nothing(committed):
    found = accepted(100, 119).judge(committed)
    assert (found.lost, found.pending) == (0, 2)


def test_more_than_one_end_is_twice_however_many():
    ends = accepted(104, 105)
    for offset in (104, 104, 105, 105, 105, 105, 105):
        ends.end(offset)
    found = ends.judge(None)
    assert (found.ended, found.twice, found.twice_samples) == (0, 2, (104, 105))


def test_an_end_of_a_hole_is_stray_and_one_beyond_the_range_none_of_ours():
    ends = accepted(100)
    for offset in (100, 101, 99, 120, 10**12):
        ends.end(offset)
    found = ends.judge(120)
    assert (found.ended, found.stray, found.stray_samples) == (1, 1, (101,))


def test_an_end_that_may_have_been_deleted_by_age_is_not_missed():
    ends = accepted(100, 101, 103, 110, expired=(100, 101, 103))
    ends.end(101)
    found = ends.judge(120)
    assert (found.expired, found.ended, found.lost, found.lost_samples) == (2, 1, 1, (110,))
    assert ends.judge(101).pending == 2


def test_samples_are_few_whatever_the_number():
    ends = Ends(7, 10_007)
    for offset in range(7, 10_007):
        ends.accept(offset)
    found = ends.judge(10_007)
    assert (found.lost, found.lost_samples) == (10_000, tuple(range(7, 7 + MAX_SAMPLES)))


def test_two_bits_an_offset():
    assert len(Ends(0, 1_000_000)._states) == 250_000


def test_an_empty_range_has_nothing_in_it():
    ends = Ends(5, 5)
    ends.end(5)
    assert ends.judge(None).records == 0


def ledger(events: int, *, aggregated=0, late=0, minute=0, closed_to: int | None = MINUTE) -> Ledger:
    found = Ledger()
    row = found.at("iot", minute)
    row.events, row.late = events, late
    if aggregated:
        found.window("iot", "a", minute, aggregated, revision=0, emitted_at=1)
    if closed_to is not None:
        found.reached(closed_to - 1)
    return found


def verdict_of(found: Ledger, rules: Rules = PLAIN, limits: Limits = READ_ALL):
    verdict = found.judge(rules, limits)
    return verdict.states.get(("iot", 0)), [(d.kind, d.topic, d.count, d.minute) for d in verdict.differences]


def test_windows_and_late_events_add_up_to_the_events():
    assert verdict_of(ledger(5, aggregated=3, late=2)) == (State.BALANCED, [])


def test_what_is_in_no_window_is_missing():
    assert verdict_of(ledger(5, aggregated=3, late=1)) == (State.DIFFERS, [(Kind.MISSING, "iot", 1, 0)])


def test_what_is_in_a_window_too_often_is_surplus():
    assert verdict_of(ledger(5, aggregated=5, late=2)) == (State.DIFFERS, [(Kind.SURPLUS, "iot", 2, 0)])


def test_a_window_without_events_is_surplus():
    assert verdict_of(ledger(0, aggregated=2))[1] == [(Kind.SURPLUS, "iot", 2, 0)]


@pytest.mark.parametrize(
    ("closed_to", "state"),
    [
        (None, State.OPEN),
        (0, State.OPEN),
        (MINUTE - 1, State.OPEN),
        (MINUTE, State.DIFFERS),
        (9 * MINUTE, State.DIFFERS),
    ],
)
def test_an_open_window_is_no_difference(closed_to, state):
    assert verdict_of(ledger(5, closed_to=closed_to))[0] is state


def test_a_window_that_takes_late_events_is_closed_that_much_later():
    rules = Rules(allowed_lateness_ms=30_000)
    assert verdict_of(ledger(5, closed_to=MINUTE + 29_999), rules)[0] is State.OPEN
    assert verdict_of(ledger(5, closed_to=MINUTE + 30_000), rules)[0] is State.DIFFERS


def test_a_result_of_another_topic_proves_it_closed():
    """One task reads all topics: there is one watermark, and it never goes back."""
    found = ledger(1, closed_to=None)
    found.reached(MINUTE - 1)
    found.reached(3)
    assert verdict_of(found)[0] is State.DIFFERS


@pytest.mark.parametrize(
    ("missing", "unconfirmed", "late_among_them", "state"),
    [
        (2, 2, 0, State.PENDING),
        (1, 2, 0, State.PENDING),
        (0, 2, 0, State.BALANCED),
        (2, 1, 0, State.DIFFERS),
        (2, 2, 1, State.DIFFERS),
        (1, 2, 1, State.PENDING),
        (-1, 2, 0, State.DIFFERS),
        (1, 2, 5, State.DIFFERS),
    ],
)
def test_what_flink_has_not_confirmed_may_be_missing(missing, unconfirmed, late_among_them, state):
    found = ledger(10, aggregated=10 - missing - late_among_them, late=late_among_them)
    row = found.at("iot", 0)
    row.unconfirmed_events, row.unconfirmed_late = unconfirmed, late_among_them
    assert verdict_of(found)[0] is state


def test_a_minute_whose_events_may_have_been_deleted_is_not_judged():
    found = ledger(1, aggregated=100)
    assert verdict_of(found, limits=Limits(expired_until={"iot": 1})) == (State.EXPIRED, [])
    assert verdict_of(found, limits=Limits(expired_until={"iot": 0, "other": 9}))[0] is State.DIFFERS


def test_duplicates_count_in_the_way_that_windows_do():
    found = ledger(5, aggregated=3)
    found.at("iot", 0).duplicates = 2
    assert verdict_of(found) == (State.DIFFERS, [(Kind.MISSING, "iot", 2, 0)])
    assert verdict_of(found, Rules(distinct=True)) == (State.BALANCED, [])
    assert verdict_of(found, Rules(distinct=True, no_duplicates=True))[1] == [(Kind.DUPLICATES, "iot", 2, 0)]
    assert verdict_of(ledger(5, aggregated=5), Rules(no_duplicates=True)) == (State.BALANCED, [])


def test_a_duplicate_that_is_not_confirmed_excuses_no_missing_event():
    found = ledger(5, aggregated=3)
    row = found.at("iot", 0)
    row.duplicates = row.unconfirmed_duplicates = row.unconfirmed_events = 1
    assert verdict_of(found, Rules(distinct=True))[0] is State.DIFFERS


def test_the_highest_revision_of_each_window_counts():
    found = ledger(9, closed_to=MINUTE)
    for revision, emitted_at, count in ((0, 5, 4), (2, 6, 6), (1, 9, 5), (2, 7, 7), (2, 6, 8)):
        found.window("iot", "a", 0, count, revision=revision, emitted_at=emitted_at)
    found.window("iot", "b", 0, 2, revision=0, emitted_at=1)
    assert found.at("iot", 0).aggregated == 7 + 2
    assert verdict_of(found)[0] is State.BALANCED


def test_what_cannot_be_read_is_accounted_for_among_the_invalid():
    found = Ledger()
    for n in range(3):
        found.cannot_read("iot", f"events.iot[0]@{n}")
    assert verdict_of(found)[1] == [(Kind.UNREADABLE, "iot", 3, None)]
    found.invalid["iot"] = 1
    found.invalid["other"] = 5
    [difference] = found.judge(PLAIN, READ_ALL).differences
    assert (difference.count, difference.samples[0]) == (2, "events.iot[0]@0")
    found.invalid[UNKNOWN] = 1
    assert verdict_of(found)[1] == [(Kind.UNREADABLE, "iot", 1, None)]
    found.invalid[UNKNOWN] = 2
    assert verdict_of(found)[1] == []


def test_what_names_no_topic_excuses_one_record_and_not_one_in_each_topic():
    found = Ledger()
    found.cannot_read("a", "x")
    found.cannot_read("b", "y")
    found.invalid[UNKNOWN] = 1
    assert verdict_of(found)[1] == [(Kind.UNREADABLE, "b", 1, None)]


def test_what_an_open_transaction_holds_back_is_a_difference():
    [difference] = Ledger().judge(PLAIN, Limits(held_back=("events.iot[2]@7",))).differences
    assert (difference.kind, difference.topic) == (Kind.HELD_BACK, "events.iot")


def occurrence(event_id: int, *, topic=0, unconfirmed=False, at=1, minute=0) -> bytes:
    return Identified.pack(event_id.to_bytes(16), topic, unconfirmed, at, minute)


def test_all_occurrences_but_the_first_are_duplicates():
    same = occurrence(1)
    found = count_duplicates([same, occurrence(2), same, occurrence(1, topic=1), same], 10)
    assert found == {(0, 0, False): 2}


def test_the_first_is_confirmed_then_old():
    newer, older, unconfirmed = (
        occurrence(1, at=9, minute=MINUTE),
        occurrence(1, at=2**40, minute=2 * MINUTE),
        occurrence(1, at=1, minute=-MINUTE, unconfirmed=True),
    )
    for order in ([newer, older, unconfirmed], [unconfirmed, older, newer], [older, unconfirmed, newer]):
        assert count_duplicates(order, 10) == {(0, 2 * MINUTE, False): 1, (0, -MINUTE, True): 1}


def test_too_many_different_events_are_not_held():
    assert count_duplicates(map(occurrence, range(4)), 4) is not None
    assert count_duplicates(map(occurrence, range(5)), 4) is None
    assert count_duplicates([occurrence(1)] * 9, 1) == {(0, 0, False): 8}


def test_an_event_id_is_sixteen_bytes():
    event_id = uuid.uuid4()
    assert event_id_bytes(str(event_id).encode()) == event_id.bytes
    odd = [event_id_bytes(text) for text in (b"", b"x", b"abcd", b"0" * 31, "ü".encode(), b"0" * 34)]
    assert {len(found) for found in odd} == {16}
    assert len(set(odd)) == len(odd)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("0@0", (0, 0)),
        ("12@345678", (12, 345_678)),
        ("", None),
        ("1", None),
        ("1@", None),
        ("@1", None),
        ("-1@2", None),
        ("1@2 ", None),
        ("1@٢", None),
        ("None@None", None),
    ],
)
def test_an_origin_is_partition_and_offset(text, place):
    assert parse_origin(text.encode()) == place


def test_a_range_is_of_whole_minutes():
    assert TimeRange.around(MINUTE + 1, 2 * MINUTE + 1) == TimeRange(MINUTE, 3 * MINUTE)
    assert TimeRange.around(-1, 2 * MINUTE) == TimeRange(-MINUTE, 2 * MINUTE)
    assert TimeRange.around(None, None) == TimeRange()
    assert minute_of(-1) == -MINUTE


@pytest.mark.parametrize(("at", "inside"), [(59_999, False), (60_000, True), (119_999, True), (120_000, False)])
def test_a_range_has_its_start_and_not_its_end(at, inside):
    assert (at in TimeRange(MINUTE, 2 * MINUTE)) is inside
    assert at in TimeRange()
