"""What `watch` shows, from counts and window results alone."""

from __future__ import annotations

import io

from rich.console import Console

from streams.commands.picture import Picture
from streams.domain.aggregates import AggregatedEvent


def result(minute: int, *, revision: int = 0, count: int = 1, event_type: str = "a") -> AggregatedEvent:
    start = minute * 60_000
    return AggregatedEvent(
        "iot", event_type, "tumbling-1m", start, start + 60_000, count, 1.0, 0.5, 0.0, 1.0, 3, revision, 0
    )


def test_the_rate_is_that_of_the_last_five_seconds():
    picture = Picture()
    for second in range(20):
        # 100 a second at first, 10 a second at the end
        picture.count({"events.iot": 100 * min(second, 10) + 10 * max(0, second - 10)}, float(second))
    assert picture.rate("events.iot") == 10.0
    assert picture.rate("events.unknown") == 0.0


def test_one_sample_is_no_rate_yet_and_a_new_topic_has_none():
    picture = Picture()
    picture.count({"events.iot": 5}, 0.0)
    assert picture.rate("events.iot") == 0.0
    picture.count({"events.iot": 5, "events.new": 7}, 1.0)
    assert picture.rate("events.new") == 0.0


def test_the_newest_windows_come_first_and_a_higher_revision_wins():
    picture = Picture()
    for minute in range(300):
        picture.closed(result(minute))
    picture.closed(result(299, revision=1, count=7))
    picture.closed(result(299, revision=0, count=9))
    newest = picture.newest()
    assert [window.window_start // 60_000 for window in newest] == list(range(299, 291, -1))
    assert newest[0].count == 7
    assert len(picture.windows) == 200


def test_a_line_has_the_totals_the_dead_letters_and_the_newest_window():
    picture = Picture()
    picture.count({"events.iot": 1_234, "platform.dlq": 5, "platform.late": 6}, 0.0)
    picture.closed(result(61, count=42))
    assert picture.line() == "0 events/s | iot 1,234 | dlq 5 | late 6 | newest window 01:01 iot/a 42"


def test_the_tables_show_every_topic_and_the_windows():
    out = io.StringIO()
    picture = Picture()
    picture.count({"events.iot": 1_234, "platform.dlq": 5}, 0.0)
    Console(file=out, width=120).print(picture.tables())
    assert "No window has closed yet" in out.getvalue()
    picture.closed(result(61, count=42))
    Console(file=out, width=120).print(picture.tables())
    text = out.getvalue()
    assert all(part in text for part in ("events.iot", "1,234", "platform.dlq", "tumbling-1m", "01:01", "42", "0.50"))
