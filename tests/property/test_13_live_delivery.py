"""Property 13: live delivery. What a client sees is the log's order per partition, complete, under disconnects.

The real hub, sender and messages over a log of memory; clients that read when they like, lose their connection, come
back to this worker or to another with the last cursor that they read, and fetch the gaps that they are told of.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import Iterator
from typing import Any
from unittest import mock

import hypothesis.strategies as st
from hypothesis import event, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from streams import hub as hub_module
from streams.domain.cursor import parse_cursor
from streams.hub import Hub
from streams.kafka.consumer import Record
from tests.memory_log import TOPIC, MemoryLog
from tests.web_gateway import make_record, make_services, make_settings
from web.live.stream_messages import StreamFormat
from web.live.websocket import Live, Outlet, Wishes
from web.observe.metrics import Metrics
from web.read.records import RecordFilter

KEYS = ("d1", "d2")
ROOM = 2
"""How many frames a connection holds before its sender must wait."""


def frames_in(data: bytes) -> Iterator[bytes]:
    """The payloads of unmasked text frames (RFC 6455, section 5.2)."""
    at = 0
    while at < len(data):
        assert data[at] == 0x81
        size, head = data[at + 1], 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, head = int.from_bytes(data[at + 2 : at + 2 + width]), 2 + width
        yield data[at + head : at + head + size]
        at += head + size


PATIENCE_S = 20.0
"""What is awaited takes milliseconds; a machine that is busy with something else may take a while."""


class Connection(Outlet):
    """What was written and not read yet."""

    def __init__(self) -> None:
        self.unread: deque[dict[str, Any]] = deque()
        self._read = asyncio.Event()

    async def write(self, frames: bytes) -> None:
        self.unread.extend(json.loads(payload) for payload in frames_in(frames))
        while len(self.unread) > ROOM:
            self._read.clear()
            await self._read.wait()

    def read(self) -> dict[str, Any]:
        message = self.unread.popleft()
        self._read.set()
        return message


class Client:
    """What one client knows, across all of its connections."""

    def __init__(self, wanted: RecordFilter) -> None:
        self.wanted = wanted
        self.begun: dict[int, int] | None = None
        self.cursor: str | None = None
        self.seen: dict[int, list[int]] = {}
        self.connection: Connection | None = None
        self.sending: asyncio.Task[None] | None = None


class LiveDelivery(RuleBasedStateMachine):
    """Clients of two workers beside a simple model: all that was ever written."""

    clients = Bundle("clients")

    @initialize(
        partitions=st.integers(1, 3), at_once=st.integers(1, 7), queue=st.integers(4, 9), readers=st.integers(1, 2)
    )
    def begin(self, partitions, at_once, queue, readers):
        self.runner = asyncio.Runner()
        self.patches = [
            mock.patch.object(hub_module, "_GATHER_S", 0.0),
            mock.patch.object(hub_module, "_PATIENCE_S", 0.001),
        ]
        for patch in self.patches:
            patch.start()
        self.offsets = itertools.count()
        self.all: list[list[Record | None]] = [[] for _ in range(partitions)]
        self.open: list[Client] = []
        self.runner.run(self._begin(partitions, at_once, queue, readers))

    async def _begin(self, partitions: int, at_once: int, queue: int, readers: int) -> None:
        values = make_settings(stream_queue_events=queue, stream_catch_up_readers=readers)
        self.services, _, _ = make_services(values)
        self.log = MemoryLog(partitions, at_once=at_once)
        self.live = Live(self.services, Metrics())
        self.hubs = [Hub(values, self.log.reader) for _ in range(2)]
        self.following = []
        for hub in self.hubs:
            await hub.start()
            self.following.append(asyncio.create_task(hub.follow()))

    @rule(data=st.data(), count=st.integers(1, 12), ends=st.booleans(), waits=st.booleans())
    def write(self, data, count, ends, waits):
        """A batch; where it was a transaction, its end takes an offset."""
        partition = data.draw(st.integers(0, len(self.all) - 1))
        for _ in range(count):
            record = make_record(
                self.services.codec,
                len(self.all[partition]),
                partition=partition,
                device_id=data.draw(st.sampled_from(KEYS)),
            )
            self._append(partition, record)
        if ends:
            self._append(partition, None)
        self.runner.run(self._settled() if waits else asyncio.sleep(0))

    @rule(data=st.data())
    def flood(self, data):
        """More than the feeds hold, and the workers have read it: who was live and does not read has a gap."""
        partition = data.draw(st.integers(0, len(self.all) - 1))
        for number in range(30):
            self._append(
                partition,
                make_record(
                    self.services.codec, len(self.all[partition]), partition=partition, device_id=KEYS[number % 2]
                ),
            )
        self.runner.run(self._settled())

    def _append(self, partition: int, record: Record | None) -> None:
        self.all[partition].append(record)
        self.log.append(record, partition=partition)

    @rule(data=st.data())
    def expire(self, data):
        """Retention takes what workers have read, and what clients, who may be far behind, have not."""
        for hub in self.hubs:
            self.runner.run(hub._refresh_topic(TOPIC))
        self.runner.run(self._settled())
        partition = data.draw(st.integers(0, len(self.all) - 1))
        end = len(self.all[partition])
        self.log.expire(partition, data.draw(st.integers(max(0, end - 4), end)))

    @rule(client=clients, beyond=st.integers(1, 20))
    def expire_before(self, client, beyond):
        """What a client, who may be reading history, would have read next."""
        for hub in self.hubs:
            self.runner.run(hub._refresh_topic(TOPIC))
        self.runner.run(self._settled())
        for partition, offset in parse_cursor(client.cursor or "0:0").items():
            self.log.expire(partition, offset + beyond)

    @rule()
    def add_partition(self):
        """More partitions, which both workers find in their own time."""
        if len(self.all) < 5:
            self.all.append([])
            self.log.add_partition()

    @rule(which=st.integers(0, 1))
    def find_partitions(self, which):
        self.runner.run(self.hubs[which]._refresh_topic(TOPIC))

    @rule(
        target=clients,
        which=st.integers(0, 1),
        start=st.sampled_from(["latest", "earliest"]),
        key=st.sampled_from([None, *KEYS]),
    )
    def connect(self, which, start, key):
        client = Client(RecordFilter.of(key, None))
        self.open.append(client)
        self.runner.run(self._connect(client, which, start))
        return client

    @rule(client=clients)
    def disconnect(self, client):
        """What was on its way to the client is lost."""
        self.runner.run(self._disconnect(client))

    @rule(client=clients, which=st.integers(0, 1))
    def resume(self, client, which):
        self.runner.run(self._disconnect(client))
        if client.cursor is not None:
            self.runner.run(self._connect(client, which, parse_cursor(client.cursor)))

    @rule(client=consumes(clients))
    def leave(self, client):
        self.runner.run(self._disconnect(client))
        self.open.remove(client)

    @rule(client=clients, count=st.integers(1, 10))
    def read(self, client, count):
        self.runner.run(self._read(client, count))

    @rule(client=clients)
    def read_to_the_end(self, client):
        """Complete: a client that goes on reading comes to the end of every partition."""
        if client.connection is not None:
            self.runner.run(self._read_to_the_end(client))

    async def _connect(self, client: Client, which: int, start: Any) -> None:
        connection = Connection()
        subscribed = asyncio.Event()

        async def serve() -> None:
            async with self.hubs[which].subscribe(TOPIC, start) as subscription:
                subscribed.set()
                wishes = Wishes(client.wanted, start, StreamFormat.JSON, close_slow=False)
                await self.live._send(connection, "iot", subscription, wishes)

        client.connection, client.sending = connection, asyncio.create_task(serve())
        waiting = asyncio.create_task(subscribed.wait())
        await asyncio.wait({waiting, client.sending}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    async def _disconnect(self, client: Client) -> None:
        if client.sending is not None:
            client.sending.cancel()
            await asyncio.wait({client.sending})
            assert client.sending.cancelled(), client.sending.exception()
        client.sending = client.connection = None

    async def _read(self, client: Client, count: int) -> None:
        for _ in range(count):
            if client.connection is None:
                return
            for _ in range(40):
                if client.connection.unread:
                    break
                await asyncio.sleep(0)
            if not client.connection.unread:
                return
            self._take(client, client.connection.read())

    def _take(self, client: Client, message: dict[str, Any]) -> None:
        before = parse_cursor(client.cursor) if client.cursor is not None else {}
        after = parse_cursor(message["cursor"])
        client.cursor = message["cursor"]
        if client.begun is None:
            assert message["type"] == "position"
            client.begun = after
        for partition in after:
            client.begun.setdefault(partition, 0)
            client.seen.setdefault(partition, [])
        assert all(after[partition] >= offset for partition, offset in before.items()), "a cursor went back"
        if message["type"] == "event":
            client.seen[message["partition"]].append(message["offset"])
            assert message["event"]["device_id"].encode() in (client.wanted.key, message["event"]["device_id"].encode())
        elif message["type"] == "gap":
            # What its filter left out since the last message is behind it too.
            assert all(parse_cursor(message["from"])[partition] >= offset for partition, offset in before.items())
            lost = 0
            event(f"gap: {message['reason']}")
            for missing in message["ranges"]:
                partition = missing["partition"]
                # Both kinds are fetched, the expired ones from the model, which keeps everything.
                fetched = self._wanted(client, partition, missing["from"], missing["to"])
                lost += len(fetched)
                client.seen[partition] += fetched
                if message["reason"] == "slow":
                    assert missing["to"] == after[partition]
            assert 0 <= lost <= message["missed"]

    def _wanted(self, client: Client, partition: int, start: int, end: int) -> list[int]:
        records = self.all[partition][start:end]
        return [record.offset for record in records if record is not None and client.wanted.matches(record)]

    async def _read_to_the_end(self, client: Client) -> None:
        await self._settled()
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            await self._read(client, 50)
            if all(
                client.cursor and parse_cursor(client.cursor).get(p, 0) >= end for p, end in self._ends(client).items()
            ):
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"never came to the end: {client.cursor}, not {self._ends(client)}")

    def _ends(self, client: Client) -> dict[int, int]:
        """After the last record of each partition that this client wants and that its worker may know of."""
        known = parse_cursor(client.cursor) if client.cursor else {}
        return {
            partition: 1
            + max((r.offset for r in self.all[partition] if r is not None and client.wanted.matches(r)), default=-1)
            for partition in known
        }

    async def _settled(self) -> None:
        """Every hub has read all that there is of the partitions that it knows."""
        for hub in self.hubs:
            for watched in list(hub._watched.values()):
                deadline = time.monotonic() + PATIENCE_S
                while True:
                    ends = {
                        p: max((r.offset + 1 for r in self.all[p][self.log.starts[p] :] if r), default=0)
                        for p in watched.feed.head
                    }
                    if all(watched.feed.head[p] >= end for p, end in ends.items()):
                        break
                    assert time.monotonic() < deadline, f"the hub stands still at {watched.feed.head}"
                    await asyncio.sleep(0.0005)

    @invariant()
    def what_was_seen_is_the_log_s_order_complete_and_once(self):
        for client in getattr(self, "open", ()):
            if client.cursor is None or client.begun is None:
                continue
            for partition, end in parse_cursor(client.cursor).items():
                assert client.seen[partition] == self._wanted(client, partition, client.begun[partition], end)

    @invariant()
    def memory_is_bounded(self):
        for hub in getattr(self, "hubs", ()):
            for watched in hub._watched.values():
                assert watched.feed.end - watched.feed.start <= hub._settings.stream_queue_events

    @invariant()
    def no_sender_has_failed(self):
        for client in getattr(self, "open", ()):
            if client.sending is not None and client.sending.done():
                client.sending.result()

    def teardown(self):
        if not hasattr(self, "runner"):
            return
        try:
            for client in self.open:
                if client.connection is not None:
                    self.runner.run(self._read_to_the_end(client))
            self.what_was_seen_is_the_log_s_order_complete_and_once()
        finally:
            self.runner.run(self._end())
            self.runner.close()
            for patch in self.patches:
                patch.stop()

    async def _end(self) -> None:
        for client in self.open:
            await self._disconnect(client)
        for hub in self.hubs:
            await hub.stop()
        await asyncio.gather(*self.following)


LiveDelivery.TestCase.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)
TestLiveDelivery = LiveDelivery.TestCase
