"""What aiohttp's server lacks: answers of our kind to broken requests, and bounds for slow and for many clients.

It stands on a few names of aiohttp that are not public; `tests/unit/test_web_server.py` fails where one has changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from aiohttp import http_exceptions, web, web_response
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_request import BaseRequest

from streams.domain.errors import PlatformError, UnavailableError
from streams.settings import Settings
from web.errors import HeadersTooLargeError, InvalidRequestError, SlowHeadersError, UriTooLongError
from web.http.expectations import deferring
from web.http.raw_responses import SERVER, rendered
from web.problems import problem
from web.publish.fast_lane import FAST_LANE, FastLane

log = logging.getLogger(__name__)

MAX_LINE_BYTES: Final = 8_192
"""Of path and query; RFC 9110, section 4.1, asks for 8,000 or more."""
MAX_FIELD_BYTES: Final = 16_384
"""Of one header, name and value: a token with many scopes fits. Not that of a line: it is how the two are told apart."""
MAX_HEADERS: Final = 128
MAX_HEAD_BYTES: Final = 65_536
"""Of all headers together."""
LINGERING_S: Final = 2.0
"""How long what is left of a refused body is taken and thrown away, so that the client gets to read the answer."""

_TOO_MANY_HEADERS: Final = "Too many headers received"
"""aiohttp's message: it has no class for this."""
_TOO_MUCH_HEAD: Final = "headers too large together"
"""Ours, beside aiohttp's."""
_STALL_INTERVAL_S: Final = 10.0
_STALL_BYTES: Final = 10_240
"""A client that takes less of an answer than this in each interval is cut off: 1 KiB a second."""


@dataclass(slots=True)
class Door:
    """Who may come in, and how fast: shared by all connections of a worker's main port."""

    header_timeout_s: float
    max_connections: int
    lane: FastLane | None = None
    """Takes the commonest requests before aiohttp does; None: it takes none."""
    open: int = 0
    """Connections now."""


class Connection(RequestHandler):
    """One connection of a client."""

    __slots__ = (
        "_admitted",
        "_answered",
        "_door",
        "_head_bytes",
        "_head_timer",
        "_is_taken",
        "_stall_level",
        "_stall_timer",
        "_wire",
    )

    def __init__(self, manager: web.Server, door: Door, **options: Any) -> None:
        super().__init__(manager, **options)
        self._door = door
        self._admitted = False
        self._head_bytes = 0
        """Of a request whose headers are not complete."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._stall_level = 0
        self._wire: asyncio.Transport | None = None
        """The transport, also when aiohttp is done with it and what was written is still to be sent."""
        self._is_taken = False
        """Whether a request is in the fast lane."""
        self._answered: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection in, or refuse it: 503."""
        door = self._door
        if door.open >= door.max_connections:
            self.transport = cast("asyncio.Transport", transport)
            self._refuse(UnavailableError("too many connections are open"))
            return
        door.open += 1
        self._admitted = True
        self._wire = cast("asyncio.Transport", transport)
        # So that whatever is not taken at once is watched, and be it the last few bytes before the end.
        self._wire.set_write_buffer_limits(high=0)
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._stop_timers()
        self._wire = None
        if self._admitted:
            self._admitted = False
            self._door.open -= 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; where they leave a request's headers incomplete, the rest must come in time, and be small."""
        waiter = self._waiter
        if waiter is None or waiter.done() or self._door.lane is None:
            self._parse(data)
        else:
            # It would wake its task for whatever comes, which is what the fast lane saves.
            self._waiter = None
            try:
                self._parse(data)
            finally:
                self._waiter = waiter
            if self._hand_over(waiter):
                self._stop_head_timer()
                return
        if waiter is None or waiter.done():
            # Headers are complete: a request is being handled. Its body has the request's deadline.
            self._stop_head_timer()
        elif data and not self._is_taken:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(_too_much_head())
            elif self._head_timer is None:
                self._await_head()

    def _parse(self, data: bytes) -> None:
        """Take bytes as aiohttp does. Headers that are complete with them are bounded here, and else while they come."""
        super().data_received(data)
        if self._head_bytes + len(data) > MAX_HEAD_BYTES:
            for place, (message, _) in enumerate(self._messages):
                if isinstance(message, RawRequestMessage) and _head_bytes(message) > MAX_HEAD_BYTES:
                    error = http_exceptions.HttpProcessingError(code=431, message=_TOO_MUCH_HEAD)
                    self._messages[place] = (_ErrInfo(431, error, _TOO_MUCH_HEAD), EMPTY_PAYLOAD)

    def answer(self, response: bytes) -> None:
        """Answer the request in the fast lane, and go on with what has come meanwhile."""
        self._is_taken = False
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)
        if self.transport is None or self.transport.is_closing():
            return
        self.transport.write(response)
        self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if self._messages and (waiter := self._waiter) is not None and not waiter.done():
            # In a turn of its own: a client that sends many at once is answered one by one, and others in between.
            self._loop.call_soon(self._go_on)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's signature
        """End the connection: within so many seconds what was begun is answered."""
        if self._is_taken:
            self._answered = self._loop.create_future()
            await asyncio.wait({self._answered}, timeout=timeout)
        await super().shutdown(timeout)

    def _go_on(self) -> None:
        waiter = self._waiter
        if self._messages and waiter is not None and not waiter.done():
            self._hand_over(waiter)

    def _hand_over(self, waiter: asyncio.Future[None]) -> bool:
        """Let the fast lane have the next request; what it does not take is aiohttp's. Whether it has one now."""
        lane, messages = self._door.lane, self._messages
        if self._is_taken or not messages or lane is None:
            return self._is_taken
        message, payload = messages.popleft()
        self._is_taken = True
        if self._paused or not isinstance(message, RawRequestMessage) or not lane.take(message, payload, self):
            self._is_taken = False
            messages.appendleft((message, payload))
            waiter.set_result(None)
            return False
        # As aiohttp does when it begins with a request: more may be read.
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return True

    def pause_writing(self) -> None:
        """The client does not take an answer as fast as it is written: see to it that it takes it at all."""
        super().pause_writing()
        if self._stall_timer is None:
            self._watch_stall()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,  # noqa: ARG002 - what is wrong decides
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it may quote what was sent
    ) -> web.StreamResponse:
        """Answer what never reached the application, as a problem: no trace, and nothing that was sent comes back."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun: another cannot be sent")
        if isinstance(exc, http_exceptions.HttpProcessingError):
            response = problem(_parse_error(exc), "/")
        else:
            log.error("a request failed outside its handler", exc_info=exc)
            response = problem(PlatformError(), "/")
        response.force_close()
        return response

    def _process_keepalive(self) -> None:
        if self._is_taken:
            # aiohttp takes it for idle. It will be: `answer` begins the time anew.
            self._keepalive_handle = None
        else:
            super()._process_keepalive()

    def _stop_head_timer(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(self._door.header_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._head_bytes:
            self._refuse(SlowHeadersError(self._door.header_timeout_s))
        else:
            # It has not begun a request, so that there is none to answer.
            self.force_close()

    def _watch_stall(self) -> None:
        self._stall_level = self._unsent()
        self._stall_timer = self._loop.call_later(_STALL_INTERVAL_S, self._look_for_stall)

    def _look_for_stall(self) -> None:
        self._stall_timer = None
        # A WebSocket has its own rules for slow clients.
        if self._wire is None or self._payload_parser is not None:
            return
        if self._stall_level - self._unsent() < _STALL_BYTES:
            self._wire.abort()
        else:
            self._watch_stall()

    def _unsent(self) -> int:
        return 0 if self._wire is None else self._wire.get_write_buffer_size()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._stall_timer = None

    def _refuse(self, error: PlatformError) -> None:
        """Answer without a request, and close."""
        self._stop_head_timer()
        if self.transport is not None:
            self.transport.write(rendered(problem(error, "/"), close=True))
        self.force_close()


class Server(web.Server):
    """Makes our connections."""

    def __init__(
        self, server: web.Server, door: Door, loop: asyncio.AbstractEventLoop, options: dict[str, Any]
    ) -> None:
        super().__init__(
            deferring(server.request_handler),
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            loop=loop,
        )
        self._make: Callable[[], Connection] = partial(Connection, self, door, loop=loop, **options)

    def __call__(self) -> RequestHandler:
        """A connection, for asyncio."""
        return self._make()


class Runner(web.AppRunner):
    """Runs an application behind our server, within the settings' bounds."""

    __slots__ = ("_door", "_options")

    def __init__(self, app: web.Application, settings: Settings) -> None:
        # Requests have a deadline, so that none needs more than that to end.
        super().__init__(app, access_log=None, shutdown_timeout=settings.request_deadline_s)
        hide_version()
        self._door = Door(settings.header_timeout_s, settings.max_connections, app.get(FAST_LANE))
        self._options = {
            "keepalive_timeout": settings.keepalive_timeout_s,
            "access_log": None,
            "lingering_time": LINGERING_S,
            "max_line_size": MAX_LINE_BYTES,
            "max_field_size": MAX_FIELD_BYTES,
            "max_headers": MAX_HEADERS,
            # `web.http.body` does it, within bounds.
            "auto_decompress": False,
        }

    async def _make_server(self) -> web.Server:
        return Server(await super()._make_server(), self._door, asyncio.get_running_loop(), self._options)


def hide_version() -> None:
    """Leave versions out of the header Server, for WebSocket handshakes and every other answer, at no cost for each."""
    web_response.SERVER_SOFTWARE = SERVER  # type: ignore[attr-defined]


def _head_bytes(message: RawRequestMessage) -> int:
    """About what the headers took: spaces around values are gone."""
    return sum(len(name) + len(value) + len(": \r\n") for name, value in message.raw_headers)


def _too_much_head() -> HeadersTooLargeError:
    return HeadersTooLargeError(f"the headers are larger than {MAX_HEAD_BYTES} bytes")


def _parse_error(error: http_exceptions.HttpProcessingError) -> PlatformError:
    """What is wrong, in words of ours: aiohttp's quote what was sent."""
    if isinstance(error, http_exceptions.LineTooLong):
        limit = error.args[1]
        if limit == MAX_LINE_BYTES:
            return UriTooLongError(f"path and query are longer than {MAX_LINE_BYTES} bytes")
        return HeadersTooLargeError(f"a header is larger than {MAX_FIELD_BYTES} bytes")
    if error.message == _TOO_MUCH_HEAD:
        return _too_much_head()
    if error.message == _TOO_MANY_HEADERS:
        return HeadersTooLargeError(f"there are more than {MAX_HEADERS} headers")
    return InvalidRequestError("it is no HTTP/1.1 request that can be read")
