"""The gateway on a platform of memory, in a thread of its own: for clients that block, as generators of requests do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import httpx

from streams.domain.naming import AGGREGATES
from streams.kafka.batching import Source
from streams.kafka.producer import OutgoingRecord
from streams.settings import Settings
from tests.dead_letters import Log, gateway_on, make_letter
from tests.web_gateway import Gateway, make_record

FAR_FUTURE_S = 400_000_000_000
"""So that any time that the format can say is one that an event may have."""


@dataclass
class Served:
    """A gateway that listens, with an event, a dead letter and a row of a table to look at."""

    url: str
    client: httpx.Client
    gateway: Gateway
    log: Log


@contextmanager
def served_gateway(**settings: Any) -> Iterator[Served]:
    """Serve until the end of the block."""
    loop = asyncio.new_event_loop()
    served: list[Served] = []
    ready, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        log = Log()
        async with gateway_on(log, make_letter(), **{"event_max_future_s": FAR_FUTURE_S} | settings) as gateway:
            record = make_record(gateway.codec, 0)
            log.append("events.iot", 0, OutgoingRecord("events.iot", record.key, record.value, record.headers))
            tables = gateway.state.tables
            tables.partitions = {"events.iot": 1, AGGREGATES: 1}
            tables.assign(Source("events.iot", 0))
            tables.assign(Source(AGGREGATES, 0))
            tables.put(0, "d1")
            url = str(gateway.client.make_url("/")).rstrip("/")
            served.append(Served(url, httpx.Client(base_url=url), gateway, log))
            ready.set()
            await over.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            # Also where it fails to start: the test must not wait for ever.
            ready.set()
            loop.close()

    thread = threading.Thread(target=run, name="gateway")
    # The sizes of topics are asked of brokers by a client of their own.
    with patch("streams.event_topics.partition_bytes", _a_kilobyte_each):
        thread.start()
        ready.wait()
        try:
            yield served[0]
        finally:
            if served:
                served[0].client.close()
                loop.call_soon_threadsafe(over.set)
            thread.join()


async def _a_kilobyte_each(_: Settings, topics: Mapping[str, int]) -> dict[str, dict[int, int]]:
    return {name: dict.fromkeys(range(count), 1_024) for name, count in topics.items()}
