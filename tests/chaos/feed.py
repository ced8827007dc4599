"""Fills `platform.ingress` while everything else goes wrong: plainly, in transactions, and in ones that are aborted."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import uuid
from collections.abc import Iterable
from typing import Any, Final

from confluent_kafka import KafkaException, Producer

from streams.domain.naming import INGRESS
from tests.chaos.events import Sent, Source
from tests.chaos.threads import in_thread

_CHUNK: Final = 400
_FLUSH_S: Final = 120.0


class FeedError(Exception):
    """A record could not be written, so nothing can be judged."""


class Feed:
    """Writes the records of a source in order, as far as it is allowed to."""

    def __init__(self, source: Source, bootstrap_servers: str, seed: int) -> None:
        self.written = 0
        """Records whose write was begun; aborted ones are not counted."""
        self.aborted = 0
        self._source = source
        self._draw = random.Random(f"{seed}/feed")
        self._options: dict[str, Any] = {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "compression.type": "gzip",
            "linger.ms": 5,
            "log_level": 0,
        }
        self._plain = Producer({**self._options, "message.timeout.ms": int(_FLUSH_S * 1_000)})
        self._transactional = self._new_transactional()
        self._errors: list[str] = []
        self._allowed = 0
        self._rate = 0.0
        self._is_stopped = False
        self._lock = threading.Lock()

    def allow(self, until: int, rate: float = 0.0) -> None:
        """Go on up to this number of records, at so many a second; at once with 0."""
        self._allowed, self._rate = max(self._allowed, min(until, self._source.count)), rate

    async def run(self) -> None:
        """Write everything, as it is allowed. Raises FeedError."""
        while self.written < self._source.count:
            if self.written < self._allowed:
                began, before = time.monotonic(), self.written
                await in_thread(self._write_chunk)
                pause = (self.written - before) / self._rate if self._rate else 0.0
                await asyncio.sleep(max(0.0, pause - (time.monotonic() - began)))
            else:
                await asyncio.sleep(0.02)
        await in_thread(self._finish)

    async def hold(self) -> None:
        """Write nothing until `go_on`: a transaction of ours that meets a broker's death would have no known end."""
        try:
            await in_thread(self._lock.acquire)
        except asyncio.CancelledError:
            self._lock.release()
            raise

    def go_on(self) -> None:
        """End what `hold` began."""
        self._lock.release()

    def stop(self) -> None:
        """Write no more, and wait for nothing."""
        self._is_stopped = True

    def _write_chunk(self) -> None:
        with self._lock:
            if self._is_stopped:
                return
            if self._draw.random() < 0.15:
                self._abort()
            end = min(self.written + self._draw.randint(_CHUNK // 4, _CHUNK), self._allowed)
            records = list(self._source.records(self.written, end))
            self.written = end
            if self._draw.random() < 0.5:
                for record in records:
                    self._send(self._plain, record)
                # Two producers write into the same partitions: only one of them at a time, so that there is one order.
                self._flush(self._plain)
            else:
                self._in_transaction(records, commit=True)
            if self._errors:
                raise FeedError(f"{len(self._errors)} records were not written: {self._errors[0]}")

    def _abort(self) -> None:
        records = [self._source.aborted(self._draw) for _ in range(self._draw.randint(1, 60))]
        self._in_transaction(records, commit=False)
        self.aborted += len(records)

    def _in_transaction(self, records: Iterable[Sent], *, commit: bool) -> None:
        producer = self._transactional
        try:
            producer.begin_transaction()
            for record in records:
                self._send(producer, record)
            # Aborted ones must be in the log, too, and not only in this client's memory.
            self._flush(producer)
            producer.commit_transaction(_FLUSH_S) if commit else producer.abort_transaction(_FLUSH_S)
        except KafkaException as exc:
            raise FeedError(f"a transaction of the feed failed: {exc}") from exc

    def _send(self, producer: Producer, record: Sent) -> None:
        while True:
            try:
                producer.produce(
                    INGRESS,
                    record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=list(record.headers),
                    on_delivery=self._heard,
                )
            except BufferError:
                producer.poll(0.1)
            else:
                return

    def _heard(self, error: object, _: object) -> None:
        if error is not None:
            self._errors.append(str(error))

    def _flush(self, producer: Producer) -> None:
        deadline = time.monotonic() + _FLUSH_S
        while (rest := producer.flush(1.0)) and not self._is_stopped:
            if time.monotonic() > deadline:
                raise FeedError(f"{rest} records were not written in {_FLUSH_S:g} s")

    def _finish(self) -> None:
        """The log ends with an aborted transaction: behind the last record there is nothing to be seen."""
        with self._lock:
            self._abort()
            self._flush(self._plain)

    def _new_transactional(self) -> Producer:
        producer = Producer(
            {**self._options, "transactional.id": f"chaos-{uuid.uuid4().hex}", "transaction.timeout.ms": 60_000}
        )
        producer.init_transactions(60)
        return producer
