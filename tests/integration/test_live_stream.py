"""Live streams on a real broker: history, transactions, new partitions, and Kafka restarted while clients watch."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic
from websockets.asyncio.client import ClientConnection, connect

from streams import hub as hub_module
from streams.domain.cursor import Gap, Range, parse_cursor
from streams.domain.errors import UnknownTopicError
from streams.hub import Hub, Start
from streams.kafka.consumer import LostPlaceError
from streams.settings import Settings
from streams.subscription import Subscription
from tests.platform import Worker
from tests.web_gateway import following

WITHIN_S = 20


def new_topic(bootstrap_servers: str, partitions: int) -> str:
    name = f"events.live{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    [made] = admin.create_topics([NewTopic(name, partitions, 1)]).values()
    made.result(WITHIN_S)
    return name


def write(bootstrap_servers: str, topic: str, partition: int, first: int, count: int, *, commit: bool = True) -> None:
    """Records of a transaction: its end takes an offset, whichever way it ends."""
    producer = Producer({"bootstrap.servers": bootstrap_servers, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(WITHIN_S)
    producer.begin_transaction()
    for number in range(first, first + count):
        producer.produce(topic, str(number).encode(), partition=partition)
    producer.flush(WITHIN_S)
    if commit:
        producer.commit_transaction(WITHIN_S)
    else:
        producer.abort_transaction(WITHIN_S)


@asynccontextmanager
async def watching(hub: Hub, topic: str, start: Start) -> AsyncIterator[Subscription]:
    async with asyncio.timeout(2 * WITHIN_S), hub.subscribe(topic, start) as subscription:
        yield subscription


async def numbers(subscription: Subscription, count: int) -> dict[int, list[int]]:
    """So many of the next values, of each partition."""
    found: dict[int, list[int]] = {}
    while count > 0:
        taken = await subscription.take()
        assert taken is not None
        assert not isinstance(taken, Gap), taken
        for entry in taken:
            found.setdefault(entry.record.partition, []).append(int(entry.record.value or b""))
            count -= 1
    return found


async def test_history_is_read_across_transactions_and_the_stream_goes_on_without_gap_or_repeat(kafka_broker):
    servers = kafka_broker.bootstrap_servers
    topic = new_topic(servers, 2)
    for first in range(0, 300, 30):
        write(servers, topic, 0, first, 30)
        write(servers, topic, 1, first, 30, commit=first % 60 == 0)
    hub = Hub(Settings(kafka_bootstrap_servers=servers, stream_queue_events=20))
    async with following(hub):
        async with watching(hub, topic, "earliest") as subscription:
            found = await numbers(subscription, 450)
            assert found[0] == list(range(300))
            assert found[1] == [n for n in range(300) if n // 30 % 2 == 0]
            write(servers, topic, 0, 300, 5)
            assert await numbers(subscription, 5) == {0: list(range(300, 305))}
            cursor = parse_cursor(subscription.cursor)
        write(servers, topic, 0, 305, 100)
        async with watching(hub, topic, cursor) as subscription:
            assert await numbers(subscription, 100) == {0: list(range(305, 405))}


async def test_partitions_that_a_topic_is_given_are_followed_from_their_beginning(kafka_broker, monkeypatch):
    monkeypatch.setattr(hub_module, "_REFRESH_S", 0.5)
    servers = kafka_broker.bootstrap_servers
    topic = new_topic(servers, 1)
    hub = Hub(Settings(kafka_bootstrap_servers=servers))
    async with following(hub), watching(hub, topic, "latest") as subscription:
        admin = AdminClient({"bootstrap.servers": servers})
        [done] = admin.create_partitions([NewPartitions(topic, 2)]).values()
        done.result(WITHIN_S)
        write(servers, topic, 1, 0, 3)
        write(servers, topic, 0, 0, 2)
        assert await numbers(subscription, 5) == {1: [0, 1, 2], 0: [0, 1]}
        assert parse_cursor(subscription.cursor) == {0: 2, 1: 3}


async def test_a_topic_that_nobody_watched_is_followed_at_once(kafka_broker):
    servers = kafka_broker.bootstrap_servers
    first, second = new_topic(servers, 1), new_topic(servers, 1)
    hub = Hub(Settings(kafka_bootstrap_servers=servers))
    async with following(hub), watching(hub, first, "latest") as one:
        write(servers, first, 0, 0, 1)
        assert await numbers(one, 1) == {0: [0]}
        async with watching(hub, second, "latest") as other:
            for number in range(1, 4):
                write(servers, second, 0, number, 1)
                write(servers, first, 0, number, 1)
            assert await numbers(other, 3) == {0: [1, 2, 3]}
            assert await numbers(one, 3) == {0: [1, 2, 3]}


async def test_what_retention_takes_before_it_was_read_live_is_told_to_who_comes_back(kafka_broker):
    servers = kafka_broker.bootstrap_servers
    topic = new_topic(servers, 1)
    hub = Hub(Settings(kafka_bootstrap_servers=servers))
    async with following(hub):
        async with watching(hub, topic, "latest") as subscription:
            write(servers, topic, 0, 0, 5)
            await numbers(subscription, 5)
            async with hub._polling:
                # The hub stands still, and has read nothing ahead once it goes on.
                write(servers, topic, 0, 5, 50)
                admin = AdminClient({"bootstrap.servers": servers})
                [deleted] = admin.delete_records([TopicPartition(topic, 0, 40)]).values()
                deleted.result(WITHIN_S)
                hub._changed.set()
            with pytest.raises(LostPlaceError):
                await numbers(subscription, 1)
            cursor = parse_cursor(subscription.cursor)
        async with watching(hub, topic, cursor) as subscription:
            gap = await subscription.take()
            assert isinstance(gap, Gap)
            # The first transaction's end is between.
            assert (gap.reason, gap.ranges) == ("expired", (Range(0, 5, 40),))
            assert await numbers(subscription, 16) == {0: list(range(39, 55))}


async def test_a_topic_that_is_made_anew_is_not_taken_for_the_old_one(kafka_broker):
    servers = kafka_broker.bootstrap_servers
    topic = new_topic(servers, 1)
    hub = Hub(Settings(kafka_bootstrap_servers=servers))
    async with following(hub), watching(hub, topic, "latest") as subscription:
        write(servers, topic, 0, 0, 50)
        await numbers(subscription, 50)
        # No look for partitions is made between the two.
        async with hub._asking:
            admin = AdminClient({"bootstrap.servers": servers})
            [deleted] = admin.delete_topics([topic]).values()
            deleted.result(WITHIN_S)
            await asyncio.sleep(1)
            [made] = admin.create_topics([NewTopic(topic, 1, 1)]).values()
            made.result(WITHIN_S)
            await asyncio.sleep(1)
            write(servers, topic, 0, 0, 3)
        with pytest.raises(LostPlaceError):
            await numbers(subscription, 1)


async def test_a_topic_that_is_deleted_ends_a_stream_in_the_middle_of_its_history(kafka_broker, monkeypatch):
    monkeypatch.setattr(hub_module, "_REFRESH_S", 0.5)
    servers = kafka_broker.bootstrap_servers
    topic = new_topic(servers, 1)
    write(servers, topic, 0, 0, 2_000)
    hub = Hub(Settings(kafka_bootstrap_servers=servers, stream_queue_events=20))
    async with following(hub), watching(hub, topic, "earliest") as subscription:
        await numbers(subscription, 1)
        admin = AdminClient({"bootstrap.servers": servers})
        [deleted] = admin.delete_topics([topic]).values()
        deleted.result(WITHIN_S)
        with pytest.raises(UnknownTopicError):
            await numbers(subscription, 2_000)


async def test_who_has_read_history_leaves_the_broker_alone(kafka_broker, monkeypatch):
    servers = kafka_broker.bootstrap_servers
    topic = new_topic(servers, 1)
    producer = Producer({"bootstrap.servers": servers})
    producer.produce(topic, b"0", partition=0)
    producer.flush(WITHIN_S)
    fetches: list[str] = []
    send = AIOKafkaClient.send

    def counted(client: AIOKafkaClient, node_id: int, request: Any, **options: Any) -> Any:
        if isinstance(request, FetchRequest):
            fetches.append(client._client_id)
        return send(client, node_id, request, **options)

    monkeypatch.setattr(AIOKafkaClient, "send", counted)
    hub = Hub(Settings(kafka_bootstrap_servers=servers))
    async with following(hub), watching(hub, topic, "earliest") as subscription:
        assert await numbers(subscription, 1) == {0: [0]}
        # One that was on its way may be there.
        await asyncio.sleep(0.2)
        fetches.clear()
        await asyncio.sleep(1)
        assert set(fetches) == {"streams-hub"}


async def test_the_hub_stops_in_order_while_kafka_is_away(own_kafka_broker):
    servers = own_kafka_broker.bootstrap_servers
    topic = new_topic(servers, 1)
    hub = Hub(Settings(kafka_bootstrap_servers=servers))
    async with following(hub), watching(hub, topic, "latest"):
        assert hub._reader is not None
        assert hub._asker is not None
        clients = [reader._running._client for reader in (hub._reader, hub._asker)]
        await asyncio.to_thread(own_kafka_broker.kill)
        await asyncio.sleep(1)
        # aiokafka's own cancellations stay within.
        await hub.stop()
        assert not any(client._conns for client in clients)
        assert all(client._sync_task is None for client in clients)


class Watcher:
    """A client by the `websockets` library."""

    def __init__(self, stream: ClientConnection) -> None:
        self._stream = stream
        self.cursor = ""

    async def event(self) -> dict[str, Any]:
        """The next event; nothing is ever missing."""
        while True:
            message: dict[str, Any] = json.loads(await self._stream.recv())
            assert message["type"] in ("event", "position"), message
            self.cursor = message["cursor"]
            if message["type"] == "event":
                return message


@asynccontextmanager
async def watcher(worker: Worker, query: str = "") -> AsyncIterator[Watcher]:
    headers = {"Authorization": f"Bearer {worker.token('events:read:iot')}"}
    url = f"ws://127.0.0.1:{worker.port}/api/v1/stream/iot{query}"
    async with asyncio.timeout(60), connect(url, additional_headers=headers) as stream:
        yield Watcher(stream)


async def publish(worker: Worker, first: int, count: int) -> None:
    """Each of these numbers; what is refused because Kafka is away is sent again under its id."""
    async with worker.client() as client:
        for number in range(first, first + count):
            body = {
                "event_id": str(uuid.UUID(int=number)),
                "event_type": "test",
                "timestamp": "2026-01-01T00:00:00Z",
                "device_id": f"d{number % 5}",
                "value": number,
            }
            async with asyncio.timeout(60):
                while True:
                    async with client.post("/api/v1/events/iot", json=body) as response:
                        if response.status in (200, 201):
                            break
                        assert response.status == 503, await response.text()
                    await asyncio.sleep(0.5)


@pytest.mark.slow
async def test_clients_watch_through_a_restart_of_kafka_and_come_back_without_gap_or_repeat(
    own_kafka_broker, schema_registry, tmp_path: Path
):
    worker = Worker(
        tmp_path, kafka_bootstrap_servers=own_kafka_broker.bootstrap_servers, registry_url=schema_registry.url
    )
    worker.start()
    try:
        async with watcher(worker) as stays:
            async with watcher(worker) as leaves:
                await publish(worker, 0, 20)
                first = [await leaves.event() for _ in range(12)]
                cursor = leaves.cursor
            before = [await stays.event() for _ in range(20)]
            assert {event["event"]["value"] for event in before} == set(range(20))
            restarting = asyncio.create_task(asyncio.to_thread(own_kafka_broker.restart))
            await asyncio.sleep(1)
            await publish(worker, 20, 20)
            await restarting
            rest = [await stays.event() for _ in range(20)]
            # Of one partition in order; a copy of an event whose answer was lost would have an offset of its own.
            assert {event["event"]["value"] for event in rest} == set(range(20, 40))
        async with watcher(worker, f"?from={cursor}") as back:
            missed = [await back.event() for _ in range(28)]
        seen = [(event["partition"], event["offset"]) for event in first + missed]
        assert len(set(seen)) == 40
        for partition in {number for number, _ in seen}:
            offsets = [offset for number, offset in seen if number == partition]
            assert offsets == list(range(len(offsets)))
        async with watcher(worker, "?from=earliest") as again:
            whole = [await again.event() for _ in range(40)]
        assert {(event["partition"], event["offset"]) for event in whole} == set(seen)
    finally:
        worker.stop()
