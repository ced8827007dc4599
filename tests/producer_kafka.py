"""A Kafka of memory under the real producer: what it is sent it appends, refuses, loses or keeps waiting, as told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError, MessageSizeTooLargeError, OutOfOrderSequenceNumber, ProducerClosed

from streams.kafka.producer import EventProducer
from streams.kafka.producer_stats import ProducerStats
from streams.kafka.session import ProducerSession
from streams.settings import Settings

PARTITIONS = 2


class Written(NamedTuple):
    """A record in the log."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@dataclass
class MemoryBroker:
    """The logs, and what happens to the next batches."""

    max_bytes: int = 1_000
    max_batch_records: int = 5
    logs: dict[tuple[str, int], list[Written]] = field(default_factory=dict)
    holding: bool = False
    """Whether batches wait until they are released."""
    faults: list[str] = field(default_factory=list)
    """For the next batches: `lost` (not written, and the session is over), `unsure` (written, and the same error)."""
    unsure: set[bytes | None] = field(default_factory=set)
    """The values of batches that failed so that nobody can know whether they are written."""
    held: list[Callable[[], None]] = field(default_factory=list)
    sessions: int = 0

    def release(self) -> None:
        """Let what waits go on, in order."""
        held, self.held = self.held, []
        for go_on in held:
            go_on()

    def copies(self, topic: str, value: bytes) -> int:
        """How often a value is in a topic."""
        return sum(r.value == value for (name, _), log in self.logs.items() if name == topic for r in log)


class _Builder:
    def __init__(self, broker: MemoryBroker) -> None:
        self.records: list[Written] = []
        self._broker = broker

    def append(self, *, timestamp: int, key: Any, value: Any, headers: list[Any]) -> object | None:
        if len(self.records) >= self._broker.max_batch_records:
            return None
        self.records.append(Written(key, value, tuple(headers)))
        return object()


class _Metadata(NamedTuple):
    offset: int


class MemoryClient:
    """What the producer uses of `AIOKafkaProducer`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._closed = False
        broker.sessions += 1

    async def partitions_for(self, topic: str) -> set[int]:
        return set(range(PARTITIONS))

    def create_batch(self) -> _Builder:
        return _Builder(self._broker)

    async def send_batch(self, builder: _Builder, topic: str, *, partition: int) -> asyncio.Future[_Metadata]:
        if self._closed:
            raise ProducerClosed
        future: asyncio.Future[_Metadata] = asyncio.get_running_loop().create_future()

        def arrive() -> None:
            if not future.done():
                self._arrive(builder.records, (topic, partition), future)

        if self._broker.holding:
            self._broker.held.append(arrive)
        else:
            asyncio.get_running_loop().call_soon(arrive)
        return future

    def _arrive(self, records: list[Written], where: tuple[str, int], future: asyncio.Future[_Metadata]) -> None:
        broker = self._broker
        log = broker.logs.setdefault(where, [])
        fault = broker.faults.pop(0) if broker.faults else ""
        error: KafkaError | None = None
        if fault == "lost":
            error = OutOfOrderSequenceNumber()
        elif any(len(r.value or b"") > broker.max_bytes for r in records) and not where[0].startswith("platform."):
            error = MessageSizeTooLargeError()
        else:
            base = len(log)
            log.extend(records)
            if fault == "unsure":
                broker.unsure.update(r.value for r in records)
                error = OutOfOrderSequenceNumber()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(_Metadata(base))

    async def stop(self) -> None:
        self._closed = True


class MemorySession(ProducerSession):
    """The real session, with clients of another kind."""

    def __init__(self, settings: Settings, stats: ProducerStats, new_client: Callable[[], Any]) -> None:
        super().__init__(settings, stats)
        self._new_client = new_client

    async def _connect(self) -> Any:
        return self._new_client()


class MemoryKafkaProducer(EventProducer):
    """The real producer on such a broker."""

    def __init__(
        self, settings: Settings, broker: MemoryBroker, new_client: Callable[[MemoryBroker], Any] = MemoryClient
    ) -> None:
        super().__init__(settings)
        self._session = MemorySession(settings, self.stats, lambda: new_client(broker))
