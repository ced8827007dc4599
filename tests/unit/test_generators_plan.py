"""What a run sends: the same for a seed, in the proportions and with the times that were asked for."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections import Counter
from itertools import islice, pairwise

import pytest

from streams.generators.emission import Intent
from streams.generators.faults import FAULTS
from streams.generators.options import GeneratorOptions
from streams.generators.plan import DUPLICATE_WITHIN_S, JITTER_MS, emissions
from streams.generators.rates import Pattern

START_MS = 1_780_000_000_000
MIXED = GeneratorOptions(
    rate=200, duration_s=60, history_s=60, invalid_ratio=0.1, late_ratio=0.05, duplicate_ratio=0.05, seed=7
)
OUT_OF_ORDERNESS_MS = 10_000
"""What the Flink job allows."""


def plan(options=MIXED, start_ms=START_MS):
    return list(emissions(options, start_ms))


def test_a_seed_and_a_start_give_the_same_bytes_each_time():
    assert plan() == plan()


def test_the_bytes_of_a_seed_are_the_same_in_every_version_of_python():
    digest = hashlib.sha256()
    for emission in plan():
        digest.update(b"%s %s %.6f\n" % (emission.topic.encode(), emission.body, emission.send_at_s))
    assert digest.hexdigest() == "4584ecf4752cb5fbe1a41c910846d5218e9494bae94fc99d70a5cbcbb372ef59"


def test_another_seed_gives_other_events():
    other = plan(GeneratorOptions(rate=200, duration_s=10, seed=8))
    assert not {e.event_id for e in plan()} & {e.event_id for e in other}


def test_two_runs_of_a_seed_are_not_each_others_duplicates():
    later = plan(start_ms=START_MS + 1)
    assert not {e.event_id for e in plan()} & {e.event_id for e in later}


def test_event_ids_are_name_based_uuids():
    for emission in plan()[:500]:
        parsed = uuid.UUID(emission.event_id)
        assert (str(parsed), parsed.version, parsed.variant) == (emission.event_id, 5, uuid.RFC_4122)


def test_emissions_come_in_the_order_in_which_they_are_due():
    assert all(a.send_at_s <= b.send_at_s for a, b in pairwise(plan()))


def test_no_event_on_time_is_behind_the_streams_event_time_by_what_the_job_allows():
    newest = 0
    for emission in plan():
        if emission.error is not None:
            continue
        if emission.intent is not Intent.LATE:
            assert emission.event_time_ms >= newest - JITTER_MS - DUPLICATE_WITHIN_S * 1000
            assert emission.event_time_ms >= newest - OUT_OF_ORDERNESS_MS
            newest = max(newest, emission.event_time_ms)


def test_a_late_event_is_ten_minutes_behind_and_comes_only_when_the_live_part_is_under_way():
    newest = 0
    late = 0
    for emission in plan():
        if emission.intent is Intent.LATE:
            late += 1
            assert emission.event_time_ms <= newest - 600_000
            assert emission.send_at_s >= MIXED.late_after_s
        elif emission.error is None:
            newest = max(newest, emission.event_time_ms)
    assert late > 100


@pytest.mark.parametrize("options", [MIXED, GeneratorOptions(rate=2, duration_s=2_000, duplicate_ratio=0.2)])
def test_a_duplicate_is_the_very_bytes_of_a_valid_event_sent_moments_before(options):
    sent = {}
    duplicates = 0
    for emission in plan(options):
        if emission.intent is Intent.DUPLICATE:
            duplicates += 1
            original = sent[emission.event_id]
            assert (original.body, original.key, original.topic) == (emission.body, emission.key, emission.topic)
            assert 0 <= emission.send_at_s - original.send_at_s <= DUPLICATE_WITHIN_S
        elif emission.intent is Intent.VALID:
            sent[emission.event_id] = emission
    assert duplicates > 100


def test_the_intents_have_the_shares_that_were_asked_for():
    intents = Counter(e.intent for e in plan() if e.send_at_s >= MIXED.late_after_s)
    total = intents.total()
    assert intents[Intent.INVALID] / total == pytest.approx(0.1, abs=0.01)
    assert intents[Intent.LATE] / total == pytest.approx(0.05, abs=0.01)
    assert intents[Intent.DUPLICATE] / total == pytest.approx(0.05, abs=0.01)


def test_every_fault_is_used():
    options = GeneratorOptions(rate=1_000, count=2_000, invalid_ratio=1.0)
    faults = {e.error.fault for e in plan(options) if e.error}
    assert faults == {fault.expected.fault for fault in FAULTS}


def test_the_history_covers_the_time_before_the_start_without_a_gap():
    history = [e for e in plan() if e.send_at_s < 0]
    times = sorted(e.event_time_ms for e in history if e.error is None)
    assert START_MS - 60_000 - JITTER_MS <= times[0] < START_MS - 55_000
    assert START_MS - 5_000 < times[-1] < START_MS
    assert max(b - a for a, b in pairwise(times)) < 1_000
    assert len(history) == 200 * 60


def test_a_long_history_is_thinned_to_360_seconds_worth_of_events():
    history = [e for e in plan(GeneratorOptions(rate=10, duration_s=1, history_s=3_600)) if e.send_at_s < 0]
    assert len(history) == 3_600
    assert history[0].send_at_s == pytest.approx(-3_600, abs=2)


def test_count_bounds_everything_and_no_bound_never_ends():
    assert len(plan(GeneratorOptions(rate=10, history_s=60, count=700))) == 700
    assert len(list(islice(emissions(GeneratorOptions(rate=10), START_MS), 5_000))) == 5_000


def test_a_kind_alone_keeps_to_its_topic():
    assert {e.topic for e in plan(GeneratorOptions(kinds=("iot",), rate=100, duration_s=5))} == {"iot"}


def test_the_kinds_have_their_keys_types_and_values():
    by_topic = {}
    for emission in plan(GeneratorOptions(rate=1_000, duration_s=60)):
        by_topic.setdefault(emission.topic, []).append(emission)
    types = {topic: {e.event_type for e in found} for topic, found in by_topic.items()}
    assert types == {
        "iot": {"sensor.reading", "sensor.status", "device.alert"},
        "clickstream": {"session.start", "page.view", "page.click", "search", "session.end"},
        "transactions": {"payment", "refund", "transfer"},
    }
    assert all(re.fullmatch(rb"device-\d{6}", e.key) and e.user_id is None for e in by_topic["iot"])
    for topic in ("clickstream", "transactions"):
        assert all(e.user_id is not None and e.key == e.user_id.encode() for e in by_topic[topic])
    assert all(-20 < e.value < 60 for e in by_topic["iot"] if e.value is not None)
    assert all((e.value < 0) == (e.event_type == "refund") for e in by_topic["transactions"])
    valueless = {e.event_type for found in by_topic.values() for e in found if e.value is None}
    assert valueless == {"sensor.status", "session.start", "page.click", "search"}


def test_sometimes_a_user_has_a_burst_of_large_payments_from_abroad():
    bursts = Counter(
        e.user_id
        for e in plan(GeneratorOptions(kinds=("transactions",), rate=100, duration_s=60, zipf_exponent=0.5))
        if b'"country":"NG"' in e.body or b'"country":"VN"' in e.body
    )
    assert max(bursts.values()) >= 3


def test_the_spikes_of_a_minute_are_seen_in_the_plan():
    sent = plan(GeneratorOptions(rate=100, duration_s=120, pattern=Pattern.SPIKE))
    per_second = Counter(int(e.send_at_s) for e in sent)
    assert len(sent) == 12_000
    assert per_second[22] == pytest.approx(10 * per_second[10], rel=0.05)
