"""What watchers of a topic are given, what a slow one loses, and how seldom Kafka is asked about names that it does not have."""

from __future__ import annotations

import asyncio
import time
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.catch_up import CatchUp
from streams.domain.cursor import CursorError, Gap, Range, format_cursor, parse_cursor, place
from streams.domain.errors import KafkaUnavailableError, PlatformError, UnavailableError, UnknownTopicError
from streams.feed import Entry, Feed, Follower
from streams.hub import Hub
from streams.kafka.admin import TopicAdmin
from streams.kafka.consumer import LostPlaceError, Record
from streams.publishing import TopicCatalog
from streams.settings import Settings
from tests.memory_log import TOPIC, MemoryLog, MemoryLogReader
from tests.web_gateway import following


def record(offset: int, size: int = 1, partition: int = 0) -> Record:
    return Record("events.iot", partition, offset, 0, None, b"x" * size, ())


def make_feed(capacity: int = 8, capacity_bytes: int = 1_000_000, partitions: int = 1) -> Feed:
    return Feed("events.iot", dict.fromkeys(range(partitions), 0), capacity=capacity, capacity_bytes=capacity_bytes)


def offsets(taken: list[Entry] | Gap | None) -> list[int]:
    assert isinstance(taken, list), taken
    return [entry.record.offset for entry in taken]


class TestFeed:
    @given(st.lists(st.integers(0, 30), max_size=20), st.integers(4, 20))
    def test_what_is_taken_and_what_is_lost_add_up_and_the_newest_stay(self, batches, capacity):
        feed = make_feed(capacity)
        follower = Follower(feed, {0: 0})
        sent = 0
        for size in batches:
            feed.publish([record(sent + i) for i in range(size)])
            sent += size
        gap = follower.gap()
        entries = follower.take(1_000, 1_000_000)
        assert (gap.missed if gap else 0) + len(entries) == sent
        assert offsets(entries) == list(range(max(0, sent - capacity), sent))
        assert follower.gap() is None
        assert follower.take(1_000, 1_000_000) == []

    def test_large_records_are_bounded_by_their_bytes_and_one_is_always_kept(self):
        feed = make_feed(capacity_bytes=1_000)
        feed.publish([record(i, 250) for i in range(10)])
        assert (feed.start, feed.end, feed.floor) == (6, 10, {0: 6})
        feed.publish([record(10, 5_000)])
        assert (feed.start, feed.end) == (10, 11)

    def test_what_would_be_dropped_is_known_before_it_is(self):
        feed = make_feed(capacity=4, capacity_bytes=1_000)
        for begin in range(0, 40, 2):
            more = [record(begin, 300), record(begin + 1, begin)]
            kept = feed.kept_after(more)
            feed.publish(more)
            assert feed.start == kept

    @given(st.lists(st.integers(0, 600), max_size=50))
    def test_pieces_are_small_beside_the_feed_and_lose_nothing(self, sizes):
        feed = make_feed(capacity=8, capacity_bytes=1_000)
        records = [record(n, size) for n, size in enumerate(sizes)]
        pieces = list(feed.pieces(records))
        assert [r for piece in pieces for r in piece] == records
        assert all(len(p) <= 2 and (len(p) == 1 or sum(len(r.value or b"") for r in p) <= 250) for p in pieces)

    def test_a_log_that_is_read_again_is_not_told_again(self):
        feed = make_feed()
        feed.publish([record(0), record(1)])
        feed.publish([record(0), record(1), record(2)])
        assert offsets(Follower(feed, {0: 0}).take(10, 1_000)) == [0, 1, 2]

    def test_one_who_was_told_more_by_another_worker_is_not_told_twice(self):
        feed = make_feed(partitions=2)
        feed.publish([record(0), record(1), record(0, partition=1), record(2), record(1, partition=1)])
        follower = Follower(feed, {0: 0, 1: 1})
        took = []
        while entries := follower.take(10, 1_000):
            took += entries
        assert [(e.record.partition, e.record.offset, e.cursor) for e in took] == [
            (0, 0, "0:1,1:1"),
            (0, 1, "0:2,1:1"),
            (0, 2, "0:3,1:1"),
            (1, 1, "0:3,1:2"),
        ]
        # It is in step now, and shares what the others have.
        feed.publish([record(3)])
        assert follower.take(10, 1_000)[0] is feed[5]

    def test_a_gap_names_what_is_missing_of_each_partition(self):
        feed = make_feed(capacity=4, partitions=2)
        follower = Follower(feed, {0: 0, 1: 0})
        feed.publish([record(0), record(0, partition=1)])
        assert len(follower.take(1, 1_000)) == 1
        feed.publish([record(n, partition=1) for n in range(1, 6)])
        gap = follower.gap()
        assert gap is not None
        assert (gap.before, gap.after, gap.missed, gap.ranges) == ("0:1,1:0", "0:1,1:2", 2, (Range(1, 0, 2),))

    async def test_a_watcher_waits_until_something_comes(self):
        feed = make_feed()
        waiting = asyncio.create_task(feed.changed())
        await asyncio.sleep(0)
        assert not waiting.done()
        feed.publish([record(7)])
        await waiting


class TestPlace:
    @given(
        st.dictionaries(st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1), min_size=1, max_size=9),
    )
    def test_a_cursor_is_read_as_it_was_written(self, positions):
        assert parse_cursor(format_cursor(positions)) == positions

    @given(st.text(alphabet="0123456789:, -+", max_size=12))
    def test_what_is_no_cursor_is_refused_in_words(self, text):
        try:
            positions = parse_cursor(text)
        except CursorError as exc:
            assert str(exc)  # noqa: PT017
        else:
            assert parse_cursor(format_cursor(positions)) == positions

    def test_partitions_that_were_added_are_begun_at_their_beginning(self):
        assert place({0: 5}, {1: (0, 7), 0: (2, 9)}) == ({0: 5, 1: 0}, None)

    def test_what_retention_took_is_a_gap(self):
        positions, gap = place({0: 5, 1: 3}, {0: (8, 9), 1: (0, 3)})
        assert positions == {0: 8, 1: 3}
        assert gap is not None
        assert (gap.before, gap.after, gap.missed, gap.reason) == ("0:5,1:3", "0:8,1:3", 3, "expired")

    def test_a_cursor_past_the_end_is_none_of_this_topic(self):
        assert place({0: 9}, {0: (0, 9)}) == ({0: 9}, None)
        with pytest.raises(CursorError, match="partition 0 ends at 9, before 10"):
            place({0: 10}, {0: (0, 9)})


class TestHub:
    async def test_a_feed_is_kept_for_who_comes_back_and_then_forgotten(self, monkeypatch):
        log = MemoryLog(1)
        hub = Hub(Settings(), log.reader)
        async with following(hub):
            async with hub.subscribe(TOPIC) as subscription:
                log.append(record(0))
                assert offsets(await subscription.take()) == [0]
            async with hub.subscribe(TOPIC, {0: 0}) as subscription:
                assert offsets(await subscription.take()) == [0]
            assert log.readers == ["hub", "hub-offsets"]
            monkeypatch.setattr("streams.hub._LINGER_S", 0.0)
            async with asyncio.timeout(2):
                while hub._watched:  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.01)
        assert hub.watchers == 0

    async def test_one_who_stands_still_holds_up_others_once_and_no_longer_than_the_hub_is_patient(self, monkeypatch):
        monkeypatch.setattr("streams.hub._PATIENCE_S", 0.05)
        log = MemoryLog(1)
        hub = Hub(Settings(stream_queue_events=4), log.reader)
        async with following(hub), hub.subscribe(TOPIC) as still, hub.subscribe(TOPIC) as reads:
            # Both are live from their first take on.
            log.append(record(0))
            assert offsets(await still.take()) == offsets(await reads.take()) == [0]
            began = time.monotonic()
            log.append(*[record(n) for n in range(1, 101)])
            got: list[int] = []
            while len(got) < 100:
                got += offsets(await reads.take())
            assert got == list(range(1, 101))
            assert 0.04 < time.monotonic() - began < 1.0
            assert isinstance(await still.take(), Gap)

    async def test_a_thousand_who_come_at_once_ask_kafka_a_few_times(self):
        log = MemoryLog(1)
        log.append(*[record(n) for n in range(5)])
        hub = Hub(Settings(), log.reader)

        async def come() -> str:
            async with hub.subscribe(TOPIC, {0: 2}) as subscription:
                return subscription.cursor

        counting = mock.patch.object(MemoryLogReader, "spans", autospec=True, side_effect=MemoryLogReader.spans)
        async with following(hub):
            with counting as asked:
                assert set(await asyncio.gather(*[come() for _ in range(1_000)])) == {"0:2"}
            assert asked.call_count <= 2
            # What was asked before somebody came is no answer for them.
            log.expire(0, 3)
            async with hub.subscribe(TOPIC, "earliest") as subscription:
                assert subscription.cursor == "0:3"

    async def test_those_who_stall_again_and_again_are_waited_for_less_and_less(self):
        """Each catches up, so that it would be waited for again, and stalls."""
        log = MemoryLog(1)
        hub = Hub(Settings(stream_queue_events=4), log.reader)
        async with following(hub), hub.subscribe(TOPIC) as stalls, hub.subscribe(TOPIC) as reads:
            written = 0

            async def write(count: int) -> float:
                """Until another has read it; how long that took."""
                nonlocal written
                began = time.monotonic()
                log.append(*[record(n) for n in range(written, written + count)])
                written += count
                while parse_cursor(reads.cursor)[0] < written:
                    assert not isinstance(await reads.take(), Gap)
                return time.monotonic() - began

            waited = []
            for _ in range(12):
                await write(1)
                while parse_cursor(stalls.cursor)[0] < written:
                    await stalls.take()
                waited.append(await write(8))
            assert waited[0] >= 0.1
            assert sum(waited) < 0.6
            assert stalls.strikes(time.monotonic() + 100) == 0

    async def test_what_retention_takes_from_before_a_reader_of_history_is_told(self):
        log = MemoryLog(1, at_once=3)
        log.append(record(0), None, *[record(n) for n in range(2, 10)], None)
        hub = Hub(Settings(), log.reader)
        async with following(hub), hub.subscribe(TOPIC, "earliest") as subscription:
            # An end of a transaction is no gap.
            assert offsets(await subscription.take()) == [0, 2]
            log.expire(0, 7)
            gap = await subscription.take()
            assert isinstance(gap, Gap)
            assert (gap.before, gap.after, gap.missed, gap.reason) == ("0:3", "0:7", 4, "expired")
            assert offsets(await subscription.take()) == [7, 8, 9]
            assert subscription.cursor == "0:10"

    async def test_history_waits_for_kafka_and_goes_on(self, monkeypatch):
        log = MemoryLog(1)
        log.append(*[record(n) for n in range(5)])
        hub = Hub(Settings(retry_base_s=0.01, retry_cap_s=0.01), log.reader)
        async with following(hub), hub.subscribe(TOPIC, "earliest") as subscription:
            log.fails = KafkaUnavailableError("away")
            taking = asyncio.create_task(subscription.take())
            await asyncio.sleep(0.05)
            assert not taking.done()
            log.fails = None
            assert offsets(await taking) == [0, 1, 2, 3, 4]

    async def test_who_comes_while_readers_of_history_are_being_closed_is_seen(self, monkeypatch):
        log = MemoryLog(1)
        log.append(record(0))
        closing, may_close = asyncio.Event(), asyncio.Event()

        async def stop(_) -> None:
            closing.set()
            await may_close.wait()

        hub = Hub(Settings(), log.reader)
        monkeypatch.setattr("streams.hub._LINGER_S", 0.0)
        monkeypatch.setattr(MemoryLogReader, "stop", stop)
        async with following(hub):
            async with hub.subscribe(TOPIC, "earliest") as subscription:
                assert offsets(await subscription.take()) == [0]
            await asyncio.wait_for(closing.wait(), 2)
            log.add_partition()
            async with hub.subscribe(TOPIC) as subscription:
                may_close.set()
                log.append(record(0, partition=1))
                assert offsets(await asyncio.wait_for(subscription.take(), 2)) == [0]

    async def test_nobody_is_let_in_who_would_wait_for_ever_while_it_stops(self):
        hub = Hub(Settings(), MemoryLog(1).reader)
        async with following(hub), hub.subscribe(TOPIC):
            # It is polling now.
            await asyncio.sleep(0.02)
            stopping = asyncio.create_task(hub.stop())
            await asyncio.sleep(0)
            async with hub.subscribe(TOPIC) as late:
                assert await asyncio.wait_for(late.take(), 2) is None
            await stopping

    async def test_a_log_that_has_lost_what_comes_next_ends_its_streams_and_no_others(self):
        log = MemoryLog(1)
        log.append(record(0))
        hub = Hub(Settings(), log.reader)
        async with following(hub):
            async with hub.subscribe(TOPIC) as subscription:
                log.fails = LostPlaceError([TOPIC])
                log.append(record(1))
                with pytest.raises(UnavailableError):
                    await asyncio.wait_for(subscription.take(), 2)
                log.fails = None
            async with hub.subscribe(TOPIC, {0: 1}) as subscription:
                assert offsets(await subscription.take()) == [1]

    async def test_that_kafka_has_been_silent_is_told_until_it_answers(self):
        log = MemoryLog(1)
        hub = Hub(Settings(), log.reader)
        async with following(hub), hub.subscribe(TOPIC), asyncio.timeout(2):
            log.silence_s = 60.0
            while hub.trouble is None:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
            assert hub.trouble == "kafka_unavailable"
            log.append(record(0))
            while hub.trouble is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def test_a_reader_of_history_for_whom_nothing_comes_gives_up_its_turn_and_its_client_hears_the_end(
        self, monkeypatch
    ):
        monkeypatch.setattr("streams.kafka.consumer._CHUNK_S", 0.05)
        log = MemoryLog(1)
        log.append(record(0), record(1))
        hub = Hub(Settings(retry_base_s=0.01, retry_cap_s=0.01), log.reader)
        async with following(hub), hub.subscribe(TOPIC, "earliest") as subscription:
            log.at_once = 0
            taking = asyncio.create_task(subscription.take())
            await asyncio.sleep(0.02)
            log.gone = True
            await hub._refresh_topic(TOPIC)
            with pytest.raises(UnknownTopicError):
                await asyncio.wait_for(taking, 2)
            assert hub.history.reading == 0

    async def test_one_who_reads_history_is_held_no_more_than_a_chunk_however_large_its_records_are(self):
        log = MemoryLog(2)
        log.append(*[record(n, 600_000) for n in range(3)], *[record(n, 1, partition=1) for n in range(3)])
        history = CatchUp(lambda: log.reader("x"), 1)
        positions, seen = {0: 0, 1: 0}, []
        for _ in range(2):
            chunk = await history.read(TOPIC, positions, {0: 3, 1: 3})
            seen.append([(r.partition, r.offset) for r in chunk.records])
            assert chunk.gap is None
            positions = chunk.positions
        assert seen == [[(0, 0), (0, 1)], [(1, 0), (1, 1), (1, 2), (0, 2)]]
        assert positions == {0: 3, 1: 3}

    async def test_a_partition_that_is_added_while_history_waits_for_kafka_is_read_too(self):
        log = MemoryLog(1)
        log.append(record(0))
        hub = Hub(Settings(retry_base_s=0.01, retry_cap_s=0.01), log.reader)
        async with following(hub), hub.subscribe(TOPIC, "earliest") as subscription:
            log.fails = KafkaUnavailableError("away")
            taking = asyncio.create_task(subscription.take())
            await asyncio.sleep(0.03)
            log.add_partition()
            log.append(record(0, partition=1))
            hub._add_partition(hub._watched[TOPIC].feed, 1, 0)
            await asyncio.sleep(0.03)
            log.fails = None
            assert offsets(await asyncio.wait_for(taking, 2)) == [0]
            assert offsets(await asyncio.wait_for(subscription.take(), 2)) == [0]
            assert subscription.cursor == "0:1,1:1"

    async def test_it_ends_while_clients_watch_and_while_nobody_does(self):
        for watched in (True, False):
            hub = Hub(Settings(), MemoryLog(1).reader)
            async with asyncio.timeout(2), following(hub):
                if watched:
                    async with hub.subscribe(TOPIC) as subscription:
                        await hub.stop()
                        assert await subscription.take() is None
            with pytest.raises(UnavailableError):
                async with hub.subscribe(TOPIC):
                    pass


class CountingAdmin(TopicAdmin):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.asked = 0
        self.fails: PlatformError | None = None
        self.names = ["events.iot", "platform.dlq"]

    async def topics(self) -> dict[str, int]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        return dict.fromkeys(self.names, 1)


async def test_a_thousand_requests_for_unknown_topics_ask_kafka_once():
    admin = CountingAdmin()
    catalog = TopicCatalog(admin)
    outcomes = await asyncio.gather(*[catalog.require(f"no{i}") for i in range(1_000)], return_exceptions=True)
    assert all(isinstance(outcome, UnknownTopicError) for outcome in outcomes)
    assert await catalog.require("iot") == "events.iot"
    assert admin.asked == 1


async def test_a_topic_that_appears_is_found_when_kafka_is_asked_again(monkeypatch):
    monkeypatch.setattr("streams.publishing._REFRESH_S", 0.0)
    admin = CountingAdmin()
    catalog = TopicCatalog(admin)
    with pytest.raises(UnknownTopicError):
        await catalog.require("new")
    admin.names.append("events.new")
    assert await catalog.require("new") == "events.new"


async def test_while_kafka_is_away_no_topic_is_called_unknown_and_kafka_is_left_alone():
    admin = CountingAdmin()
    admin.fails = KafkaUnavailableError("away")
    catalog = TopicCatalog(admin)
    for _ in range(50):
        with pytest.raises(KafkaUnavailableError):
            await catalog.require("iot")
    assert admin.asked == 1


async def test_a_certain_answer_is_never_older_than_the_question(monkeypatch):
    monkeypatch.setattr("streams.publishing._RETRY_S", 0.01)
    admin = CountingAdmin()
    catalog = TopicCatalog(admin)
    with pytest.raises(UnknownTopicError):
        await catalog.require("new")
    admin.names.append("events.new")
    with pytest.raises(UnknownTopicError):
        await catalog.require("new")
    answers = await asyncio.gather(*[catalog.require("new", certain=True) for _ in range(100)])
    assert set(answers) == {"events.new"}
    assert admin.asked == 2


async def test_after_a_question_that_was_cut_short_no_topic_is_called_unknown():
    admin = CountingAdmin()
    catalog = TopicCatalog(admin)
    asking = asyncio.create_task(catalog.require("iot"))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    with pytest.raises(KafkaUnavailableError):
        await catalog.require("iot")


async def test_a_first_event_creates_its_topic_where_that_is_asked_for_and_allowed():
    admin = CountingAdmin()
    made: list[str] = []

    async def create(name: str) -> None:
        made.append(name)
        admin.names.append(f"events.{name}")

    allowed, forbidden = TopicCatalog(admin, create), TopicCatalog(admin)
    with pytest.raises(UnknownTopicError):
        await allowed.require("new")
    with pytest.raises(UnknownTopicError):
        await forbidden.require("new", create=True)
    assert made == []
    assert await allowed.require("new", create=True) == "events.new"
    assert await allowed.require("new", create=True) == "events.new"
    assert await allowed.require("iot", create=True) == "events.iot"
    assert made == ["new"]


async def test_a_topic_that_could_not_be_created_is_tried_again():
    failures = [KafkaUnavailableError("away")]

    async def create(name: str) -> None:
        if failures:
            raise failures.pop()

    catalog = TopicCatalog(CountingAdmin(), create)
    with pytest.raises(KafkaUnavailableError):
        await catalog.require("new", create=True)
    assert await catalog.require("new", create=True) == "events.new"


async def test_a_name_that_no_topic_can_have_is_never_created():
    async def create(name: str) -> None:
        raise AssertionError(name)

    with pytest.raises(UnknownTopicError):
        await TopicCatalog(CountingAdmin(), create).require("../x", create=True)


@pytest.mark.parametrize("name", ["platform.dlq", "dlq"])
async def test_topics_of_the_platform_are_unknown_to_clients(name):
    with pytest.raises(UnknownTopicError):
        await TopicCatalog(CountingAdmin()).require(name)
