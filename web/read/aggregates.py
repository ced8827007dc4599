"""Closed windows over HTTP: whoever is asked, the answer is of all workers together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec
from aiohttp import hdrs, web

from streams.domain.aggregates import WINDOW_CURSOR_PATTERN, AggregatedEvent, WindowPlace, is_final
from streams.domain.naming import AGGREGATES, api_topic, event_topic
from streams.domain.windows import WINDOW_KINDS
from streams.kafka.batching import Source, Table
from tables.windows import WindowQuery, WindowRow, first_results, newest, newest_end_ms, query_windows, windows
from web.negotiation import JSON
from web.parameters import Parameters, choice, integer, parsed, text, time_ms
from web.read.placement import Placement, check_held, not_ready
from web.read.workers import ROUTED, Workers
from web.services import Services

MAX_LIMIT: Final = 1_000
DEFAULT_LIMIT: Final = 100

WINDOW: Final = choice("window", "only windows of this kind", WINDOW_KINDS)
EVENT_TYPE: Final = text("event_type", "only windows of this event type")
FROM: Final = time_ms("from", "only windows that start at this time or later, RFC 3339 or epoch milliseconds")
TO: Final = time_ms("to", "only windows that start before this time")
LIMIT: Final = integer("limit", "at most so many windows", default=DEFAULT_LIMIT, least=1, most=MAX_LIMIT)
BEFORE: Final = parsed(
    "before",
    "the cursor `before` of the page before, asked with the same filters",
    WindowPlace.parse,
    "invalid_cursor",
    {"type": "string", "pattern": f"^{WINDOW_CURSOR_PATTERN}$"},
)
AGGREGATES_QUERY: Final = (WINDOW, EVENT_TYPE, FROM, TO, LIMIT, BEFORE)

_WORKER_SHARE: Final = 0.8
"""How much of the request's deadline another worker has: all are asked at once."""


class WindowResult(AggregatedEvent, frozen=True, gc=False):
    """A result, and whether it is the last word."""

    final: bool
    """Whether no event can change it any more; a result that is not may be followed by a higher revision."""


class AggregatesAnswer(msgspec.Struct, gc=False):
    """Window results, newest window first."""

    topic: str
    aggregates: list[WindowResult]
    before: str | None
    """The cursor of the next, older page; null where there is none."""


class RoutedResults(msgspec.Struct, frozen=True):
    """What one worker says of windows to another."""

    results: list[AggregatedEvent]
    newest_end: int | None
    """The latest end of any window that it has the result of, whatever was asked for."""
    held: list[Source]
    """The partitions of `platform.aggregates` whose windows it has, complete."""


class Aggregates:
    """The handler. The windows of a topic are spread over all partitions, so every worker that has some is asked."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._view = services.tables
        self._placement = Placement(services.tables)
        self._workers = Workers(services.settings.request_deadline_s * _WORKER_SHARE)
        # One: a day of windows takes longer to look through than others may wait, and more threads would take as long.
        self._thread = ThreadPoolExecutor(1, "aggregates")

    async def page(self, request: web.Request) -> web.Response:
        """GET /aggregates/{topic}: closed windows, from the tables of all workers."""
        services = self._services
        parameters = Parameters(request.query, AGGREGATES_QUERY)
        query = WindowQuery(
            api_topic(event_topic(request.match_info["topic"])),
            parameters.read(WINDOW),
            parameters.read(EVENT_TYPE),
            parameters.read(FROM),
            parameters.read(TO),
            parameters.read(BEFORE),
        )
        limit = parameters.read(LIMIT)
        parameters.check()
        services.require_started()
        # One more than is told, to know whether there are more.
        most = limit + 1
        if ROUTED in request.headers:
            # By a worker that has looked the topic up.
            return _json(await self._look(self._view.now().held(self._table(windows)).keys(), query, most))
        await services.catalog.require(query.topic)
        answers = await self._gather(request, query, most)
        found = first_results((result for answer in answers for result in answer.results), most)
        before = str(WindowPlace.of(found[limit - 1])) if len(found) > limit else None
        ends = [answer.newest_end for answer in answers if answer.newest_end is not None]
        # A window may have come after the newest ones were looked at.
        newest_end = max([*ends, *(result.window_end for result in found)], default=0)
        lateness_ms = services.settings.flink_allowed_lateness_s * 1_000
        results = [
            WindowResult(**msgspec.structs.asdict(result), final=is_final(result, newest_end, lateness_ms))
            for result in found[:limit]
        ]
        return _json(AggregatesAnswer(query.topic, results, before))

    async def close(self) -> None:
        """Ask nobody any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._workers.close()

    async def _gather(self, request: web.Request, query: WindowQuery, most: int) -> Sequence[RoutedResults]:
        """What each worker has, this one included. Raises UnavailableError where a part is missing."""
        count = (await self._placement.partitions()).get(AGGREGATES, 0)
        if count == 0:
            raise not_ready(f"{AGGREGATES} does not exist yet")
        sources = {Source(AGGREGATES, number) for number in range(count)}
        here, others = self._placement.shares(self._table(windows), sources, self._view.now())
        path = request.rel_url.raw_path_qs
        authorization = request.headers.get(hdrs.AUTHORIZATION, "")
        answers = await asyncio.gather(
            self._look(here, query, most),
            *(self._workers.ask(url, path, authorization, RoutedResults) for url in others),
            return_exceptions=True,
        )
        found = []
        for wanted, answer in zip((here, *others.values()), answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            check_held(wanted, set(answer.held))
            found.append(answer)
        return found

    async def _look(self, sources: AbstractSet[Source], query: WindowQuery, most: int) -> RoutedResults:
        """What this worker has of these partitions. Raises UnavailableError where one leaves meanwhile."""
        table, newest_table = self._table(windows), self._table(newest)
        parts = {source: table.parts[source] for source in sources}
        newest_parts = [newest_table.parts[source] for source in sources if source in newest_table.parts]

        def look() -> tuple[list[AggregatedEvent], int | None]:
            return query_windows(parts.values(), query, most), newest_end_ms(newest_parts)

        looking = asyncio.get_running_loop().run_in_executor(self._thread, look)
        try:
            await asyncio.wait({looking})
        finally:
            looking.cancel()  # one that still waits for its turn; it does nothing to one that is done
        held = self._view.now().held(table)
        if any(held.get(source) is not part for source, part in parts.items()):
            # A part that has left meanwhile was emptied under the question, or closed.
            raise not_ready("partitions were reassigned meanwhile")
        results, newest_end = looking.result()
        return RoutedResults(results, newest_end, sorted(sources))

    def _table(self, table: Table[WindowRow]) -> Table[WindowRow]:
        """The table of this name as the worker has it. Raises UnavailableError where no agent has brought it."""
        if (found := self._view.table(table.name)) is None:
            raise not_ready(f"this worker has no table {table.name}")
        return found


def _json(document: msgspec.Struct) -> web.Response:
    return web.Response(content_type=JSON, body=msgspec.json.encode(document), headers={hdrs.CACHE_CONTROL: "no-store"})
