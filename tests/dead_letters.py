"""Dead letters without Kafka: the queue, the log of redrives and the event topics in memory, and who reads and writes them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient

from streams import schemas
from streams.dead_letters import LetterStore
from streams.domain.dead_letters import DeadLetter
from streams.domain.errors import PlatformError, UnknownTopicError
from streams.domain.naming import DLQ, INGRESS, REDRIVES
from streams.domain.redrive import LetterFilter
from streams.domain.retry import RetryPolicy
from streams.kafka.batching.transactions import FencedError
from streams.kafka.consumer import LogReader, Partition, Record, Span
from streams.kafka.producer import OutgoingRecord
from streams.redriving import Intake, Order, Redriver
from tests.strategies import NOW_MS
from tests.web_gateway import Gateway, MemoryAdmin, MemoryProducer, MemoryRegistry, Server, make_services, make_settings
from web.installation import mount
from web.services import Services

LETTER_SCHEMA = 8
PARTITIONS = {DLQ: 2, REDRIVES: 1, "events.iot": 1}
BODY = b'{"event_type": "sensor.reading", "timestamp": %d, "device_id": "d1", "value": 1.5}' % NOW_MS


def make_letter(value: bytes | None = BODY, **fields: Any) -> DeadLetter:
    """A letter of ingress, for the topic `iot`; it is valid unless it is told otherwise."""
    kept: dict[str, Any] = {
        "reason": "invalid_event", "detail": "as it was then", "source_topic": INGRESS, "source_partition": 3,
        "source_offset": 14, "attempts": 1, "replays": 0, "failed_at": NOW_MS, "key": b"k", "value": value,
        "headers": (("event-topic", b"iot"),),
    }  # fmt: skip
    return DeadLetter(**kept | fields)


class Log:
    """What is in Kafka. One writer at a time, as with one transactional id."""

    def __init__(self) -> None:
        self.records: defaultdict[tuple[str, int], list[Record]] = defaultdict(list)
        self.fails: PlatformError | None = None
        self.commits: list[int] = []
        """How many records each transaction had."""
        self.writer = 0
        self.open_readers = 0
        self.hangs: asyncio.Event | None = None
        """Set by the test: a commit waits for it."""

    def append(self, topic: str, partition: int, record: OutgoingRecord, timestamp_ms: int = NOW_MS) -> None:
        """Add a record at the end."""
        log = self.records[topic, partition]
        log.append(Record(topic, partition, len(log), timestamp_ms, record.key, record.value, tuple(record.headers)))

    def events(self, topic: str = "events.iot") -> list[Record]:
        """What was redriven to a topic."""
        return self.records[topic, 0]


class Reader(LogReader):
    """Reads them."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def start(self) -> None:
        if self._log.fails is not None:
            raise self._log.fails
        self._log.open_readers += 1

    async def stop(self) -> None:
        self._log.open_readers -= 1

    async def partitions(self, topics: Iterable[str]) -> list[Partition]:
        found = []
        for topic in topics:
            if topic not in PARTITIONS:
                raise UnknownTopicError(topic)
            found += [Partition(topic, number) for number in range(PARTITIONS[topic])]
        return found

    async def spans(self, partitions: Iterable[Partition]) -> dict[Partition, Span]:
        return {p: Span(0, len(self._log.records[p])) for p in partitions}

    async def offsets_at(self, partitions: Iterable[Partition], timestamp_ms: int) -> dict[Partition, int | None]:
        return {
            p: next((r.offset for r in self._log.records[p] if r.timestamp_ms >= timestamp_ms), None)
            for p in partitions
        }

    async def read(self, spans: Mapping[Partition, Span]) -> AsyncGenerator[list[Record]]:
        for partition, span in spans.items():
            await asyncio.sleep(0)
            if found := self._log.records[partition][span.start : span.end]:
                yield found


class Writer:
    """Writes transactions to them; every topic has one partition."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._number = 0

    async def start(self) -> None:
        if self._log.fails is not None:
            raise self._log.fails
        self._log.writer += 1
        self._number = self._log.writer

    async def stop(self) -> None:
        self._number = 0

    async def commit(self, records: Sequence[OutgoingRecord]) -> int:
        await asyncio.sleep(0)
        if self._log.hangs is not None and len(records) > 1:
            await self._log.hangs.wait()
        if self._number != self._log.writer:
            raise FencedError("another was started")
        self._log.commits.append(len(records))
        for record in records:
            self._log.append(record.topic, 0, record)
        return len(self._log.records[records[-1].topic, 0])


class Desk:
    """A redriver on them, with a clock that sleeping moves."""

    def __init__(self, **settings: Any) -> None:
        self.settings = make_settings(**settings)
        services, _, _ = make_services(self.settings)
        self.log = Log()
        self.services = on_log(services, self.log)
        self.now_s = 0.0
        self.slept: list[float] = []
        self.intake = Intake(services.codec, services.loader, services.catalog, services.publisher)
        self.redriver = self.make_redriver()

    def make_redriver(self, **more: Any) -> Redriver:
        parts: dict[str, Any] = {
            "policy": RetryPolicy(1e-6, 1e-6), "max_replays": 5, "clock_ms": lambda: NOW_MS,
            "clock_s": lambda: self.now_s, "sleep": self._sleep,
        }  # fmt: skip
        store = LetterStore(lambda: Reader(self.log))
        return Redriver(store, lambda: Writer(self.log), self.intake, **parts | more)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)

    def bury(self, *letters: DeadLetter, partition: int = 0) -> None:
        """Put letters into the queue."""
        bury(self.services, self.log, *letters, partition=partition)

    def order(self, **fields: Any) -> Order:
        """An order for everything."""
        asked: dict[str, Any] = {"run_id": "r1", "who": "me", "started_at": NOW_MS, "rate": 1e6}
        return Order(**asked | {"filter": LetterFilter()} | fields)


def on_log(services: Services, log: Log) -> Services:
    """The services, on this log."""
    services.codec.add_schema(LETTER_SCHEMA, schemas.DLQ_MESSAGE)
    return replace(services, open_reader=lambda: Reader(log), open_redrive_writer=lambda: Writer(log))


def bury(services: Services, log: Log, *letters: DeadLetter, partition: int = 0) -> None:
    """Put letters into the queue."""
    for letter in letters:
        value = services.codec.encode_dead_letter(letter, LETTER_SCHEMA)
        log.append(DLQ, partition, OutgoingRecord(DLQ, letter.key, value, letter.kafka_headers()), letter.failed_at)


@asynccontextmanager
async def gateway_on(log: Log, *letters: DeadLetter, **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway whose dead letters are in this log."""
    services, state, reader = make_services(make_settings(**settings))
    services = on_log(services, log)
    bury(services, log, *letters)
    application = web.Application()
    metrics = mount(application, services)
    async with TestClient(Server(application, services.settings)) as client:
        assert isinstance(services.admin, MemoryAdmin)
        assert isinstance(services.registry, MemoryRegistry)
        assert isinstance(services.producer, MemoryProducer)
        yield Gateway(
            services.settings, services.admin, services.registry, services.producer, reader, services.hub,  # type: ignore[arg-type]
            services.codec, metrics, client, state,
        )  # fmt: skip
