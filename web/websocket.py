"""Live events over WebSocket: one JSON message an event, and an explicit message where some were lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import WSCloseCode, WSMsgType, hdrs, web
from aiohttp.client_exceptions import ClientConnectionResetError

from streams.domain.errors import UnavailableError
from streams.domain.naming import api_topic
from streams.hub import Subscription
from streams.kafka.consumer import Record
from web.auth import Claims
from web.errors import DeadlineExceededError, InvalidRequestError, OriginDeniedError
from web.metrics import Metrics
from web.parameters import Parameters
from web.records import RecordFilter, stored_event
from web.services import Services

log = logging.getLogger(__name__)

SUBPROTOCOL: Final = "event-streams.v1"
HEARTBEAT_S: Final = 20.0
TOKEN_EXPIRED: Final = 4401
"""From the range 4000 to 4999, which RFC 6455 leaves to applications."""

_CLOSE_TIMEOUT_S: Final = 2.0
_MAX_CLIENT_MESSAGE_BYTES: Final = 4_096
_REMEMBERED: Final = 1_000
_REMEMBERED_BYTES: Final = 16_384

CLAIMS: Final = web.RequestKey("claims", Claims)
"""Where authentication leaves what the token says."""


class Gap(msgspec.Struct, tag="gap", tag_field="type"):
    """The client was too slow: events are missing between the cursor and the next message."""

    missed: int
    """How many; with a filter, at most so many."""
    cursor: str


class Live:
    """The WebSocket handler and its open sockets."""

    def __init__(self, services: Services, metrics: Metrics, *, clock: Callable[[], float] = time.time) -> None:
        self._services = services
        self._metrics = metrics
        self._clock = clock
        self._sockets: set[web.WebSocketResponse] = set()
        self._rendered: dict[tuple[str, int, int], bytes] = {}

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """GET /stream/{topic}: what is stored from now on. Nothing is missed once the upgrade is answered."""
        parameters = Parameters(request.query, ("key", "event_type"))
        wanted = RecordFilter.of(parameters.text("key"), parameters.text("event_type"))
        parameters.check()
        _check_handshake(request)
        services = self._services
        services.require_started()
        async with AsyncExitStack() as stack:
            deadline_s = services.settings.request_deadline_s
            try:
                async with asyncio.timeout(deadline_s):
                    kafka_topic = await services.catalog.require(request.match_info["topic"])
                    subscription = await stack.enter_async_context(services.hub.subscribe(kafka_topic))
            except TimeoutError as exc:
                raise DeadlineExceededError(deadline_s) from exc
            socket = web.WebSocketResponse(
                heartbeat=HEARTBEAT_S,
                protocols=(SUBPROTOCOL,),
                max_msg_size=_MAX_CLIENT_MESSAGE_BYTES,
                timeout=_CLOSE_TIMEOUT_S,
                compress=False,
            )
            await socket.prepare(request)
            topic = api_topic(kafka_topic)
            self._sockets.add(socket)
            self._metrics.client(topic, +1)
            try:
                await self._serve(socket, topic, subscription, wanted, request[CLAIMS].expires_at)
            finally:
                self._metrics.client(topic, -1)
                self._sockets.discard(socket)
        return socket

    async def shutdown(self) -> None:
        """Close every socket with 1001, so that clients connect to another worker."""
        await asyncio.gather(
            *(_close(socket, WSCloseCode.GOING_AWAY, "the server is shutting down") for socket in list(self._sockets))
        )

    async def _serve(
        self,
        socket: web.WebSocketResponse,
        topic: str,
        subscription: Subscription,
        wanted: RecordFilter,
        expires_at: float,
    ) -> None:
        sending = asyncio.ensure_future(self._send(socket, topic, subscription, wanted))
        receiving = asyncio.ensure_future(_receive(socket))
        code, reason = int(WSCloseCode.INTERNAL_ERROR), "internal"
        try:
            done, _ = await asyncio.wait(
                {sending, receiving},
                timeout=max(0.0, expires_at - self._clock()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                code, reason = TOKEN_EXPIRED, "the token has expired"
            elif sending in done:
                code, reason = _ending(sending)
            else:
                # The client has closed, or its connection is lost: there is nobody to tell.
                receiving.result()
                code, reason = WSCloseCode.OK, ""
        except Exception:
            # The connection is a WebSocket now: no HTTP response can tell.
            log.exception("a live stream failed")
        finally:
            sending.cancel()
            receiving.cancel()
            await asyncio.wait({sending, receiving})
            if not sending.cancelled():
                _ending(sending)
            await _close(socket, code, reason)

    async def _send(
        self, socket: web.WebSocketResponse, topic: str, subscription: Subscription, wanted: RecordFilter
    ) -> None:
        """Send what comes until the hub ends. A client that does not read blocks here alone, until the heartbeat."""
        positions: dict[int, int] = {}
        while True:
            records, missed = await subscription.take()
            if missed:
                self._metrics.missed(topic, missed)
                await socket.send_frame(msgspec.json.encode(Gap(missed, _cursor(positions))), WSMsgType.TEXT)
            if not records:
                return
            sent = 0
            for record in records:
                positions[record.partition] = record.offset
                if wanted.matches(record):
                    await socket.send_frame(await self._message(record, positions), WSMsgType.TEXT)
                    sent += 1
            self._metrics.sent(topic, sent)

    async def _message(self, record: Record, positions: dict[int, int]) -> bytes:
        """The message of a record: made once for all clients, but for its cursor."""
        place = (record.topic, record.partition, record.offset)
        body = self._rendered.get(place)
        if body is None:
            stored = await stored_event(record, self._services.codec, self._services.loader)
            body = msgspec.json.encode(stored)[1:]
            if len(body) <= _REMEMBERED_BYTES:
                self._rendered[place] = body
                if len(self._rendered) > _REMEMBERED:
                    del self._rendered[next(iter(self._rendered))]
        return b'{"type":"event","cursor":"%s",%s' % (_cursor(positions).encode(), body)


def _cursor(positions: dict[int, int]) -> str:
    """The last offset that was seen of each partition; to clients, a text without meaning."""
    return ",".join(f"{partition}:{offset}" for partition, offset in sorted(positions.items()))


def _check_handshake(request: web.Request) -> None:
    offered = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL)
    if offered is not None and SUBPROTOCOL not in (name.strip() for name in offered.split(",")):
        # aiohttp would go on, and log what was offered: the token.
        raise InvalidRequestError(f"offer the subprotocol {SUBPROTOCOL} as well")
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and urlsplit(origin).netloc.lower() != request.host.lower():
        raise OriginDeniedError(f"pages of {origin!r} may not open a stream here")


async def _receive(socket: web.WebSocketResponse) -> None:
    """Take what the client sends until it closes: pings and closing are answered, all else is ignored."""
    while (await socket.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
        pass


def _ending(sending: asyncio.Future[None]) -> tuple[int, str]:
    """The close code and reason for how the sending ended."""
    error = sending.exception()
    if error is None:
        return WSCloseCode.GOING_AWAY, "the server is shutting down"
    if isinstance(error, UnavailableError):
        return WSCloseCode.TRY_AGAIN_LATER, error.code
    if not isinstance(error, ClientConnectionResetError):
        log.error("a live stream failed", exc_info=error)
    return WSCloseCode.INTERNAL_ERROR, "internal"


async def _close(socket: web.WebSocketResponse, code: int, reason: str) -> None:
    # Not drained: a client that does not read must not hold up the closing.
    await socket.close(code=code, message=reason.encode(), drain=False)
