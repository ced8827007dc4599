"""Kafka is killed and brought back under load: every 2xx is in the log, exactly once, where its receipt says."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from streams.domain.headers import header
from tests.platform import Worker, eventually, read_topic
from tests.stack import KafkaBroker

DEADLINE_S: Final = 3.0
GRACE_S: Final = 1.0
"""What a late event loop may add, on a machine that also starts a broker."""
SINGLE_CLIENTS: Final = 12
BATCH_CLIENTS: Final = 3
BATCH: Final = 40
BEFORE_S: Final = 2.0
AWAY_S: Final = 5.0
AFTER_S: Final = 3.0
PATIENCE_S: Final = 20.0
"""How long the last events may take to be acknowledged, once Kafka is back."""


@dataclass
class Seen:
    """What all clients were told."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    receipts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Partition and offset of each acknowledged event."""
    refused: Counter[str] = field(default_factory=Counter)
    """Codes of the 503s, and of what failed within a batch."""
    slowest_s: float = 0.0

    def acknowledged(self, receipt: dict[str, Any]) -> None:
        """Take note of a receipt."""
        self.receipts[receipt["event_id"]] = (receipt["partition"], receipt["offset"])

    async def ask(self, client: aiohttp.ClientSession, path: str, body: bytes, kind: str) -> tuple[int, Any]:
        """Post, and return the status and the answer. A 503 says when to come again, which we then await."""
        began = time.monotonic()
        async with client.post(path, data=body, headers={"Content-Type": kind}) as response:
            answer = await response.json(content_type=None)
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        if response.status == 503:
            self.refused[answer["code"]] += 1
            assert answer["retriable"] is True
            # Sooner than it asks for: this is a test of what comes again.
            assert float(response.headers["Retry-After"]) > 0
            await asyncio.sleep(0.2)
        return response.status, answer


def document(event_id: str) -> dict[str, object]:
    return {
        "event_id": event_id,
        "event_type": "test.event",
        "timestamp": 1_795_609_800_000,
        "device_id": f"device-{event_id[:2]}",
    }


async def post_single_events(client: aiohttp.ClientSession, seen: Seen) -> None:
    """One event after the other, each until it is acknowledged."""
    while not seen.stop.is_set():
        body = json.dumps(document(str(uuid.uuid4()))).encode()
        while True:
            status, answer = await seen.ask(client, "/api/v1/events/iot", body, "application/json")
            if status == 201:
                seen.acknowledged(answer)
                break
            assert status == 503, answer


async def post_batches(client: aiohttp.ClientSession, seen: Seen) -> None:
    """One batch after the other; of each, what was not acknowledged is sent again."""
    while not seen.stop.is_set():
        left: Sequence[str] = [str(uuid.uuid4()) for _ in range(BATCH)]
        while left:
            body = "\n".join(json.dumps(document(event_id)) for event_id in left).encode()
            status, answer = await seen.ask(client, "/api/v1/events/iot/batch", body, "application/x-ndjson")
            if status == 503:
                continue
            assert status in (200, 207), answer
            assert len(answer["results"]) == len(left)
            again = []
            for event_id, result in zip(left, answer["results"], strict=True):
                if result["ok"]:
                    assert result["event_id"] == event_id
                    seen.acknowledged(result)
                else:
                    assert result["retriable"] is True, result
                    seen.refused[result["code"]] += 1
                    again.append(event_id)
            if again:
                await asyncio.sleep(0.2)
            left = again


async def kill_and_bring_back(broker: KafkaBroker, seen: Seen) -> int:
    """The outage, with load before, while and after it. Returns how many were acknowledged before it."""
    await asyncio.sleep(BEFORE_S)
    before = len(seen.receipts)
    await asyncio.to_thread(broker.kill)
    await asyncio.sleep(AWAY_S)
    await asyncio.to_thread(broker.start)
    known = len(seen.receipts)

    async def goes_on() -> bool:
        return len(seen.receipts) >= known + SINGLE_CLIENTS

    await eventually(goes_on, PATIENCE_S)
    await asyncio.sleep(AFTER_S)
    seen.stop.set()
    return before


@pytest.mark.slow
@pytest.mark.parametrize("clients", ["single", "batch"])
async def test_every_2xx_is_in_the_log_once_and_no_request_hangs_when_kafka_is_killed(
    clients, own_kafka_broker: KafkaBroker, schema_registry, tmp_path: Path
):
    worker = Worker(
        tmp_path,
        kafka_bootstrap_servers=own_kafka_broker.bootstrap_servers,
        registry_url=schema_registry.url,
        request_deadline_s=DEADLINE_S,
    )
    worker.start()
    try:
        seen = Seen()
        async with worker.client("events:write:iot") as client, asyncio.TaskGroup() as group:
            post, count = (post_single_events, SINGLE_CLIENTS) if clients == "single" else (post_batches, BATCH_CLIENTS)
            for _ in range(count):
                group.create_task(post(client, seen))
            outage = group.create_task(kill_and_bring_back(own_kafka_broker, seen))
        records = await read_topic(worker.settings, "events.iot")
    except BaseException as exc:
        exc.add_note(f"the worker's status: {worker.returncode}; the end of its log:\n{worker.tail()}")
        raise
    finally:
        worker.stop()
    # Else nothing was shown.
    assert 0 < outage.result() < len(seen.receipts)
    assert seen.refused
    assert seen.slowest_s <= DEADLINE_S + GRACE_S
    times = Counter(header(record.headers, "event-id") for record in records)
    assert {event_id: times[event_id] for event_id in seen.receipts if times[event_id] != 1} == {}
    places = {header(record.headers, "event-id"): (record.partition, record.offset) for record in records}
    assert {event_id: places[event_id] for event_id in seen.receipts} == seen.receipts
