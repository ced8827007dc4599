"""What a slow watcher loses, and how seldom Kafka is asked about names that it does not have."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.errors import KafkaUnavailableError, PlatformError, UnknownTopicError
from streams.hub import QUEUE_BYTES, Subscription
from streams.kafka.admin import TopicAdmin
from streams.kafka.consumer import Record
from streams.publishing import TopicCatalog
from streams.settings import Settings


def record(offset: int, size: int = 1) -> Record:
    return Record("events.iot", 0, offset, 0, None, b"x" * size, ())


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 20))
def test_what_is_taken_and_what_is_lost_add_up_and_the_newest_stay(batches, capacity):
    async def run() -> None:
        subscription = Subscription("events.iot", capacity)
        sent = 0
        for size in batches:
            subscription.put([record(sent + i) for i in range(size)])
            sent += size
        subscription.close()
        records, dropped = await subscription.take()
        assert len(records) + dropped == sent
        assert len(records) <= capacity
        assert [r.offset for r in records] == list(range(sent - len(records), sent))
        assert await subscription.take() == ([], 0)

    asyncio.run(run())


async def test_large_records_are_bounded_by_their_bytes():
    subscription = Subscription("events.iot")
    subscription.put([record(i, QUEUE_BYTES // 4) for i in range(10)])
    records, dropped = await subscription.take()
    assert (len(records), dropped) == (4, 6)
    subscription.put([record(10, QUEUE_BYTES * 2)])
    assert (await subscription.take())[0][0].offset == 10


async def test_a_watcher_waits_until_something_comes():
    subscription = Subscription("events.iot")
    waiting = asyncio.create_task(subscription.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    subscription.put([record(7)])
    assert (await waiting)[0] == [record(7)]


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
