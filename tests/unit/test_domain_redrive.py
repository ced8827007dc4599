"""Which letters are redriven, how fast, what the log of redrives adds up to, and how pages go together."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.domain.dead_letters import bury
from streams.domain.errors import InvalidEventError, RedriveLogError
from streams.domain.newest_first import Found, NewestFirst, parse_cursor
from streams.domain.redrive import LetterFilter, Pace, Place, Refusal, Tally, event_topic_of, redriven_headers, refusal
from streams.domain.redrive_log import (
    Ending,
    LettersRedriven,
    RedriveLog,
    RunFinished,
    RunStarted,
    RunState,
    decode_entry,
    encode_entry,
)
from tests.dead_letters import make_letter
from tests.strategies import NOW_MS

HERE = Place(0, 7)


@given(st.integers(0, 9_999), st.integers(0, 10**17))
def test_a_place_is_read_back(partition, offset):
    assert Place.parse(str(Place(partition, offset))) == (partition, offset)


@pytest.mark.parametrize("text", ["", "1", "@1", "1@", "1@-1", "1@1 ", "1@1\n", "a@1", "\u0661@1", "1@" + "9" * 19])
def test_what_is_no_place_is_refused(text):
    with pytest.raises(ValueError, match="partition@offset"):
        Place.parse(text)


MATCHING = [
    LetterFilter(),
    LetterFilter(reasons=frozenset({"invalid_event", "x"})),
    LetterFilter(source_topic="platform.ingress"),
    LetterFilter(event_topic="iot"),
    LetterFilter(from_ms=NOW_MS, to_ms=NOW_MS + 1),
    LetterFilter(letters=frozenset({HERE})),
]
OTHERS = [
    LetterFilter(reasons=frozenset({"x"})),
    LetterFilter(source_topic="events.iot"),
    LetterFilter(event_topic="clickstream"),
    LetterFilter(from_ms=NOW_MS + 1),
    LetterFilter(to_ms=NOW_MS),
    LetterFilter(letters=frozenset({Place(7, 0)})),
]


@pytest.mark.parametrize("wanted", MATCHING)
def test_a_letter_passes_what_fits_it(wanted):
    letter = make_letter()
    assert wanted.matches(HERE, letter)
    assert wanted.may_match(HERE, letter.kafka_headers())
    assert wanted.may_match(HERE, ())


@pytest.mark.parametrize("wanted", OTHERS)
def test_a_letter_does_not_pass_what_does_not_fit_it(wanted):
    assert not wanted.matches(HERE, make_letter())


def test_reason_source_and_place_are_told_by_the_headers_alone():
    headers = make_letter().kafka_headers()
    assert [wanted.may_match(HERE, headers) for wanted in OTHERS] == [False, False, True, True, True, False]


@given(st.builds(
    LetterFilter, st.frozensets(st.sampled_from(["invalid_event", "x"])), st.sampled_from([None, "platform.ingress", "y"]),
    st.sampled_from([None, "iot", "z"]), st.sampled_from([None, NOW_MS, NOW_MS + 1]),
    st.sampled_from([None, NOW_MS, NOW_MS + 1]), st.frozensets(st.sampled_from([HERE, Place(1, 1)])),
))  # fmt: skip
def test_what_the_headers_rule_out_never_passes(wanted):
    letter = make_letter()
    if wanted.matches(HERE, letter):
        assert wanted.may_match(HERE, letter.kafka_headers())
    assert msgspec.json.decode(msgspec.json.encode(wanted), type=LetterFilter) == wanted


def test_the_event_topic_is_the_header_s_or_the_source_s():
    assert event_topic_of(make_letter()) == "iot"
    assert event_topic_of(make_letter(headers=())) is None
    assert event_topic_of(make_letter(source_topic="events.iot", headers=())) == "iot"
    assert event_topic_of(make_letter(source_topic="platform.aggregates")) is None


def test_letters_that_are_not_redriven_whatever_is_in_them():
    assert refusal(make_letter(), LetterFilter(), 5) is None
    assert refusal(make_letter(source_topic="events.iot"), LetterFilter(), 5) is None
    assert refusal(make_letter(replays=4), LetterFilter(), 5) is None
    assert refusal(make_letter(replays=5), LetterFilter(), 5) is Refusal.LOOP_GUARD
    assert refusal(make_letter(source_topic="platform.aggregates"), LetterFilter(), 5) is Refusal.SOURCE
    twice = make_letter(reason="duplicate_event")
    assert refusal(twice, LetterFilter(), 5) is Refusal.DUPLICATE
    assert refusal(twice, LetterFilter(reasons=frozenset({"invalid_event"})), 5) is Refusal.DUPLICATE
    assert refusal(twice, LetterFilter(reasons=frozenset({"duplicate_event"})), 5) is None


def test_an_event_that_is_redriven_and_fails_again_has_been_replayed_once_more():
    headers = redriven_headers([("event-id", b"x")], HERE, make_letter(replays=2))
    assert headers == (("event-id", b"x"), ("dlq-origin", b"0@7"), ("dlq-replays", b"3"))
    again = bury(
        InvalidEventError([]), topic="events.iot", partition=0, offset=0, key=b"k", value=b"v", headers=headers,
        attempts=1, now_ms=NOW_MS,
    )  # fmt: skip
    assert again.replays == 3


@given(
    st.floats(0.01, 1e6),
    st.lists(st.tuples(st.integers(1, 200), st.floats(0, 100)), min_size=1, max_size=30),
)
def test_a_pace_is_never_exceeded_in_any_interval(rate, lots):
    """Each lot comes a while after the last has gone; what has gone in an interval fits the rate but for one lot."""
    pace, now = Pace(rate), 0.0
    went: list[tuple[float, int]] = []
    for count, idle_s in lots:
        now += idle_s
        now += pace.delay_s(count, now)
        went.append((now, count))
    for i in range(len(went)):
        for j in range(i, len(went)):
            between = sum(count for _, count in went[i:j])
            assert between <= rate * (went[j][0] - went[i][0]) * (1 + 1e-6) + 1e-3


def test_a_pace_keeps_nobody_waiting_who_is_slower():
    pace = Pace(10.0)
    assert pace.delay_s(5, 0.0) == 0.0
    assert pace.delay_s(5, 0.1) == pytest.approx(0.4)
    assert pace.delay_s(5, 9.0) == 0.0
    with pytest.raises(ValueError, match="above 0"):
        Pace(0.0)


def started(run_id: str, **fields) -> bytes:
    return encode_entry(
        RunStarted(
            run_id=run_id, who="me", started_at=1, filter=LetterFilter(), rate=2.0, limit=None, max_replays=5, **fields
        )
    )


def redriven(run_id: str, *places: Place) -> bytes:
    return encode_entry(
        LettersRedriven(run_id=run_id, who="me", started_at=1, filter=LetterFilter(), at=2, letters=places)
    )


def finished(run_id: str, ending: Ending = Ending.COMPLETED, **fields) -> bytes:
    return encode_entry(
        RunFinished(
            run_id=run_id, who="me", started_at=1, filter=LetterFilter(), at=3, ending=ending, totals=Tally(2), **fields
        )
    )


def log_of(*values: bytes) -> RedriveLog:
    log = RedriveLog()
    for value in values:
        log.add(value)
    return log


def test_the_log_says_what_was_redriven_by_whom():
    log = log_of(
        started("a"), redriven("a", Place(0, 1), HERE), finished("a"), started("b"), redriven("b", Place(1, 1))
    )
    assert log.redriven == {Place(0, 1): "a", HERE: "a", Place(1, 1): "b"}
    assert log.letters_of("a") == [Place(0, 1), HERE]
    [second, first] = log.newest_first()
    assert (first.id, first.state, first.redriven, first.transactions, first.totals) == (
        "a",
        "completed",
        2,
        1,
        Tally(2),
    )
    assert (second.id, second.state, second.redriven, second.totals) == ("b", "open", 1, None)
    assert not log.was_superseded("b")
    assert log.was_superseded("a")
    assert not log.was_superseded("never seen")


def test_a_run_that_another_has_ended_is_superseded_until_it_starts_over():
    log = log_of(started("a"), started("b"))
    assert [run.state for run in log.newest_first()] == [RunState.OPEN, RunState.SUPERSEDED]
    log.add(started("a"))
    assert [run.state for run in log.newest_first()] == [RunState.SUPERSEDED, RunState.OPEN]
    log.add(finished("a", Ending.FAILED, error="kafka_access"))
    assert (log.runs["a"].state, log.runs["a"].error) == (RunState.FAILED, "kafka_access")


@pytest.mark.parametrize(
    "value", [None, b"", b"\xff", b"[]", b'{"record": "other"}', b'{"record": "started"}', redriven("nobody", HERE)]
)
def test_a_log_that_cannot_be_read_is_no_ground_to_redrive(value):
    with pytest.raises(RedriveLogError):
        log_of(value)


def test_a_record_of_the_log_is_json_that_says_what_it_is():
    entry = msgspec.json.decode(redriven("a", Place(1, 2)))
    everything = dict.fromkeys(("source_topic", "event_topic", "from_ms", "to_ms")) | {"reasons": [], "letters": []}
    assert entry == {
        "record": "redriven", "run_id": "a", "who": "me", "started_at": 1, "filter": everything,
        "at": 2, "letters": [[1, 2]],
    }  # fmt: skip
    assert isinstance(decode_entry(msgspec.json.encode(entry | {"of a later version": 1})), LettersRedriven)


# Pages


def read_all(log, limit, *, wanted=lambda item: True, max_scanned=20_000, max_bytes=10**9, size=1):
    """Every page, one after the other; `log` has for each partition the times of its records."""
    pages, before = [], None
    while True:
        spans = {partition: (0, len(times)) for partition, times in log.items()}
        scan = NewestFirst(spans, limit, before=before, max_scanned=max_scanned, max_bytes=max_bytes)
        seen = 0
        while windows := scan.windows():
            for partition, (low, high) in windows.items():
                seen += high - low
                scan.looked_at(high - low, (high - low) * size)
                found = [Found(n, log[partition][n], (partition, n)) for n in range(low, high)]
                scan.add(partition, [one for one in found if wanted(one.item)])
        page = scan.page()
        assert seen <= max_scanned
        pages.append(page)
        if page.before is None:
            return pages
        assert before != parse_cursor(page.before)
        before = parse_cursor(page.before)


logs = st.dictionaries(st.integers(0, 3), st.lists(st.integers(0, 50), max_size=40), max_size=4)


holes = st.sets(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=60)


@given(logs, st.integers(1, 12), st.integers(4, 200), holes)
@example({0: [0, 0, 0, 0], 1: [0]}, 4, 4, set())  # one partition must not use up what the page may look at
def test_pages_hold_every_record_once_and_each_partition_backwards(log, limit, max_scanned, unwanted):
    pages = read_all(log, limit, wanted=lambda item: item not in unwanted, max_scanned=max_scanned)
    items = [item for page in pages for item in page.items]
    expected = {(p, n) for p, times in log.items() for n in range(len(times))} - unwanted
    assert sorted(items) == sorted(expected)
    for partition in log:
        offsets = [n for p, n in items if p == partition]
        assert offsets == sorted(offsets, reverse=True)
    for page in pages:
        assert len(page.items) == limit or page.before is None or page.truncated
    one = [item for page in read_all(log, 1_000) for item in page.items if item not in unwanted]
    assert set(one) == set(items)


@given(logs, st.integers(1, 12), holes)
@example({0: [1, 2, 3], 1: [4, 5, 6]}, 1, {(1, 2)})  # the newest is behind one that is not wanted
def test_where_clocks_run_forward_it_is_newest_first(log, limit, unwanted):
    log = {partition: sorted(times) for partition, times in log.items()}
    pages = read_all(log, limit, wanted=lambda item: item not in unwanted)
    items = [item for page in pages for item in page.items]
    times = [log[partition][offset] for partition, offset in items]
    assert times == sorted(times, reverse=True)


def test_records_that_come_meanwhile_are_not_in_later_pages():
    scan = NewestFirst({0: (0, 10), 1: (0, 3)}, 5, before={0: 4})
    assert scan.windows() == {0: (0, 4)}


def test_large_records_end_a_page_early():
    [first, *_] = read_all({0: list(range(5_000))}, 1_000, max_bytes=100_000, size=1_000)
    assert first.truncated
    assert 0 < len(first.items) <= 300


@pytest.mark.parametrize("text", ["", "0", "0:", ":1", "0:1,", "0:1;1:2", "0:1\n", "-1:1", "0:" + "9" * 19])
def test_what_is_no_cursor_is_refused(text):
    with pytest.raises(ValueError, match="cursor"):
        parse_cursor(text)
