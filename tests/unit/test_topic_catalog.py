"""How the catalog creates topics for many at once, and learns of those that are gone."""

from __future__ import annotations

import asyncio
import gc

import pytest

from streams.domain.errors import KafkaUnavailableError, UnknownTopicError
from streams.publishing import TopicCatalog
from streams.settings import Settings
from tests.web_gateway import MemoryAdmin


async def test_a_hundred_first_events_create_their_topic_once():
    made: list[str] = []

    async def create(name: str) -> None:
        await asyncio.sleep(0)
        made.append(name)

    catalog = TopicCatalog(MemoryAdmin(Settings()), create)
    found = await asyncio.gather(*(catalog.require("new", create=True) for _ in range(100)))
    assert (set(found), made) == ({"events.new"}, ["new"])


async def test_a_caller_that_gives_up_takes_the_creation_from_nobody_else():
    go = asyncio.Event()

    async def create(_: str) -> None:
        await go.wait()

    catalog = TopicCatalog(MemoryAdmin(Settings()), create)
    first, second = (asyncio.create_task(catalog.require("new", create=True)) for _ in range(2))
    for _ in range(5):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    go.set()
    assert await second == "events.new"


async def test_a_creation_that_fails_when_nobody_waits_any_more_is_a_line_in_the_log(caplog):
    go = asyncio.Event()

    async def create(_: str) -> None:
        await go.wait()
        raise KafkaUnavailableError("away")

    told: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    catalog = TopicCatalog(MemoryAdmin(Settings()), create)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(catalog.require("new", create=True), 0.01)
    go.set()
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert told == []
    assert "events.new was not created: away" in caplog.text


async def test_a_creation_that_fails_fails_for_all_who_wait_and_is_tried_again_later():
    failures = [KafkaUnavailableError("away")]

    async def create(_: str) -> None:
        await asyncio.sleep(0)
        if failures:
            raise failures.pop()

    catalog = TopicCatalog(MemoryAdmin(Settings()), create)
    outcomes = await asyncio.gather(*(catalog.require("new", create=True) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [KafkaUnavailableError] * 3
    assert await catalog.require("new", create=True) == "events.new"


async def test_a_topic_that_was_deleted_is_unknown_once_it_was_looked_up_again_beside_the_caller(monkeypatch):
    admin = MemoryAdmin(Settings())
    catalog = TopicCatalog(admin)
    assert await catalog.require("iot") == "events.iot"
    del admin.specs["events.iot"]
    monkeypatch.setattr("streams.publishing._STALE_S", 0.0)
    # Nobody waits for it; while Kafka is away, what is known goes on being used.
    admin.fails = KafkaUnavailableError("away")
    for _ in range(3):
        assert await catalog.require("iot") == "events.iot"
        await asyncio.sleep(0.01)
    admin.fails = None
    assert await catalog.require("iot") == "events.iot"
    await asyncio.sleep(0.01)
    monkeypatch.setattr("streams.publishing._RETRY_S", 0.0)
    with pytest.raises(UnknownTopicError):
        await catalog.require("iot", certain=True)


async def test_an_answer_from_before_a_creation_does_not_hide_the_topic(monkeypatch):
    admin = MemoryAdmin(Settings())
    catalog = TopicCatalog(admin)
    await catalog.require("iot")
    asked, answer = asyncio.Event(), asyncio.Event()
    topics = admin.topics

    async def slow() -> dict[str, int]:
        found = await topics()
        asked.set()
        await answer.wait()
        return found

    monkeypatch.setattr(admin, "topics", slow)
    refreshing = asyncio.create_task(catalog.refresh())
    await asked.wait()
    catalog.created("new")
    answer.set()
    await refreshing
    assert await catalog.require("new") == "events.new"
    # One that is not there later either was deleted.
    monkeypatch.setattr("streams.publishing._REFRESH_S", 0.0)
    await catalog.refresh()
    assert not catalog.knows("new")
