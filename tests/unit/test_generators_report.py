"""The totals on a terminal, in a file and as JSON; and the line of progress."""

from __future__ import annotations

import io
import json

import pytest

from streams.generators.emission import Emission, ExpectedError, Intent
from streams.generators.progress import ProgressLine
from streams.generators.report import write_totals
from streams.generators.sink import Outcome, Verdict
from streams.generators.totals import Totals, ValueTotals

MINUTE = 1_780_000_020_000


class Terminal(io.StringIO):
    def isatty(self):
        return True


def emission(intent=Intent.VALID, value=1.5, user="user-1", at_ms=MINUTE + 5, error=None):
    return Emission("iot", b"{}", b"k", 0.0, "id", "sensor.reading", at_ms, user, value, intent, error)


@pytest.fixture
def totals():
    totals = Totals()
    totals.settle(emission(), Outcome(Verdict.ACCEPTED))
    totals.settle(emission(Intent.DUPLICATE), Outcome(Verdict.ACCEPTED, retries=2, uncertain=True))
    totals.settle(emission(Intent.LATE, value=-4.25, user="user-2"), Outcome(Verdict.ACCEPTED))
    error = ExpectedError("no_key", "invalid_event", "key_required", "")
    totals.settle(emission(Intent.INVALID, error=error), Outcome(Verdict.REJECTED))
    totals.settle(emission(), Outcome(Verdict.REJECTED, surprise="valid [bold] one refused"))
    totals.settle(emission(), Outcome(Verdict.FAILED))
    return totals


def test_json_has_the_counts_and_the_minutes(totals):
    out = io.StringIO()
    write_totals(totals, out, as_json=True)
    document = json.loads(out.getvalue())
    assert document["topics"] == {
        "iot": {
            "emitted": 6,
            "valid": 3,
            "invalid": 1,
            "late": 1,
            "duplicates": 1,
            "accepted": 3,
            "repeated": 0,
            "rejected": 2,
            "failed": 1,
            "retries": 2,
            "uncertain": 1,
            "surprises": 1,
            "invalid_by_code": {"key_required": 1},
            "invalid_by_reason": {"invalid_event": 1},
            "invalid_by_fault": {"no_key": 1},
        }
    }
    assert document["minutes"] == [
        {
            "topic": "iot",
            "event_type": "sensor.reading",
            "window_start": MINUTE,
            "window_end": MINUTE + 60_000,
            "accepted": {"count": 3, "sum": -1.25, "min": -4.25, "max": 1.5, "distinct_users": 2},
            "on_time": {"count": 1, "sum": 1.5, "min": 1.5, "max": 1.5, "distinct_users": 1},
            "late": 1,
            "duplicates": 1,
            "repeated": 0,
        }
    ]
    assert set(document) == {
        "version",
        "seed",
        "start_ms",
        "via",
        "elapsed_s",
        "emitted",
        "stopped_by",
        "topics",
        "minutes",
        "surprise_examples",
    }


@pytest.mark.parametrize("out", [io.StringIO(), Terminal()])
def test_people_see_each_topic_and_the_surprises(totals, out):
    write_totals(totals, out, as_json=False)
    text = out.getvalue()
    assert "sensor" not in text
    assert "iot" in text
    assert "key_required 1" in text
    assert "valid [bold] one refused" in text


def test_sums_are_exact_in_any_order():
    totals = ValueTotals()
    for value in (0.1, 0.2, 0.3, 1e9, -1e9):
        totals.add(value, None)
    assert totals.as_json()["sum"] == 0.6


def test_without_a_value_there_is_no_sum():
    totals = ValueTotals()
    totals.add(None, "user-1")
    assert totals.as_json() == {"count": 1, "sum": None, "min": None, "max": None, "distinct_users": 1}


def test_an_endless_run_forgets_who_the_users_of_old_minutes_were_but_not_how_many():
    totals = Totals(late_by_s=600)
    for minute in range(200):
        for user in range(3):
            totals.settle(emission(user=f"u{user}", at_ms=MINUTE + minute * 60_000), Outcome(Verdict.ACCEPTED))
    minutes = [totals.minute("iot", "sensor.reading", MINUTE + n * 60_000) for n in range(200)]
    assert [m.accepted.distinct_users for m in minutes if m is not None] == [3] * 200
    assert len([m for m in minutes if m is not None and m.accepted._users]) == 71


def test_the_line_of_progress_tells_sent_rate_and_errors(totals):
    text = ProgressLine(totals).text()
    assert "6 events sent" in text
    assert "2 retries, 1 failed, 1 surprises" in text
