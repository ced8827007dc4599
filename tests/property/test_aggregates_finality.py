"""A result that is said to be final is one that no event can change any more, whatever comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.domain.aggregates import AggregatedEvent, WindowPlace, is_final
from streams.domain.windows import WINDOW_KINDS, Window


def result(kind, window):
    return AggregatedEvent("iot", "a", kind.name, window.start_ms, window.end_ms, 1, None, None, None, None, 0, 0, 0)


times = st.integers(-10_000_000, 10_000_000)
kinds = st.sampled_from(list(WINDOW_KINDS.values()))


@given(events=st.lists(st.tuples(times, kinds), min_size=1, max_size=30), lateness_ms=st.integers(0, 200_000))
def test_no_window_that_is_final_is_changed_later(events, lateness_ms):
    """A job without disorder in it: each event moves the watermark; a window is written when the watermark passes it,
    and again with each event that comes within the allowed lateness."""
    watermark, newest_end = -(10**9), -(10**9)
    open_windows: set[tuple[str, Window]] = set()
    final: set[tuple[str, Window]] = set()
    for timestamp, kind in events:
        for window in kind.windows(timestamp):
            if window.is_closed(watermark, lateness_ms):
                continue
            assert (kind.name, window) not in final, "it was said to be final, and this event changes it"
            open_windows.add((kind.name, window))
        watermark = max(watermark, timestamp)
        written = {(name, window) for name, window in open_windows if window.is_closed(watermark)}
        newest_end = max([newest_end, *(window.end_ms for _, window in written)])
        final |= {
            (name, window)
            for name, window in written
            if is_final(result(WINDOW_KINDS[name], window), newest_end, lateness_ms)
        }


@given(start=times, lateness_ms=st.integers(0, 200_000), kind=kinds)
def test_it_becomes_final_with_the_first_window_that_ends_late_enough(start, lateness_ms, kind):
    window = kind.windows(start)[0]
    one = result(kind, window)
    assert not is_final(one, window.end_ms + lateness_ms - 1, lateness_ms)
    assert is_final(one, window.end_ms + lateness_ms, lateness_ms)


@given(start=times, event_type=st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,127}", fullmatch=True), kind=kinds)
def test_a_cursor_is_read_back(start, event_type, kind):
    place = WindowPlace(-start, event_type, kind.name)
    assert WindowPlace.parse(str(place)) == place
