"""The idempotent session of a producer: one client of aiokafka at a time, replaced where a batch has failed for good.

A batch that was refused has used up sequence numbers: the broker would refuse all that follow on its partition.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streams.domain.errors import KafkaUnavailableError, PlatformError
from streams.kafka.errors import translated
from streams.kafka.producer_stats import ProducerStats
from streams.kafka.security import aiokafka_options
from streams.kafka.sending import MAX_DEAD_LETTER_BYTES
from streams.settings import Settings

log = logging.getLogger(__name__)

CLOSE_S: Final = 10.0
"""How long is waited for an orderly end."""

_MAX_BATCH_BYTES: Final = 131_072
_REQUEST_S: Final = 10.0
_ANSWER_S: Final = _REQUEST_S + 2.0
"""How long the answer may take which partitions a topic has: aiokafka ends by itself after `_REQUEST_S`, but never where
the client is closed meanwhile."""


class ProducerSession:
    """Connects, and connects anew."""

    def __init__(self, settings: Settings, stats: ProducerStats) -> None:
        self._settings = settings
        self._stats = stats
        self._client: AIOKafkaProducer | None = None
        self._connected = asyncio.Event()
        self._replacing: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def is_connected(self) -> bool:
        """Whether there is a client now."""
        return self._connected.is_set()

    async def start(self) -> None:
        """Connect. Raises KafkaUnavailableError or KafkaAccessError."""
        self._client = await self._connect()
        self._connected.set()

    async def stop(self) -> None:
        """Close the client; what it has queued is sent first."""
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait({self._replacing}, timeout=CLOSE_S)
        client, self._client = self._client, None
        if client is not None:
            await self._close(client)
        for task in self._closing:
            task.cancel()

    async def client(self) -> AIOKafkaProducer | None:
        """The client, once there is one; None where it was lost again meanwhile."""
        await self._connected.wait()
        return self._client

    async def partitions_of(self, client: AIOKafkaProducer, topic: str) -> set[int]:
        """The partitions of a topic, as the client knows them or learns now. Raises aiokafka's errors, or TimeoutError."""
        async with asyncio.timeout(_ANSWER_S):
            partitions: set[int] = await client.partitions_for(topic)
            return partitions

    async def count_partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises KafkaUnavailableError, KafkaAccessError or UnknownTopicError."""
        if (client := await self.client()) is None:
            raise KafkaUnavailableError("the producer has lost its connection")
        with translated(f"write to {topic}"):
            return len(await self.partitions_of(client, topic))

    def replace(self, broken: AIOKafkaProducer) -> None:
        """Begin a new session, unless that client was replaced already."""
        if self._client is broken:
            self._client = None
            self._connected.clear()
            self._replacing = asyncio.get_running_loop().create_task(self._reconnect(broken))

    async def _reconnect(self, broken: AIOKafkaProducer) -> None:
        log.warning("a batch failed for good: the producer starts a new session")
        await self._close(broken)
        policy = self._settings.retry_policy()
        failures = 0
        while self._client is None:
            try:
                self._client = await self._connect()
            except PlatformError as exc:  # refused credentials too: they may be rotated under a running worker
                failures += 1
                log.warning("the producer cannot connect, trying again: %s", exc)
                await asyncio.sleep(policy.ceiling_s(failures))
        self._connected.set()

    async def _connect(self) -> AIOKafkaProducer:
        client = AIOKafkaProducer(
            **aiokafka_options(self._settings),
            client_id=self._settings.app_id,
            acks="all",
            enable_idempotence=True,
            # Records have lingered here already.
            linger_ms=0,
            max_batch_size=_MAX_BATCH_BYTES,
            max_request_size=MAX_DEAD_LETTER_BYTES,
            request_timeout_ms=int(_REQUEST_S * 1000),
            # So that a topic which is given more partitions is soon written to in all of them.
            metadata_max_age_ms=20_000,
        )
        with translated(f"connect to Kafka at {self._settings.kafka_bootstrap_servers}"):
            try:
                await client.start()
            except BaseException:
                await client.stop()
                raise
        self._stats.sessions += 1
        return client

    async def _close(self, client: AIOKafkaProducer) -> None:
        """Close a client. While Kafka is away, that goes on beside the caller: a client not closed would stay for ever."""
        closing = asyncio.get_running_loop().create_task(self._end(client))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        done, _ = await asyncio.wait({closing}, timeout=CLOSE_S)
        if not done:
            log.warning("the producer has not closed within %g s", CLOSE_S)

    async def _end(self, client: AIOKafkaProducer) -> None:
        try:
            await client.stop()
        except KafkaError as exc:
            log.warning("the producer did not close in order: %r", exc)
