"""A client that posts events at a rate and watches what it has posted: with 200 sockets, for as little CPU as it can.

A process of its own, told by `BENCH_*`. Its clock is the only one: a latency is the time from when an event was due to
be posted, whether or not the client was late itself, until the bytes of its message were read. How late its timers were
is written down too.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import time
from array import array
from collections import deque
from pathlib import Path
from typing import Final, cast

import psutil
import uvloop

from deploy.local.bench_gateway import requests
from deploy.local.bench_gateway.frames import BINARY, CLOSE, PING, TEXT, FrameReader, pong
from streams.settings import load_settings

_POSTERS: Final = 32
_PACE_S: Final = 0.001
_LAG_EVERY_S: Final = 0.01
_SETTLE_S: Final = 10.0
"""How long the last deliveries may take."""
_STALLED_BUFFER: Final = 4_096
_ID: Final = b'"event_id":"'
_CREATED: Final = b"HTTP/1.1 201 "
_UPGRADED: Final = b"HTTP/1.1 101 "


class RefusedError(Exception):
    """The gateway answered something else than what is measured."""


class Plan:
    """What this run is, and what has come of it."""

    def __init__(self) -> None:
        told = os.environ
        self.rate = int(told["BENCH_RATE"])
        self.watchers = int(told["BENCH_WATCHERS"])
        self.stalled = int(told["BENCH_STALLED"])
        self.token = told["BENCH_TOKEN"]
        self.server = psutil.Process(int(told["BENCH_SERVER"]))
        self.result = Path(told["BENCH_RESULT"])
        self.warm = int(told["BENCH_WARM_S"]) * self.rate
        self.total = self.warm + int(told["BENCH_SECONDS"]) * self.rate
        self.port = load_settings().web_port
        self.run = secrets.token_hex(4)
        self.began = 0.0
        """The loop's time at which event 0 is due."""
        self.failure: str | None = None

    def due(self, number: int) -> float:
        """The loop's time at which an event is to be posted."""
        return self.began + number / self.rate


class Poster(asyncio.Protocol):
    """A connection that posts one event after the other."""

    def __init__(self, plan: Plan, free: deque[Poster]) -> None:
        self._plan = plan
        self._free = free
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It can post."""
        # uvloop's own is no subclass of it.
        self._transport = cast("asyncio.Transport", transport)
        self._free.append(self)

    def post(self, request: bytes) -> None:
        """Post an event."""
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """An answer: small, so that it comes in one piece."""
        if not data.startswith(_CREATED):
            self._plan.failure = f"a post was answered: {data[:1_000]!r}"
        self._free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Only we may close it."""
        if exc is not None:
            self._plan.failure = f"a connection was lost: {exc!r}"


class Watcher(asyncio.Protocol):
    """A WebSocket that counts what comes, and how late."""

    def __init__(self, plan: Plan, latencies: array[float]) -> None:
        self._plan = plan
        self._latencies = latencies
        self._clock = asyncio.get_running_loop().time
        self._frames: FrameReader | None = None
        self._shaking = b""
        self._transport: asyncio.Transport | None = None
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.seen = bytearray(plan.total)
        """How often each event came."""
        self.count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast("asyncio.Transport", transport)
        plan = self._plan
        lines = (
            f"GET /api/v1/stream/{requests.TOPIC} HTTP/1.1",
            f"Host: 127.0.0.1:{plan.port}",
            f"Authorization: Bearer {plan.token}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "",
            "",
        )
        self._transport.write("\r\n".join(lines).encode())

    def stall(self) -> None:
        """Never read again."""
        assert self._transport is not None
        self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """The answer to the upgrade, then frames."""
        if self._frames is None:
            self._shaking += data
            head, end, data = self._shaking.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(_UPGRADED):
                self.open.set_exception(RefusedError(f"a stream was refused: {self._shaking[:1_000]!r}"))
                return
            self._frames = FrameReader()
            self.open.set_result(None)
        now = self._clock()
        for opcode, message in self._frames.feed(data):
            if opcode in (TEXT, BINARY):
                self._message(message, now)
            elif opcode == PING:
                assert self._transport is not None
                self._transport.write(pong(message))
            elif opcode == CLOSE:
                self._plan.failure = f"a stream was closed: {message!r}"

    def _message(self, message: bytes, now: float) -> None:
        plan = self._plan
        at = message.find(_ID)
        if at < 0:
            # A gap, for one: what is lost will be missing.
            return
        at += len(_ID)
        number = requests.number_of(message[at : at + 36])
        self.seen[number] += 1
        self.count += 1
        if number >= plan.warm:
            self._latencies.append(now - plan.due(number))


async def _post(plan: Plan, free: deque[Poster], measure_from: asyncio.Event) -> None:
    """Post every event when it is due, or as soon after as there is a connection for it."""
    clock = asyncio.get_running_loop().time
    now_ms = time.time_ns() // 1_000_000
    body = requests.template(now_ms)
    head = requests.head(f"/api/v1/events/{requests.TOPIC}", plan.token, "application/json", len(body), plan.port)
    before, _, rest = (head + body).partition(requests.ID_MARK.encode())
    between, _, after = rest.partition(requests.DEVICE_MARK.encode())
    plan.began = clock()
    number = 0
    while number < plan.total:
        while number < plan.total and free and clock() >= plan.due(number):
            id_ = requests.event_id(number, plan.run).encode()
            device = b"device-%06d" % (number % requests.DEVICES)
            free.popleft().post(b"".join((before, id_, between, device, after)))
            number += 1
        if number >= plan.warm:
            measure_from.set()
        if plan.failure is not None:
            raise RefusedError(plan.failure)
        await asyncio.sleep(_PACE_S)


async def _lag(late: array[float]) -> None:
    """How late this process's timers are."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + _LAG_EVERY_S
        await asyncio.sleep(_LAG_EVERY_S)
        late.append(clock() - due)


async def run() -> None:
    """Watch, post, and write down what came."""
    plan = Plan()
    loop = asyncio.get_running_loop()
    latencies: array[float] = array("d")
    late: array[float] = array("d")
    free: deque[Poster] = deque()
    watchers: list[Watcher] = []
    for number in range(plan.watchers + plan.stalled):
        connection = socket.socket()
        connection.setblocking(False)
        if stalls := number >= plan.watchers:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _STALLED_BUFFER)
        await loop.sock_connect(connection, ("127.0.0.1", plan.port))
        _, watcher = await loop.create_connection(lambda: Watcher(plan, latencies), sock=connection)
        await watcher.open
        if stalls:
            watcher.stall()
        else:
            watchers.append(watcher)
    for _ in range(_POSTERS):
        await loop.create_connection(lambda: Poster(plan, free), "127.0.0.1", plan.port)
    measure_from = asyncio.Event()
    lagging = asyncio.create_task(_lag(late))
    posting = asyncio.create_task(_post(plan, free, measure_from))
    waiting = asyncio.create_task(measure_from.wait())
    await asyncio.wait({posting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    cpu_before, wall_before = _cpu(plan), time.perf_counter()
    delivered_before = sum(watcher.count for watcher in watchers)
    late_before = len(late)
    await posting
    until = loop.time() + _SETTLE_S
    while any(watcher.count < plan.total for watcher in watchers) and loop.time() < until:  # noqa: ASYNC110  # sockets tell nobody
        await asyncio.sleep(_LAG_EVERY_S)
    # Whatever comes twice comes soon after.
    cpu_s, wall_s = _cpu(plan) - cpu_before, time.perf_counter() - wall_before
    lagging.cancel()
    if plan.failure is not None:
        raise RefusedError(plan.failure)
    found = {
        "events": sum(watcher.count for watcher in watchers) - delivered_before,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "p50_ms": _percentile_ms(latencies, 0.50),
        "p99_ms": _percentile_ms(latencies, 0.99),
        "lost": sum(plan.total - watcher.seen.count(1) for watcher in watchers),
        "client_p99_ms": _percentile_ms(late[late_before:], 0.99),
    }
    part = plan.result.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.rename(plan.result)


def _cpu(plan: Plan) -> float:
    times = plan.server.cpu_times()
    return float(times.user + times.system)


def _percentile_ms(values: array[float], share: float) -> float | None:
    """The value that so many are not above, seconds to milliseconds. Where nothing was delivered there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else None


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
