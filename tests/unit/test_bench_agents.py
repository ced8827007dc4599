"""The benchmark of the agents: its arithmetic, its table, its options, and the records that it makes."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from rich.console import Console

from deploy.local.bench.processes import environment
from deploy.local.bench.report import as_json, show
from deploy.local.bench_agents import events
from deploy.local.bench_agents.__main__ import options
from deploy.local.bench_agents.cases import CASES
from deploy.local.bench_agents.processes import command
from deploy.local.bench_agents.report import Outcome, as_table
from deploy.local.bench_agents.results import Sample, median, together
from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.partitioning import partition_for
from streams.domain.validation import EventRules, event_from_json

BY_NAME = {case.name: case for case in CASES}


def sample(cpu_us: float, rate: float = 50_000, events: int = 1_000) -> Sample:
    return Sample(events, events / rate, cpu_us * events / 1e6, 100_000_000)


def outcome(name: str, *cpu_us: float) -> Outcome:
    return Outcome(BY_NAME[name], tuple((sample(cpu),) for cpu in cpu_us))


def test_a_sample_tells_cpu_and_rate_by_event() -> None:
    one = Sample(events=200_000, wall_s=4.0, cpu_s=3.0)
    assert one.rate == 50_000
    assert one.cpu_us == pytest.approx(15)


def test_medians_are_of_each_figure_by_itself() -> None:
    found = median([sample(10, rate=3), sample(30, rate=1), sample(11, rate=2)])
    assert found.runs == 3
    assert found.cpu_us == pytest.approx(11)
    assert found.rate == pytest.approx(2)
    assert found.cpu_us_least == pytest.approx(10)
    assert found.cpu_us_most == pytest.approx(30)


def test_processes_at_the_same_time_add_cpu_and_share_the_clock() -> None:
    both = together([Sample(300, 2.0, 1.0, 5), Sample(700, 3.0, 2.0, 6)])
    assert both == Sample(1_000, 3.0, 3.0, 11)


def test_a_limit_of_cpu_is_met_up_to_it() -> None:
    assert [verdict for verdict, _ in outcome("decode", 12.5, 10).verdicts()] == [True]
    assert [verdict for verdict, _ in outcome("decode", 12.6, 10).verdicts()] == [False]


def test_ingest_has_a_limit_beside_its_yardstick_and_one_of_its_own() -> None:
    assert [verdict for verdict, _ in outcome("ingest", 39, 30).verdicts()] == [True, True]
    assert [verdict for verdict, _ in outcome("ingest", 41, 30).verdicts()] == [False, False]


def test_a_speed_is_met_from_its_limit_on() -> None:
    def met(rate: float) -> bool:
        runs = ((sample(1, rate=rate),), (sample(1, rate=100),))
        [(verdict, _)] = Outcome(BY_NAME["state"], runs).verdicts()
        return verdict

    assert met(1_500)
    assert not met(1_499)


def test_a_restore_is_judged_by_a_million_keys_however_many_were_restored() -> None:
    [(met, text)] = Outcome(BY_NAME["restore"], ((sample(3, rate=100_000),),)).verdicts()
    assert met
    assert text == "10.0 s for 1,000,000 keys, under 20"


def test_the_table_has_no_colours_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    show(as_table([outcome("decode", 20, 10), outcome("restore", 3)]), Console(file=out))
    text = out.getvalue()
    assert "MISSED: 2.00 times its CPU" in text
    assert "aiokafka, same decode" in text
    assert "\x1b" not in text


def test_json_has_every_run_and_the_verdicts() -> None:
    [case] = json.loads(as_json([outcome("decode", 11, 10)], {"cores": 2}))["cases"]
    assert case["targets"] == [{"met": True, "text": "1.10 times its CPU, at most 1.25"}]
    assert [len(subject["runs"]) for subject in case["subjects"]] == [1, 1]


def test_options_have_the_issue_s_figures_as_defaults() -> None:
    chosen = options([])
    assert (chosen.events, chosen.runs, chosen.only, chosen.json) == (500_000, 5, None, False)


def test_cases_are_chosen_by_name() -> None:
    chosen = options(["--only", "ingest", "--only", "state", "--events", "10_000"])
    assert chosen.only == ["ingest", "state"]
    assert chosen.events == 10_000


@pytest.mark.parametrize("wrong", [["--runs", "0"], ["--events", "many"], ["--only", "everything"]])
def test_wrong_options_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options(wrong)
    assert "usage:" in capsys.readouterr().err


def test_a_subject_gets_no_setting_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMS_DEDUPLICATE_INGRESS", "true")
    found = environment({"app_id": "bench"}, {"events": 5})
    assert "STREAMS_DEDUPLICATE_INGRESS" not in found
    assert (found["STREAMS_APP_ID"], found["BENCH_EVENTS"]) == ("bench", "5")


@pytest.mark.parametrize("subject", [s for case in CASES for s in case.subjects], ids=lambda s: f"{s.module}")
def test_workers_are_started_by_faust_and_others_by_python(subject) -> None:
    assert ("worker" in command(subject)) == subject.is_worker
    assert subject.path in command(subject)


def test_records_of_ingress_are_valid_events_in_equal_parts() -> None:
    made = list(events.ingress(80, 8))
    assert set(Counter(record.partition for record in made).values()) == {10}
    read = [event_from_json(record.value, EventRules(), events.START_MS, pytest.fail) for record in made]
    assert len({event.event_id for event in read}) == 80
    assert [event.key for event in read] == [record.key for record in made]


def test_stored_records_are_the_same_events_by_key() -> None:
    codec = AvroCodec()
    codec.add_schema(7, schemas.EVENT)
    made = list(events.stored(50, 4, codec, 7))
    assert all(record.partition == partition_for(record.key, 4) for record in made)
    assert [codec.decode_event(record.value) for record in made] == list(events.events(50, distinct=False))


def test_keys_are_hot_as_in_real_traffic_or_all_different() -> None:
    hot = Counter(event.key for event in events.events(2_000, distinct=False))
    assert hot.most_common(1)[0][1] > 100
    assert len({event.key for event in events.events(2_000, distinct=True)}) == 2_000
