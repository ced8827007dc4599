"""Reading events over HTTP: the newest ones, and one by its place in the log."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from typing import Final

import msgspec
from aiohttp import hdrs, web

from streams.codecs import Format, event_to_protobuf, events_to_avro_container, events_to_protobuf
from streams.domain.errors import PlatformError
from streams.domain.naming import api_topic
from streams.domain.newest_first import CURSOR_PATTERN, parse_cursor
from streams.kafka.consumer import Record
from streams.kafka.reader_pool import ReaderPool
from web.errors import NotAcceptableError, NotFoundError
from web.negotiation import JSON, negotiate
from web.parameters import Parameters, integer, parsed, text, time_ms
from web.read.latest import EventLog
from web.read.records import RecordFilter, StoredEvent, event_record, read_event, stored_event
from web.services import Services

MAX_LIMIT: Final = 1_000
DEFAULT_LIMIT: Final = 100

LIMIT: Final = integer("limit", "at most so many events", default=DEFAULT_LIMIT, least=1, most=MAX_LIMIT)
KEY: Final = text("key", "only events of this key: the user_id, else the device_id")
EVENT_TYPE: Final = text("event_type", "only events of this type")
SINCE: Final = time_ms("since", "only events that were stored at this time or later, RFC 3339 or epoch milliseconds")
BEFORE: Final = parsed(
    "before",
    "the cursor `before` of the page before, asked with the same filters",
    parse_cursor,
    "invalid_cursor",
    {"type": "string", "pattern": f"^{CURSOR_PATTERN}$"},
)
LATEST_QUERY: Final = (LIMIT, KEY, EVENT_TYPE, SINCE, BEFORE)

NDJSON: Final = "application/x-ndjson"
LATEST_FORMS: Final = (JSON, NDJSON, Format.AVRO, Format.PROTOBUF)
RECORD_FORMS: Final = (JSON, Format.AVRO, Format.PROTOBUF)
UNREADABLE: Final = "X-Streams-Unreadable"
"""How many of the page's events are left out since nobody can read them, in forms that have no room to say so."""

_SCAN_SHARE: Final = 0.5
"""How much of the request's deadline may go by before a page ends with what was found."""
_BREATH: Final = 100
"""After so many records others get their turn on the event loop."""
_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)


class LatestAnswer(msgspec.Struct, gc=False):
    """The newest events, newest first."""

    topic: str
    events: list[StoredEvent]
    before: str | None
    """The cursor of the next, older page; null where there is none."""
    truncated: bool
    """Whether the page ends here since too much was looked at, not since it is full."""


class Reading:
    """The handlers, and the services they stand on."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._readers = ReaderPool(services.open_reader, services.settings.read_concurrency)
        self._log = EventLog(self._readers)

    async def latest(self, request: web.Request) -> web.Response:
        """GET /events/{topic}/latest: the newest events, read from the log itself."""
        services = self._services
        parameters = Parameters(request.query, LATEST_QUERY)
        limit = parameters.read(LIMIT)
        wanted = RecordFilter.of(parameters.read(KEY), parameters.read(EVENT_TYPE))
        since_ms, before = parameters.read(SINCE), parameters.read(BEFORE)
        parameters.check()
        form = negotiate(request.headers.get(hdrs.ACCEPT), LATEST_FORMS)
        services.require_started()
        kafka_topic = await services.catalog.require(request.match_info["topic"])
        within_s = services.settings.request_deadline_s * _SCAN_SHARE
        page = await self._log.newest(kafka_topic, limit, wanted, since_ms=since_ms, before=before, within_s=within_s)
        response = _response(form)
        if page.before is not None:
            # RFC 8288; in every form, since only JSON has room for the cursor itself.
            older = request.rel_url.update_query(before=page.before)
            response.headers[hdrs.LINK] = f'<{older}>; rel="next"'
        if form in (JSON, NDJSON):
            stored = [await stored_event(r, services.codec, services.loader) async for r in _breathing(page.items)]
            if form == JSON:
                answer = LatestAnswer(api_topic(kafka_topic), stored, page.before, page.truncated)
                response.body = msgspec.json.encode(answer)
            else:
                response.body = msgspec.json.Encoder().encode_lines(stored)
            return response
        read = [await read_event(r, services.codec, services.loader) async for r in _breathing(page.items)]
        events = [event for event in read if not isinstance(event, PlatformError)]
        response.headers[UNREADABLE] = str(len(read) - len(events))
        response.body = events_to_avro_container(events) if form == Format.AVRO else events_to_protobuf(events)
        return response

    async def record(self, request: web.Request) -> web.Response:
        """GET /events/{topic}/{partition}/{offset}: that very record, with its headers."""
        services = self._services
        Parameters(request.query, ()).check()
        partition, offset = request.match_info["partition"], request.match_info["offset"]
        if not (_NUMBER.fullmatch(partition) and _NUMBER.fullmatch(offset)):
            raise NotFoundError
        form = negotiate(request.headers.get(hdrs.ACCEPT), RECORD_FORMS)
        services.require_started()
        kafka_topic = await services.catalog.require(request.match_info["topic"])
        record = await self._log.at(kafka_topic, int(partition), int(offset))
        response = _response(form)
        if form == JSON:
            response.body = msgspec.json.encode(await event_record(record, services.codec, services.loader))
        elif form == Format.AVRO:
            # As it is in Kafka, byte for byte.
            response.body = record.value or b""
        else:
            event = await read_event(record, services.codec, services.loader)
            if isinstance(event, PlatformError):
                raise NotAcceptableError((JSON, Format.AVRO)) from event
            response.body = event_to_protobuf(event)
        return response

    async def close(self) -> None:
        """Close the readers."""
        await self._readers.close()


async def _breathing(records: Iterable[Record]) -> AsyncIterator[Record]:
    for count, record in enumerate(records, 1):
        yield record
        if count % _BREATH == 0:
            await asyncio.sleep(0)


def _response(form: str) -> web.Response:
    return web.Response(content_type=form, headers={hdrs.CACHE_CONTROL: "no-store", hdrs.VARY: hdrs.ACCEPT})
