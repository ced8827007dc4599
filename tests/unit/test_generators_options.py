"""The options of the command line, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.domain.errors import ConfigurationError
from streams.generators.faults import FAULTS
from streams.generators.options import KINDS, GeneratorOptions, Via, parse_duration, parse_options
from streams.generators.rates import Pattern


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0", 0), ("250ms", 0.25), ("30s", 30), ("6m", 360), ("1.5h", 5_400), (" 5m ", 300)],
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "six", "-5", "5d", "5 m", "1e3", "1.m"])
def test_a_wrong_duration_is_named(text):
    with pytest.raises(ConfigurationError, match=r"--history: it takes a time such as 90, 30s, 6m"):
        parse_duration(text, "--history")


def test_the_words_of_the_command_line_become_options():
    options = parse_options(
        kinds=["iot", "transactions"], duration="2m", history="6m", pattern="spike", via="ingress", rate=50, seed=3
    )
    assert options == GeneratorOptions(
        kinds=("iot", "transactions"),
        duration_s=120,
        history_s=360,
        pattern=Pattern.SPIKE,
        via=Via.INGRESS,
        rate=50,
        seed=3,
    )


def test_every_time_is_read():
    options = parse_options(
        duration="1m", history="2m", give_up_after="3m", ready_within="4m", day="5m", late_by="6m", late_after="7m"
    )
    assert (options.duration_s, options.history_s, options.give_up_after_s) == (60, 120, 180)
    assert (options.ready_within_s, options.day_s, options.late_by_s, options.late_after_s) == (240, 300, 360, 420)


def test_no_kind_means_all():
    assert parse_options().kinds == KINDS


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"kinds": ["weather"]}, "--kind"),
        ({"kinds": ["iot", "iot"]}, "--kind"),
        ({"rate": 0}, "--rate"),
        ({"rate": float("nan")}, "--rate"),
        ({"duration": "0"}, "--duration"),
        ({"count": 0}, "--count"),
        ({"history": "48h"}, "--history"),
        ({"pattern": "zigzag"}, "--pattern"),
        ({"via": "pigeon"}, "--via"),
        ({"invalid_ratio": 1.5}, "--invalid-ratio"),
        ({"late_ratio": -0.1}, "--late-ratio"),
        ({"invalid_ratio": 0.6, "duplicate_ratio": 0.6}, "at most 1 together"),
        ({"keys": 0}, "--keys"),
        ({"zipf_exponent": -1}, "--zipf-exponent"),
        ({"concurrency": 0}, "--concurrency"),
        ({"give_up_after": "0"}, "--give-up-after"),
        ({"ready_within": "0"}, "--ready-within"),
        ({"day": "0"}, "--day"),
        ({"late_by": "5s"}, "--late-by"),
    ],
)
def test_a_wrong_option_is_named(wrong, option):
    with pytest.raises(ConfigurationError, match=option):
        parse_options(**wrong)


@pytest.mark.parametrize(("via", "workers"), [(Via.HTTP, 64), (Via.INGRESS, 256)])
def test_the_concurrency_has_a_default_for_each_way(via, workers):
    assert GeneratorOptions(via=via).workers == workers
    assert GeneratorOptions(via=via, concurrency=3).workers == 3


def test_every_fault_is_documented():
    guide = (Path(__file__).parents[2] / "docs" / "generators.md").read_text()
    for fault in FAULTS:
        assert f"| `{fault.expected.fault}` | `{fault.expected.reason}` | `{fault.expected.code}` |" in guide
