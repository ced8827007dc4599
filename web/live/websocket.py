"""Live events over WebSocket: the handshake, one task that sends and one that hears, and how a stream ends."""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import WSCloseCode, WSMsgType, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_exceptions import ClientConnectionResetError

from streams.domain.cursor import CursorError, Gap, parse_cursor
from streams.domain.errors import FieldError, UnavailableError, UnknownTopicError
from streams.domain.naming import api_topic
from streams.feed import Entry
from streams.hub import Start
from streams.subscription import Subscription
from web.errors import DeadlineExceededError, InvalidParameterError, InvalidRequestError, OriginDeniedError
from web.live.stream_messages import StreamFormat, StreamMessages, gap_frame, position_frame
from web.observe.metrics import Metrics
from web.parameters import Parameters, Query, choice, text
from web.read.records import RecordFilter
from web.security.claims import CLAIMS
from web.security.cors import origin_allowed
from web.services import Services

log = logging.getLogger(__name__)

SUBPROTOCOL: Final = "event-streams.v1"
HEARTBEAT_S: Final = 20.0
"""How often the server pings; a client that does not answer within half of it is dropped."""
TOKEN_EXPIRED: Final = 4401
TOPIC_GONE: Final = 4404
"""From the range 4000 to 4999, which RFC 6455 leaves to applications."""
TOO_SLOW: Final = "too_slow"
GOING_AWAY: Final = (int(WSCloseCode.GOING_AWAY), "the server is shutting down")

INVALID_CURSOR: Final = "invalid_cursor"
GAP: Final = "gap"
CLOSE: Final = "close"


def _start(value: str) -> Start:
    return value if value in ("latest", "earliest") else parse_cursor(value)  # type: ignore[return-value]


KEY: Final = text("key", "of this key alone: `user_id`, else `device_id`")
EVENT_TYPE: Final = text("event_type", "of this event type alone")
FROM: Final[Query[Start]] = Query(
    "from",
    "where to begin: `latest`, `earliest`, or the cursor of a message, which is gone on from",
    _start,
    "latest",
    INVALID_CURSOR,
    {"type": "string", "default": "latest", "examples": ["latest", "earliest", "0:18,1:43"]},
)
FORMAT: Final = choice(
    "format", "what events are sent as; avro and protobuf are binary frames", tuple(StreamFormat), StreamFormat.JSON
)
SLOW: Final = choice(
    "slow", "what becomes of a client that does not keep up: a `gap` message, or the close code 1013", (GAP, CLOSE), GAP
)
STREAM_QUERY: Final = (KEY, EVENT_TYPE, FROM, FORMAT, SLOW)

_POSITION_S: Final = 5.0
"""How long a stream may come on without telling its client, whose filter takes none of the events."""
_CLOSE_TIMEOUT_S: Final = 2.0
_MAX_CLIENT_MESSAGE_BYTES: Final = 4_096
_SEND_BUFFER_BYTES: Final = 262_144
"""The kernel's part of what waits for a client: by default it would be megabytes, all of them before the next ping."""


class TooSlowError(Exception):
    """The client has a gap, and asked to be closed rather than to be told; or it takes nothing at all."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client asked for."""

    wanted: RecordFilter
    start: Start
    format: StreamFormat
    close_slow: bool

    @classmethod
    def of(cls, request: web.Request) -> Wishes:
        """The wishes of a request's query. Raises InvalidParameterError."""
        parameters = Parameters(request.query, STREAM_QUERY)
        wanted = RecordFilter.of(parameters.read(KEY), parameters.read(EVENT_TYPE))
        start, format_, slow = parameters.read(FROM), parameters.read(FORMAT), parameters.read(SLOW)
        parameters.check()
        return cls(wanted, start, StreamFormat(format_ or StreamFormat.JSON), slow == CLOSE)


class Outlet:
    """Writes whole frames to a WebSocket's connection, by public ways past aiohttp's own framing of each message."""

    def __init__(
        self, socket: web.WebSocketResponse, transport: asyncio.Transport, writer: AbstractStreamWriter
    ) -> None:
        self._socket = socket
        self._transport = transport
        self._writer = writer
        self.leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the worker shuts down."""
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, _SEND_BUFFER_BYTES)

    async def write(self, frames: bytes) -> None:
        """Write; where the client does not take what was written before, wait until it does.

        Raises ClientConnectionResetError once the connection is closed: after a close frame nothing may come; and
        TooSlowError for a client that takes nothing for as long as it may leave a ping unanswered.
        """
        if self._socket.closed or self._transport.is_closing():
            raise ClientConnectionResetError("the connection is closed")
        self._transport.write(frames)
        if self._transport.get_write_buffer_size():
            try:
                # aiohttp asks for no answer to its ping while a client sends, which one may do that reads nothing.
                async with asyncio.timeout(1.5 * HEARTBEAT_S):
                    await self._writer.drain()
            except TimeoutError as exc:
                raise TooSlowError from exc

    async def close(self, code: int, reason: str) -> None:
        """Close with a code; a client that does not take it in time loses its connection all the same.

        Not while another task receives: aiohttp would not wait for the client's answer then.
        """
        try:
            # Not drained: a client that does not read must not hold up the closing.
            await self._socket.close(code=code, message=reason.encode(), drain=False)
        finally:
            if self._transport.get_write_buffer_size():
                # It would stay open until the client has read all of it, which it may never do.
                self._transport.abort()


class Live:
    """The WebSocket handler and its open sockets."""

    def __init__(self, services: Services, metrics: Metrics, *, clock: Callable[[], float] = time.time) -> None:
        self._services = services
        self._metrics = metrics
        self._clock = clock
        self._messages = StreamMessages(services.codec, services.loader)
        self._open: set[Outlet] = set()
        self._is_leaving = False

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """GET /stream/{topic}: events from a place in the log on, then as they come. The first message is that place."""
        wishes = Wishes.of(request)
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S,
            protocols=(SUBPROTOCOL,),
            max_msg_size=_MAX_CLIENT_MESSAGE_BYTES,
            timeout=_CLOSE_TIMEOUT_S,
            compress=False,
        )
        self._check_handshake(request, socket)
        services = self._services
        services.require_started()
        async with AsyncExitStack() as stack:
            deadline_s = services.settings.request_deadline_s
            try:
                async with asyncio.timeout(deadline_s):
                    kafka_topic = await services.catalog.require(request.match_info["topic"])
                    subscription = await stack.enter_async_context(services.hub.subscribe(kafka_topic, wishes.start))
            except TimeoutError as exc:
                raise DeadlineExceededError(deadline_s) from exc
            except CursorError as exc:
                raise InvalidParameterError([FieldError("?from", str(exc), INVALID_CURSOR)]) from exc
            transport = request.transport
            if transport is None:
                raise InvalidRequestError("the connection is closed")
            outlet = Outlet(socket, transport, await socket.prepare(request))
            topic = api_topic(kafka_topic)
            self._open.add(outlet)
            if self._is_leaving:
                outlet.leaving.set_result(None)
            self._metrics.client(topic, +1)
            try:
                sending = self._send(outlet, topic, subscription, wishes)
                await self._serve(socket, outlet, sending, request[CLAIMS].expires_at)
            finally:
                self._metrics.client(topic, -1)
                self._open.discard(outlet)
        return socket

    def _check_handshake(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        """All that can be refused before anything is done for the client."""
        offered = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL)
        if offered is not None and SUBPROTOCOL not in (name.strip() for name in offered.split(",")):
            # aiohttp would go on, and log what was offered: the token.
            raise InvalidRequestError(f"offer the subprotocol {SUBPROTOCOL} as well")
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and not origin_allowed(origin, request.host, self._services.settings):
            raise OriginDeniedError(f"pages of {origin!r} may not open a stream here")
        try:
            is_handshake = bool(socket.can_prepare(request))
        except ValueError:
            is_handshake = False  # its key is no ASCII
        if not is_handshake:
            raise InvalidRequestError("this is a WebSocket: open it with a handshake of RFC 6455, version 13")

    async def shutdown(self) -> None:
        """Let every handler close its socket with 1001, so that clients connect to another worker.

        The server waits for its handlers, also for those that are about to open one.
        """
        self._is_leaving = True
        for outlet in self._open:
            if not outlet.leaving.done():
                outlet.leaving.set_result(None)

    async def _serve(
        self,
        socket: web.WebSocketResponse,
        outlet: Outlet,
        send: Coroutine[Any, Any, None],
        expires_at: float,
    ) -> None:
        sending = asyncio.ensure_future(send)
        receiving = asyncio.ensure_future(_receive(socket))
        code, reason = int(WSCloseCode.INTERNAL_ERROR), "internal"
        done: set[asyncio.Future[None]] = set()
        try:
            done, _ = await asyncio.wait(
                {sending, receiving, outlet.leaving},
                timeout=max(0.0, expires_at - self._clock()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                code, reason = TOKEN_EXPIRED, "the token has expired"
            elif sending in done:
                code, reason = _ending(sending)
            elif outlet.leaving in done:
                code, reason = GOING_AWAY
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
            if sending not in done and not sending.cancelled():
                _ending(sending)
            await outlet.close(code, reason)

    async def _send(self, outlet: Outlet, topic: str, subscription: Subscription, wishes: Wishes) -> None:
        """Send what comes until the hub ends. A client that does not read blocks here alone, until the heartbeat."""
        loop = asyncio.get_running_loop()
        told, told_at = subscription.cursor, loop.time()
        await outlet.write(position_frame(told))
        while True:
            # Not while it reads history: something comes all the time, and a read that is cut short is done again.
            due = told_at + _POSITION_S if subscription.live and subscription.cursor != told else None
            try:
                async with asyncio.timeout_at(due):
                    taken = await subscription.take()
            except TimeoutError:
                taken = []
            if taken is None:
                return
            sent: Sequence[Entry] = ()
            if isinstance(taken, Gap):
                self._metrics.gap(topic, taken.reason, taken.missed)
                if wishes.close_slow and taken.reason == "slow":
                    raise TooSlowError
                data = gap_frame(taken)
                told = taken.after
            else:
                data, sent = await self._messages.frames(taken, wishes.format, wishes.wanted)
                if sent:
                    told = sent[-1].cursor
                elif subscription.cursor != told and loop.time() >= told_at + _POSITION_S:
                    data, told = position_frame(subscription.cursor), subscription.cursor
            if data:
                told_at = loop.time()
                await outlet.write(data)
                self._metrics.sent(topic, len(sent), len(data))


async def _receive(socket: web.WebSocketResponse) -> None:
    """Take what the client sends until it closes: pings and closing are answered, all else is ignored."""
    while (await socket.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
        pass


def _ending(sending: asyncio.Future[None]) -> tuple[int, str]:
    """The close code and reason for how the sending ended."""
    error = sending.exception()
    match error:
        case None:
            return GOING_AWAY
        case TooSlowError():
            return WSCloseCode.TRY_AGAIN_LATER, TOO_SLOW
        case UnavailableError():
            return WSCloseCode.TRY_AGAIN_LATER, error.code
        case UnknownTopicError():
            return TOPIC_GONE, error.code
        case ClientConnectionResetError():
            pass
        case _:
            log.error("a live stream failed", exc_info=error)
    return WSCloseCode.INTERNAL_ERROR, "internal"
