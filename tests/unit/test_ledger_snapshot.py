"""In which order the ends of the topics are taken, and what follows from where the topics begin."""

from __future__ import annotations

import asyncio
import time

import pytest

from streams.domain.errors import KafkaUnavailableError
from streams.domain.ledger import TimeRange
from streams.domain.naming import AGGREGATES, DLQ, EVENTS_PREFIX, INGRESS, INVALID, LATE
from streams.kafka.consumer import Partition, Span
from streams.ledger import CLOCKS_MS, HOUR_MS, _batches, _snapshot
from streams.settings import Settings

IOT = "events.iot"
SETTINGS = Settings(event_retention_hours=24, event_max_future_s=1_800)
ALL = TimeRange()


class Kafka:
    """Reader and offsets of topics with one partition each. What has an open transaction is settled when asked again."""

    def __init__(self, *, begins=(), open_for=0, at=None) -> None:
        self.asked: list[tuple[str, ...]] = []
        self._begins = dict(begins)
        self._open_for = open_for
        self._at = at

    async def partitions(self, topics) -> list[Partition]:
        return [Partition(topic, 0) for topic in topics]

    async def spans(self, partitions) -> dict[Partition, Span]:
        topics = [partition.topic for partition in partitions]
        self.asked.append(("spans", *topics))
        settling = any(call[0] == "written" for call in self.asked)
        self._open_for -= settling
        end = 90 if self._open_for >= 0 and settling else 100
        return {p: Span(self._begins.get(p.topic, 0), end) for p in partitions}

    async def written(self, partitions) -> dict[Partition, int]:
        self.asked.append(("written", *(partition.topic for partition in partitions)))
        return dict.fromkeys(partitions, 100)

    async def committed(self, group, partitions) -> dict[Partition, int]:
        self.asked.append(("committed", group))
        return dict.fromkeys(partitions, 70)

    async def at(self, partitions, timestamp_ms) -> dict[Partition, int | None]:
        self.asked.append(("at", str(timestamp_ms), *(partition.topic for partition in partitions)))
        return dict.fromkeys(partitions, self._at)


async def snapshot(kafka: Kafka, period=ALL, patience_s=5.0, told=None):
    said = [] if told is None else told
    reader: object = kafka
    return await _snapshot(
        SETTINGS,
        [IOT],
        period,
        reader=reader,  # type: ignore[arg-type]
        offsets=reader,  # type: ignore[arg-type]
        notify=said.append,
        patience_s=patience_s,
    )


async def test_ingress_comes_first_then_the_proofs_then_the_groups_then_all_that_is_written():
    kafka = Kafka()
    await snapshot(kafka)
    assert kafka.asked[:6] == [
        ("spans", INGRESS),
        ("spans", AGGREGATES, LATE, INVALID),
        ("committed", "streams"),
        ("committed", "streams-flink"),
        ("written", AGGREGATES, LATE, INVALID),
        ("written", IOT, DLQ),
    ]


async def test_all_that_was_written_is_read_once_it_is_committed():
    kafka, told = Kafka(open_for=2), []
    found = await snapshot(kafka, told=told)
    assert found.spans[EVENTS_PREFIX] == {Partition(IOT, 0): Span(0, 100)}
    assert found.limits.held_back == ()
    assert len(told) == 2


async def test_what_stays_open_is_told_and_read_as_far_as_can_be():
    found = await snapshot(Kafka(open_for=10_000), patience_s=0.2)
    assert found.spans[EVENTS_PREFIX] == {Partition(IOT, 0): Span(0, 90)}
    assert f"{IOT}[0]@90" in found.limits.held_back


async def test_nothing_has_expired_where_topics_begin_with_their_first_record():
    found = await snapshot(Kafka())
    assert (found.ends_expired_until, found.limits.expired_until) == (None, {})


@pytest.mark.parametrize(
    ("shortened", "ends", "minutes"),
    [(IOT, True, True), (DLQ, True, False), (LATE, False, True), (INGRESS, False, False), (AGGREGATES, False, False)],
)
async def test_what_is_older_than_the_retention_may_have_expired_where_the_beginning_is_gone(shortened, ends, minutes):
    now = int(time.time() * 1_000)
    found = await snapshot(Kafka(begins={shortened: 5}))
    oldest = now - 24 * HOUR_MS + CLOCKS_MS
    assert (found.ends_expired_until is not None) == ends
    if found.ends_expired_until is not None:
        assert 0 <= found.ends_expired_until - oldest < 60_000
    assert set(found.limits.expired_until) == ({"iot"} if minutes else set())
    # An event may be stored before its time.
    assert all(0 <= until - oldest - 1_800_000 < 60_000 for until in found.limits.expired_until.values())


async def test_a_range_cuts_ingress_at_both_ends_and_the_rest_at_its_start_only():
    kafka = Kafka(at=40)
    found = await snapshot(kafka, TimeRange(10 * HOUR_MS, 11 * HOUR_MS))
    asked = {call[2:]: int(call[1]) for call in kafka.asked if call[0] == "at"}
    # As far ahead of Kafka's time as a record of ingress may be, which is more than an event may here.
    assert asked[IOT, DLQ, AGGREGATES, LATE, INVALID] == 10 * HOUR_MS - HOUR_MS - CLOCKS_MS
    assert [int(call[1]) for call in kafka.asked if call[0] == "at" and call[2:] == (INGRESS,)] == [
        10 * HOUR_MS,
        11 * HOUR_MS,
    ]
    assert found.spans[INGRESS] == {Partition(INGRESS, 0): Span(40, 40)}
    assert found.spans[DLQ] == {Partition(DLQ, 0): Span(40, 100)}


async def test_a_range_after_the_last_record_is_empty():
    found = await snapshot(Kafka(at=None), TimeRange(10 * HOUR_MS, None))
    assert found.spans[INGRESS] == {Partition(INGRESS, 0): Span(100, 100)}
    assert found.spans[EVENTS_PREFIX] == {Partition(IOT, 0): Span(100, 100)}


class Fading:
    """A reader that gives some batches and then nothing."""

    async def read(self, spans):
        for batch in ([1], [2]):
            yield batch
        await asyncio.sleep(600)


async def test_a_kafka_that_falls_silent_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr("streams.ledger.STALLED_S", 0.05)
    fading: object = Fading()
    batches = _batches(fading, EVENTS_PREFIX, {})  # type: ignore[arg-type]
    read: list[object] = [await anext(batches), await anext(batches)]
    assert read == [[1], [2]]
    with pytest.raises(KafkaUnavailableError, match="nothing has come"):
        await anext(batches)
