"""Folding: per-key state, window results and dead letters, as pure functions."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.aggregates import AggregatedEvent, supersedes
from streams.domain.dead_letters import DeadLetter, bury
from streams.domain.envelope import Event
from streams.domain.errors import FieldError, InvalidEventError, UnknownTopicError
from streams.domain.headers import event_headers, header
from streams.domain.naming import api_topic, event_topic
from streams.domain.state import KeyState, TypeTotal, count_event, fold


def event(ms: int, value: float | None = None) -> Event:
    return Event(f"id-{ms}", "a", ms, "u", None, value)


def fold_all(events: list[tuple[int, Event]]) -> KeyState | None:
    state: KeyState | None = None
    for offset, each in events:
        state = fold(state, each, "iot", "u", offset) or state
    return state


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=30),
    st.data(),
)
def test_a_replayed_stretch_changes_no_state(arrivals, data):
    """A model beside it: a list of the events, each counted once however often it was read."""
    log = [(offset, event(ms, value)) for offset, (ms, value) in enumerate(arrivals)]
    start = data.draw(st.integers(0, len(log) - 1))
    again = data.draw(st.integers(start, len(log)))
    state = fold_all([*log[:again], *log[start:again], *log[start:]])
    assert state is not None
    newest = max(ms for ms, _ in arrivals)
    values = [value for _, value in arrivals]
    assert (state.count, state.offset) == (len(log), len(log) - 1)
    assert (state.min, state.max) == (min(values), max(values))
    assert state.first_event_time == min(ms for ms, _ in arrivals)
    assert (state.last_event_time, state.last_event_id) == (newest, f"id-{newest}")
    assert state.last_value == [value for ms, value in arrivals if ms == newest][-1]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.none(), min_size=1, max_size=20))
@example([1.7e308, 1.7e308, -1.7e308])
@example([-1.7e308, -1.7e308])
def test_a_state_is_the_same_after_its_way_through_the_changelog(values):
    """However large its values are: JSON knows no infinity."""
    state = fold_all([(offset, event(offset, value)) for offset, value in enumerate(values)])
    assert state is not None
    assert msgspec.json.decode(msgspec.json.encode(state), type=KeyState) == state
    given_ = [value for value in values if value is not None]
    assert (state.sum is None, state.min is None, state.max is None) == (not given_,) * 3


def test_events_without_a_value_count_and_change_no_sum():
    state = fold_all([(0, event(1, 2.0)), (1, event(2)), (2, event(0, 3.0))])
    assert state is not None
    assert (state.count, state.sum, state.min, state.max, state.last_value) == (3, 5.0, 2.0, 3.0, None)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.data())
def test_a_replayed_stretch_is_counted_once(times, data):
    log = [(offset, event(ms)) for offset, ms in enumerate(times)]
    start = data.draw(st.integers(0, len(log) - 1))
    total: TypeTotal | None = None
    for offset, each in [*log, *log[start:]]:
        total = count_event(total, each, "iot", offset) or total
    assert total == TypeTotal("iot", "a", len(log), max(times), len(log) - 1)


def result(revision: int = 0, emitted_at: int = 0, count: int = 1) -> AggregatedEvent:
    return AggregatedEvent("iot", "a", "tumbling-1m", 0, 60_000, count, None, None, None, None, 0, revision, emitted_at)


@pytest.mark.parametrize(
    ("new", "known", "replaces"),
    [
        (result(), None, True),
        (result(1, 1), result(0, 2), True),
        (result(0, 9), result(1, 1), False),
        (result(1, 2), result(1, 1), True),
        (result(1, 1), result(1, 2), False),
    ],
)
def test_a_lower_revision_never_replaces_a_higher_one(new, known, replaces):
    assert supersedes(new, known) is replaces


@given(st.binary(max_size=60), st.none() | st.binary(max_size=20), st.integers(0, 9), st.text(max_size=20))
def test_a_dead_letter_keeps_the_record_byte_for_byte(value, key, replays, detail):
    headers = [("dlq-replays", str(replays).encode()), ("odd", b"\xff"), ("odd", b"twice")]
    letter = bury(
        InvalidEventError([FieldError("/value", detail)]),
        topic="platform.ingress", partition=3, offset=7, key=key, value=value, headers=headers, attempts=2, now_ms=5,
    )  # fmt: skip
    codec = AvroCodec()
    codec.add_schema(9, schemas.DLQ_MESSAGE)
    assert codec.decode_dead_letter(codec.encode_dead_letter(letter, 9)) == letter
    assert (letter.value, letter.key, letter.headers) == (value, key, tuple(headers))
    assert (letter.reason, letter.replays) == ("invalid_event", replays)
    assert header(letter.kafka_headers(), "dlq-source-offset") == "7"


def test_a_bug_is_buried_as_internal_with_its_type():
    letter = bury(
        KeyError("x"), topic="t", partition=None, offset=None, key=None, value=None, headers=(), attempts=1, now_ms=0
    )
    assert (letter.reason, letter.detail) == ("internal", "KeyError: 'x'")
    assert "dlq-source-offset" not in dict(letter.kafka_headers())
    assert msgspec.structs.replace(letter, attempts=2).attempts == 2
    assert isinstance(letter, DeadLetter)


@pytest.mark.parametrize("name", ["", "A", "1a", "a b", "a/b", "../x", "platform.ingress\n", "a" * 129, "é"])
def test_a_name_that_no_topic_can_have_is_unknown(name):
    with pytest.raises(UnknownTopicError):
        event_topic(name)


def test_clients_reach_the_events_namespace_and_nothing_else():
    assert event_topic("platform.ingress") == "events.platform.ingress"
    assert api_topic("events.iot") == "iot"
    with pytest.raises(ValueError, match="not an event topic"):
        api_topic("platform.ingress")


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(("sent", "kept"), [(TRACE, TRACE), (None, None), ("nonsense", None), (TRACE + "\n", None)])
def test_a_traceparent_is_kept_when_it_is_one(sent, kept):
    headers = event_headers(event(1), "application/json", 5, sent)
    assert header(headers, "traceparent") == kept
    assert header(headers, "ingested-at") == "5"
    assert header(headers, "event-id") == "id-1"
