"""Publishing over HTTP: the handlers translate between HTTP and the platform, and decide nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple, TypeVar

import msgspec
from aiohttp import hdrs, web

from streams import avro_event
from streams.batches import BatchFormat
from streams.codecs import HEADER_BYTES
from streams.domain.envelope import Event
from streams.domain.errors import InvalidEventError, PlatformError, UnavailableError, UnknownTopicError
from streams.domain.naming import api_topic, event_topic
from streams.domain.telling import Telling
from streams.storing import Buried, Offer, Outcome, Stored
from web.http.admission import BodyAdmission
from web.http.body import read_body, too_late
from web.negotiation import JSON
from web.observe.metrics import Metrics
from web.problems import problem
from web.publish.incoming import EventIds, Incoming, batch_format, content_type_of, offer, read_many, read_one
from web.publish.publishing_answers import (
    BatchAnswer,
    Result,
    ValidationAnswer,
    Verdict,
    accepted,
    dead_letter_place,
    failed_result,
    invalid_verdict,
    stored_result,
)
from web.publish.turns import in_turns
from web.security.claims import CLAIMS
from web.security.rate_limits import RateLimits
from web.services import Services

T = TypeVar("T")

SEND_SHARE: Final = 0.95
"""How much of the deadline Kafka may use: the rest is for the answer to leave in time."""


class _Arrived(NamedTuple):
    """A request whose events were read."""

    topic: str
    """The API's name."""
    kafka_topic: str
    incoming: Incoming
    size: int
    """Of the body, bytes."""


class Publishing:
    """The handlers, and the services they stand on. They keep the request's deadline themselves."""

    def __init__(self, services: Services, metrics: Metrics, limits: RateLimits) -> None:
        self._services = services
        self._metrics = metrics
        self._limits = limits
        self._deadline_s = services.settings.request_deadline_s
        self._bodies = BodyAdmission(services.settings.max_body_bytes_in_flight)

    async def publish(self, request: web.Request) -> web.Response:
        """POST /events/{topic}: 201 once all in-sync replicas have the event."""
        topic = None
        try:
            deadline = self._deadline()
            services = self._services
            topic, kafka_topic, incoming, size = await self._in_time(request, deadline, self._one)
            [event] = incoming.events
            assert isinstance(event, Event)
            record = services.publisher.record(kafka_topic, event, incoming.format_, incoming.traceparent)
            identities = incoming.ids.identities_of_request(kafka_topic, event.event_id)
            [outcome] = await services.store.store([offer(record, event, incoming.format_, identities)], deadline)
            if isinstance(outcome, PlatformError):
                raise outcome
        except PlatformError as exc:
            self._metrics.refused(topic or self._known(request), exc)
            raise
        if isinstance(outcome, Buried):
            self._metrics.refused(topic, outcome.error)
            return problem(outcome.error, request.rel_url.raw_path, dead_letter=dead_letter_place(outcome))
        self._metrics.accepted(topic, 1, size)
        answer = accepted(topic, event, outcome, record)
        return web.Response(status=201, content_type=JSON, body=msgspec.json.encode(answer))

    async def publish_batch(self, request: web.Request) -> web.Response:
        """POST /events/{topic}/batch: 200 once every event is on disk, 207 where some are not, and why."""
        topic = None
        try:
            deadline = self._deadline()
            topic, kafka_topic, incoming, size = await self._in_time(request, deadline, self._many)
            outcomes, schema_id = await self._store(kafka_topic, incoming, deadline)
        except PlatformError as exc:
            self._metrics.refused(topic or self._known(request), exc)
            raise
        results: list[Result] = []
        failures: list[Buried | PlatformError] = []
        async for event, outcome in in_turns(zip(incoming.events, outcomes, strict=True)):
            if isinstance(outcome, Stored):
                results.append(stored_result(_id(event) or "", outcome))
            else:
                results.append(failed_result(outcome, _id(event)))
                failures.append(outcome)
                self._metrics.refused(topic, outcome.error if isinstance(outcome, Buried) else outcome)
        stored = len(results) - len(failures)
        self._metrics.accepted(topic, stored, size)
        return _batch_answer(request, BatchAnswer(topic, schema_id, stored, len(failures), results), failures)

    async def validate(self, request: web.Request) -> web.Response:
        """POST /events/{topic}/validate: what publishing would do, of one event or a batch. Writes nothing."""
        deadline = self._deadline()
        answer = await self._in_time(request, deadline, lambda r: self._validated(r, deadline))
        return web.Response(content_type=JSON, body=msgspec.json.encode(answer))

    def _deadline(self) -> float:
        self._services.require_started()
        return asyncio.get_running_loop().time() + self._deadline_s * SEND_SHARE

    async def _in_time(self, request: web.Request, deadline: float, work: Callable[[web.Request], Awaitable[T]]) -> T:
        timer = asyncio.timeout_at(deadline)
        try:
            async with timer:
                return await work(request)
        except TimeoutError as exc:
            if not timer.expired():
                raise
            raise too_late(request, self._deadline_s) from exc

    def _known(self, request: web.Request) -> str | None:
        """The topic of a request that failed early, if there is such a topic: labels of metrics must be bounded."""
        name = request.match_info["topic"]
        return name if self._services.catalog.knows(name) else None

    async def _one(self, request: web.Request) -> _Arrived:
        services = self._services
        kafka_topic, exists = await self._find(request)
        claims = request[CLAIMS]
        self._limits.charge_events(claims, 1)
        content_type = content_type_of(request)
        limit = services.settings.max_body_bytes
        with self._bodies.body(request, limit):
            body = await read_body(request, limit, services.settings.max_compression_ratio)
        if exists:
            await services.publisher.prepare(kafka_topic)
        ids = EventIds.of(request.headers, claims)
        known = kafka_topic if exists else None
        incoming = await read_one(request, body, services.publisher, known, ids=ids, content_type=content_type)
        if not exists:
            await self._create(kafka_topic)
        return _Arrived(api_topic(kafka_topic), kafka_topic, incoming, len(body))

    async def _many(self, request: web.Request) -> _Arrived:
        services = self._services
        settings = services.settings
        kafka_topic, exists = await self._find(request)
        claims = request[CLAIMS]
        format_ = BatchFormat.of(content_type_of(request))
        limit = settings.max_batch_bytes
        with self._bodies.body(request, limit):
            body = await read_body(request, limit, settings.max_compression_ratio)
        if exists:
            await services.publisher.prepare(kafka_topic)
        ids = EventIds.of(request.headers, claims)
        incoming = await read_many(
            request, body, services.publisher, ids=ids, format_=format_, max_records=settings.max_batch_events
        )
        self._limits.charge_events(claims, len(incoming.events))
        if not exists:
            await self._create(kafka_topic)
        return _Arrived(api_topic(kafka_topic), kafka_topic, incoming, len(body))

    async def _find(self, request: web.Request) -> tuple[str, bool]:
        """The Kafka topic of a request, and whether it exists: if not, its first event may create it.

        Raises UnknownTopicError.
        """
        name = request.match_info["topic"]
        try:
            return await self._services.catalog.require(name), True
        except UnknownTopicError:
            if self._services.settings.topic_creation != "auto":
                raise
            return event_topic(name), False

    async def _create(self, kafka_topic: str) -> None:
        """Create the topic of a first event, now that there is one: what cannot be read creates none."""
        await self._services.catalog.require(api_topic(kafka_topic), create=True)
        await self._services.publisher.prepare(kafka_topic)

    async def _store(self, kafka_topic: str, incoming: Incoming, deadline: float) -> tuple[list[Outcome], int]:
        """The outcomes of a batch's events, in order, and the id of the schema that they are written with."""
        publisher = self._services.publisher
        outcomes: list[Outcome | None] = [None] * len(incoming.events)
        offers: list[Offer] = []
        places: list[int] = []
        telling = Telling()
        async for place, event in in_turns(enumerate(incoming.events)):
            if isinstance(event, InvalidEventError):
                outcomes[place] = event
                continue
            try:
                record = publisher.record(kafka_topic, event, incoming.format_, incoming.traceparent)
            except InvalidEventError as exc:
                outcomes[place] = telling.of(exc)
                continue
            identities = incoming.ids.identities(kafka_topic, event.event_id)
            offers.append(offer(record, event, incoming.format_, identities))
            places.append(place)
        for place, outcome in zip(places, await self._services.store.store(offers, deadline), strict=True):
            outcomes[place] = outcome
        return [outcome for outcome in outcomes if outcome is not None], publisher.schema_id(kafka_topic)

    async def _validated(self, request: web.Request, deadline: float) -> ValidationAnswer:
        services = self._services
        kafka_topic, exists = await self._find(request)
        if exists:
            await services.publisher.prepare(kafka_topic)
            await services.producer.prepare({kafka_topic}, deadline)
        content_type = content_type_of(request)
        limit = services.settings.max_batch_bytes
        with self._bodies.body(request, limit):
            body = await read_body(request, limit, services.settings.max_compression_ratio)
        claims = request[CLAIMS]
        ids = EventIds.of(request.headers, claims)
        format_ = batch_format(content_type, body)
        events: Sequence[Event | InvalidEventError]
        if format_ is not None:
            max_records = services.settings.max_batch_events
            events = (
                await read_many(request, body, services.publisher, ids=ids, format_=format_, max_records=max_records)
            ).events
        else:
            try:
                known = kafka_topic if exists else None
                events = (
                    await read_one(request, body, services.publisher, known, ids=ids, content_type=content_type)
                ).events
            except InvalidEventError as exc:
                events = [exc]
        self._limits.charge_events(claims, len(events))
        telling = Telling()
        verdicts = [self._verdict(kafka_topic, event, ids, telling, exists=exists) async for event in in_turns(events)]
        valid = sum(verdict.valid for verdict in verdicts)
        schema_id = services.publisher.schema_id(kafka_topic) if exists else None
        return ValidationAnswer(api_topic(kafka_topic), exists, valid, len(verdicts) - valid, verdicts, schema_id)

    def _verdict(
        self, kafka_topic: str, event: Event | InvalidEventError, ids: EventIds, telling: Telling, *, exists: bool
    ) -> Verdict:
        if isinstance(event, InvalidEventError):
            return invalid_verdict(event)
        services = self._services
        try:
            if exists:
                size = len(services.publisher.value(kafka_topic, event))
            else:
                size = HEADER_BYTES + len(avro_event.encode(event))
        except InvalidEventError as exc:
            return invalid_verdict(telling.of(exc))
        return Verdict(
            valid=True,
            event_id=None if ids.is_made(event.event_id) else event.event_id,
            event_type=event.event_type,
            timestamp=event.timestamp,
            key=event.key.decode(),
            partition=services.producer.partition_of(kafka_topic, event.key) if exists else None,
            bytes=size,
        )


def _batch_answer(
    request: web.Request, answer: BatchAnswer, failures: Sequence[Buried | PlatformError]
) -> web.Response:
    away = [failure for failure in failures if isinstance(failure, UnavailableError)]
    if away and len(away) == len(answer.results):
        # Nothing was stored, and all of it may be later: what a request with one event would have been told.
        return problem(away[0], request.rel_url.raw_path, results=answer.results)
    response = web.Response(
        # RFC 4918, section 13: several outcomes in one answer.
        status=HTTPStatus.MULTI_STATUS if failures else HTTPStatus.OK,
        content_type=JSON,
        body=msgspec.json.encode(answer),
    )
    if away:
        response.headers[hdrs.RETRY_AFTER] = "1"
    return response


def _id(event: Event | InvalidEventError) -> str | None:
    return event.event_id if isinstance(event, Event) else None
