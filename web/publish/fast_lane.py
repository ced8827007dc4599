"""The commonest request by the shortest way: one event in JSON, with a known token, to a topic that is known.

aiohttp makes a task, a request, a match and a response for each request, and walks its middleware, which costs twice
what validating and storing an event does. Here the parsed head is looked at where it arrives, and the answer is written
where the acknowledgement does. Whatever is not plain in the least (other formats, headers that mean something else, a
token that was not seen before, anything that must be waited for before Kafka) is declined, untouched, and goes the
ordinary way through `web.middleware` and `web.publish.publishing`. Both ways answer alike: `tests/property/test_fast_lane.py`
compares them. Why: `docs/adr/fast-lane.md`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from aiohttp import HttpVersion11, StreamReader, hdrs, web
from aiohttp.http_parser import RawRequestMessage

from streams.codecs import Format
from streams.domain.envelope import Event
from streams.domain.errors import PlatformError
from streams.domain.headers import TRACEPARENT
from streams.domain.naming import event_topic
from streams.kafka.sending import Sending
from streams.storing import Buried, Offer, Outcome, Stored, Submission, is_for_ever
from web.http.raw_responses import created, rendered
from web.negotiation import JSON
from web.observe.metrics import Metrics
from web.problems import problem
from web.publish.incoming import IDEMPOTENCY_KEY, EventIds
from web.publish.publishing import SEND_SHARE
from web.publish.publishing_answers import accepted, dead_letter_place
from web.security.auth import Authenticator, Claims
from web.security.rate_limits import RateLimits
from web.services import Services

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.05
"""How often is looked for requests at their deadline: a timer for each would cost as much as its validation."""

_BEARER: Final = "Bearer "
_MEANT_OTHERWISE: Final = (
    hdrs.CONTENT_ENCODING,
    hdrs.EXPECT,
    hdrs.ORIGIN,
    "ce-specversion",
    IDEMPOTENCY_KEY,
)
"""Headers with which a request is not plain."""
_VARY: Final = b"Vary: Origin\r\n"


class Connection(Protocol):
    """The connection that a request came by."""

    def answer(self, response: bytes) -> None:
        """Write the answer to the request that was taken; the next one may come."""


class _Target(NamedTuple):
    """What a path stands for."""

    topic: str
    kafka_topic: str
    scope: str


class FastLane:
    """Takes requests, and answers them to their connections.

    `prefix` is all of the path but the topic; `route` and `scope` are those of the ordinary way; `varies` is whether
    answers depend on the header Origin, as that of a request without one must say too.
    """

    def __init__(
        self,
        services: Services,
        metrics: Metrics,
        limits: RateLimits,
        authenticator: Authenticator,
        *,
        prefix: str,
        route: str,
        scope: str,
        varies: bool,
    ) -> None:
        self.services = services
        self.metrics = metrics
        self.limits = limits
        self.route = route
        self.varies = varies
        self.deadline_s = services.settings.request_deadline_s * SEND_SHARE
        self._authenticator = authenticator
        self._prefix = prefix
        self._scope = scope
        self._targets: dict[str, _Target] = {}
        self._max_body_bytes = services.settings.max_body_bytes
        self._waiting: dict[_Request, float] = {}
        self._looking: asyncio.TimerHandle | None = None
        self._look_s = min(_LOOK_S, self.deadline_s / 10)
        self._tasks: set[asyncio.Task[None]] = set()

    def expire_later(self, request: _Request, deadline: float) -> None:
        """Have the request answered at its deadline (`perf_counter`), unless it is settled before."""
        self._waiting[request] = deadline
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(self._look_s, self._look)

    def is_settled(self, request: _Request) -> None:
        """The request needs no deadline any more."""
        self._waiting.pop(request, None)

    def _look(self) -> None:
        """Expire what has come to its deadline."""
        self._looking = None
        now = time.perf_counter()
        for request in [request for request, deadline in self._waiting.items() if deadline <= now]:
            del self._waiting[request]
            request.expire()
        if self._waiting and self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(self._look_s, self._look)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on with a request beside the caller."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def take(self, message: RawRequestMessage, payload: StreamReader, connection: Connection) -> bool:
        """Take a request, now or never: False, and nothing was done, where it is not one for this lane."""
        headers = message.headers
        target = self._target(message)
        if (
            target is None
            or not payload.is_eof()
            or headers.get(hdrs.CONTENT_TYPE) != JSON
            or any(name in headers for name in _MEANT_OTHERWISE)
            or not self._is_small(headers.get(hdrs.CONTENT_LENGTH))
        ):
            return False
        claims = self._claims(headers.get(hdrs.AUTHORIZATION), target)
        if claims is None or not self._is_ready(target):
            return False
        _Request(self, connection, target, message.path).begin(claims, payload.read_nowait(), headers.get(TRACEPARENT))
        return True

    def _target(self, message: RawRequestMessage) -> _Target | None:
        if (
            message.method != hdrs.METH_POST
            or message.version != HttpVersion11
            or message.should_close
            or message.chunked
            or message.upgrade
        ):
            return None
        path = message.path
        target = self._targets.get(path)
        if target is None and path.startswith(self._prefix):
            name = path[len(self._prefix) :]
            # Only topics that exist, so that the table is bounded; their names have nothing to be decoded.
            if self.services.catalog.knows(name):
                scope = self._scope.replace("{topic}", name)
                target = self._targets[path] = _Target(name, event_topic(name), scope)
        return target

    def _is_small(self, length: str | None) -> bool:
        # The parser has checked that it is a number.
        return length is not None and int(length) <= self._max_body_bytes

    def _claims(self, authorization: str | None, target: _Target) -> Claims | None:
        if authorization is None or not authorization.startswith(_BEARER):
            return None
        try:
            claims = self._authenticator.verify(authorization[len(_BEARER) :])
        except PlatformError:
            # What is wrong with it is told the ordinary way, where it may be looked for new keys.
            return None
        return claims if claims.allows(target.scope) else None

    def _is_ready(self, target: _Target) -> bool:
        """Whether nothing must be waited for before Kafka."""
        services = self.services
        return (
            services.waiting_for() is None
            and services.catalog.is_fresh
            and services.catalog.knows(target.topic)
            and services.publisher.is_prepared(target.kafka_topic)
            and services.producer.is_prepared(target.kafka_topic)
        )


FAST_LANE: Final = web.AppKey("fast_lane", FastLane)
"""Where an application has its lane, for its server."""


class _Request:
    """A request that was taken."""

    __slots__ = (
        "_began",
        "_connection",
        "_event",
        "_lane",
        "_path",
        "_sending",
        "_size",
        "_submission",
        "_target",
    )

    _event: Event
    _sending: Sending
    _size: int
    _submission: Submission

    def __init__(self, lane: FastLane, connection: Connection, target: _Target, path: str) -> None:
        self._lane = lane
        self._connection = connection
        self._target = target
        self._path = path
        self._began = time.perf_counter()

    def begin(self, claims: Claims, body: bytes, traceparent: str | None) -> None:
        """Read the event and hand it to Kafka. What is wrong with it is answered at once."""
        lane = self._lane
        services = lane.services
        topic = self._target.kafka_topic
        lane.metrics.requests_in_flight += 1
        try:
            lane.limits.charge_request(claims)
        except PlatformError as exc:
            # It is no event yet, and counts as none: `web.middleware` refuses it as well.
            self._tell(exc)
            return
        try:
            lane.limits.charge_events(claims, 1)
            ids = EventIds(None, claims.charged_to)
            event = self._event = services.publisher.read_json(body, ids.new)
            self._size = len(body)
            record = services.publisher.record(topic, event, Format.JSON, traceparent)
            offer = Offer(record, ids.identities(topic, event.event_id))
            self._submission = services.store.submit([offer])
        except Exception as exc:  # noqa: BLE001 - whatever it is, the client gets an answer, and the log what is ours
            self._refuse(exc)
            return
        sending = self._submission.sending
        if sending is None:
            self._settle()
        else:
            self._sending = sending
            sending.then(self._settle)
            lane.expire_later(self, self._began + lane.deadline_s)

    def expire(self) -> None:
        """The deadline has come: say what is known."""
        self._sending.give_up(self._settle)
        self._settle()

    def _settle(self) -> None:
        self._lane.is_settled(self)
        [outcome] = self._submission.outcomes()
        if isinstance(outcome, Stored):
            self._accept(outcome)
        elif is_for_ever(outcome):
            self._lane.in_background(self._bury(outcome))
        else:
            assert isinstance(outcome, PlatformError)
            self._refuse(outcome)

    async def _bury(self, refused: Outcome) -> None:
        lane = self._lane
        try:
            deadline = asyncio.get_running_loop().time() + lane.deadline_s
            [outcome] = await lane.services.store.buried(self._submission, [refused], deadline)
        except Exception as exc:  # noqa: BLE001 - as above
            self._refuse(exc)
            return
        if isinstance(outcome, Buried):
            self._refuse(outcome.error, dead_letter=dead_letter_place(outcome))
        else:
            assert isinstance(outcome, PlatformError)
            self._refuse(outcome)

    def _accept(self, outcome: Stored) -> None:
        topic = self._target.topic
        self._lane.metrics.accepted(topic, 1, self._size)
        answer = accepted(topic, self._event, outcome, self._submission.offers[0].record)
        self._answer(HTTPStatus.CREATED, created(msgspec.json.encode(answer), _VARY if self._lane.varies else b""))

    def _refuse(self, error: Exception, **members: object) -> None:
        if not isinstance(error, PlatformError):
            log.error("POST %s failed", self._lane.route, exc_info=error)
            error = PlatformError()
        self._lane.metrics.refused(self._target.topic, error)
        self._tell(error, **members)

    def _tell(self, error: PlatformError, **members: object) -> None:
        response = problem(error, self._path, **members)
        if self._lane.varies:
            response.headers[hdrs.VARY] = hdrs.ORIGIN
        self._answer(response.status, rendered(response, close=False))

    def _answer(self, status: int, response: bytes) -> None:
        metrics = self._lane.metrics
        metrics.requests_in_flight -= 1
        metrics.request(hdrs.METH_POST, self._lane.route, status, time.perf_counter() - self._began)
        self._connection.answer(response)
