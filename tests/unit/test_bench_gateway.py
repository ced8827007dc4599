"""The benchmark of the gateway: its arithmetic, its verdicts, its options, and what it sends and reads."""

from __future__ import annotations

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deploy.local.bench.processes import SubjectError
from deploy.local.bench.report import as_json, show
from deploy.local.bench_gateway import requests, wrk
from deploy.local.bench_gateway.__main__ import options
from deploy.local.bench_gateway.cases import CASES
from deploy.local.bench_gateway.frames import BINARY, PING, TEXT, FrameReader, pong
from deploy.local.bench_gateway.report import Outcome, as_table
from deploy.local.bench_gateway.results import Sample, median
from streams.domain.validation import EventRules, event_from_json

BY_NAME = {case.name: case for case in CASES}
NOW_MS = 1_795_564_800_000


def sample(rate: float = 1_000, cpu_us: float = 100, p99_ms: float | None = 10, lost: int = 0) -> Sample:
    return Sample(1_000, 1_000 / rate, cpu_us * 1_000 / 1e6, None if p99_ms is None else 1.0, p99_ms, lost, None)


def verdicts(name: str, *samples: Sample) -> list[bool]:
    return [met for met, _ in Outcome(BY_NAME[name], tuple((one,) for one in samples)).verdicts()]


def test_a_sample_tells_cpu_and_rate_by_event_and_how_busy_it_was():
    one = Sample(events=200_000, wall_s=4.0, cpu_s=3.0)
    assert one.rate == 50_000
    assert one.cpu_us == pytest.approx(15)
    assert one.busy == 0.75


def test_medians_are_of_each_figure_by_itself_but_what_is_lost_is_added():
    found = median([sample(3, 10, 1.0), sample(1, 30, 3.0, lost=2), sample(2, 11, 9.0, lost=1)])
    assert (found.runs, found.rate, found.p99_ms) == (3, 2, 3.0)
    assert (found.cpu_us, found.cpu_us_least, found.cpu_us_most) == pytest.approx((11, 10, 30))
    assert found.lost == 3


def test_single_events_are_judged_by_the_yardstick_and_not_by_what_stands_beside():
    assert verdicts("single", sample(80), sample(100), sample(1_000)) == [True]
    assert verdicts("single", sample(79), sample(100), sample(1)) == [False]


def test_batches_are_judged_by_their_own_cpu():
    assert verdicts("batch", sample(cpu_us=25), sample(cpu_us=1)) == [True]
    assert verdicts("batch", sample(cpu_us=25.1), sample(cpu_us=1)) == [False]


@pytest.mark.parametrize(("name", "limit"), [("delivery", 50.0), ("fanout", 250.0)])
def test_live_streams_are_judged_by_what_is_late_and_by_what_is_lost(name, limit):
    assert verdicts(name, sample(p99_ms=limit)) == [True, True]
    assert verdicts(name, sample(p99_ms=limit + 0.1)) == [False, True]
    assert verdicts(name, sample(lost=1)) == [True, False]


def test_a_stream_that_delivers_nothing_is_not_fast():
    assert verdicts("delivery", sample(p99_ms=None)) == [False, True]


def test_the_table_has_no_colours_where_there_is_no_terminal():
    out = io.StringIO()
    show(as_table([Outcome(BY_NAME["batch"], ((sample(cpu_us=30),), (sample(cpu_us=7),)))]), Console(file=out))
    text = out.getvalue()
    assert "MISSED: 30.0 µs of CPU an event" in text
    assert "the same producer" in text
    assert "\x1b" not in text


def test_json_has_every_run_and_the_verdicts():
    outcome = Outcome(BY_NAME["batch"], ((sample(cpu_us=20),), (sample(cpu_us=7),)))
    [case] = json.loads(as_json([outcome], {"cores": 2}))["cases"]
    assert case["targets"] == [{"met": True, "text": "20.0 µs of CPU an event, at most 25"}]
    assert [len(subject["runs"]) for subject in case["subjects"]] == [1, 1]


def test_options_have_the_issue_s_figures_as_defaults():
    chosen = options([])
    assert (chosen.runs, chosen.only, chosen.json) == (5, None, False)


def test_cases_are_chosen_by_name():
    chosen = options(["--only", "single", "--only", "fanout", "--runs", "3"])
    assert (chosen.only, chosen.runs) == (["single", "fanout"], 3)


@pytest.mark.parametrize("wrong", [["--runs", "0"], ["--seconds", "many"], ["--only", "everything"]])
def test_wrong_options_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        options(wrong)
    assert "usage:" in capsys.readouterr().err


def test_what_is_sent_is_a_valid_event_of_226_bytes_with_a_key_of_many():
    numbers = [0, 7, requests.DEVICES, 0xABCDEF012000]
    made = [requests.event(number, "0123abcd", NOW_MS) for number in numbers]
    read = [event_from_json(json.dumps(one).encode(), EventRules(), NOW_MS, pytest.fail) for one in made]
    assert [requests.number_of(event.event_id.encode()) for event in read] == numbers
    assert [event.key for event in read[:3]] == [b"device-000000", b"device-000007", b"device-000000"]
    assert len(requests.template(NOW_MS)) == requests.BODY_BYTES


def test_a_template_becomes_an_event_by_its_marks():
    text = requests.template(NOW_MS).decode()
    text = text.replace(requests.ID_MARK, requests.event_id(5, "0123abcd"))
    assert json.loads(text.replace(requests.DEVICE_MARK, "device-000005")) == requests.event(5, "0123abcd", NOW_MS)


def test_the_script_of_wrk_knows_the_same_marks_and_keys():
    script = wrk._SCRIPT.read_text(encoding="utf-8")
    assert re.findall(r'_MARK = "(.*)"', script) == [requests.ID_MARK, requests.DEVICE_MARK]
    assert re.findall(r"DEVICES = (\d+)", script) == [str(requests.DEVICES)]


@pytest.mark.parametrize("wrong", [{"refused": 1}, {"broken": 1}])
def test_answers_that_are_no_2xx_are_no_result(wrong):
    said = {"requests": 10, "wall_us": 1_000_000, "p50_us": 1_000, "p99_us": 2_000, "refused": 0, "broken": 0}
    assert wrk._answered(said) == wrk.Answered(10, 1.0, 1.0, 2.0)
    with pytest.raises(SubjectError, match="not the case"):
        wrk._answered(said | wrong)


def frame(opcode: int, payload: bytes) -> bytes:
    """As a server sends it (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        length = bytes((size,))
    elif size < 65_536:
        length = b"\x7e" + size.to_bytes(2)
    else:
        length = b"\x7f" + size.to_bytes(8)
    return bytes((0x80 | opcode,)) + length + payload


SIZES = st.sampled_from([0, 1, 125, 126, 127, 300, 65_535, 65_536])


@given(sent=st.lists(st.tuples(st.sampled_from([TEXT, BINARY, PING]), SIZES), max_size=6), data=st.data())
def test_frames_are_read_however_their_bytes_come(sent, data):
    frames = [(opcode, bytes((index,)) * size) for index, (opcode, size) in enumerate(sent)]
    stream = b"".join(frame(*one) for one in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader()
    found = [
        got
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for got in reader.feed(stream[start:end])
    ]
    assert found == frames


def test_a_pong_is_masked_as_a_client_s():
    assert pong(b"hello") == b"\x8a\x85\0\0\0\0hello"
