"""The handlers for tables: the list, a page of keys, one key's rows; each as JSON or as a page to read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import hdrs, web

from streams.domain.errors import PlatformError, UnavailableError
from streams.kafka.batching import PartitionStatus, Source, Store, Table
from tables.browsing import cursor, page, parse_cursor
from tables.here import Snapshot, TableView, inputs_of, is_trusted
from tables.routing import elsewhere, plan
from web.browse import pages
from web.browse.markup import Html
from web.browse.table_answers import (
    KeyAnswer,
    KeyEntry,
    KeysAnswer,
    PartAnswer,
    TableAnswer,
    TablesAnswer,
    WorkerAnswer,
    partitions,
)
from web.errors import InvalidRequestError, UnknownKeyError, UnknownTableError
from web.negotiation import prefers_html
from web.parameters import Parameters, integer, parsed
from web.problems import problem
from web.read.placement import RETRY_AFTER_S, Placement, check_held, not_ready
from web.read.workers import ROUTED, TABLES_PATH, RoutedAnswer, RowAnswer, Workers, key_path
from web.services import Services

MAX_LIMIT: Final = 1_000
DEFAULT_LIMIT: Final = 100

_MAX_PREFIX: Final = 512
_WORKER_SHARE: Final = 0.4
"""How much of the request's deadline another worker has: two may be asked, one after the other."""


def _prefix(text: str) -> str:
    # An empty one, as a form sends it, is none.
    if len(text) > _MAX_PREFIX:
        raise ValueError(f"expected at most {_MAX_PREFIX} characters")
    return text


PREFIX: Final = parsed(
    "prefix", "keys that begin with it", _prefix, "invalid_length", {"type": "string", "maxLength": _MAX_PREFIX}
)
LIMIT: Final = integer("limit", "at most so many keys", default=DEFAULT_LIMIT, least=1, most=MAX_LIMIT)
AFTER: Final = parsed(
    "after",
    "the cursor `after` of the page before",
    parse_cursor,
    "invalid_cursor",
    {"type": "string", "format": "cursor"},
)
BROWSE_QUERY: Final = (PREFIX, LIMIT, AFTER)

Answer = msgspec.Struct
Made = tuple[Answer, Callable[[], Html]]
"""An answer, and what makes a page of it."""


class Tables:
    """The handlers, and what they look at."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._view: TableView = services.tables
        self._workers = Workers(services.settings.request_deadline_s * _WORKER_SHARE)
        # One: however many pages are asked for, one at a time takes the interpreter and the memory for it.
        self._thread = ThreadPoolExecutor(1, "tables")
        self._placement = Placement(self._view)

    async def overview(self, request: web.Request) -> web.Response:
        """GET /tables: every table, what this worker has of it, and who has the rest."""

        async def make() -> Made:
            Parameters(request.query, ()).check()
            self._services.require_started()
            now = self._view.now()
            answer = TablesAnswer(self._view.url, [self._describe(table, now) for table in self._view.tables()])
            return answer, lambda: pages.tables_page(answer)

        return await _answer(request, make)

    async def browse(self, request: web.Request) -> web.Response:
        """GET /tables/{table}: the keys that this worker has, in order."""

        async def make() -> Made:
            parameters = Parameters(request.query, BROWSE_QUERY)
            prefix = parameters.read(PREFIX) or ""
            limit = parameters.read(LIMIT)
            after = parameters.read(AFTER)
            parameters.check()
            table = self._table(request)
            parts = self._all_parts(table)
            making = asyncio.get_running_loop().run_in_executor(
                self._thread, lambda: page(parts, prefix=prefix, limit=limit, after=after)
            )
            try:
                await asyncio.wait({making})
            finally:
                making.cancel()  # one that still waits for its turn; it does nothing to one that is done
            if self._all_parts(table) != parts:
                # A part that has left meanwhile was emptied under the page, or closed.
                raise UnavailableError("partitions were reassigned meanwhile", retry_after_s=RETRY_AFTER_S)
            found = making.result()
            following = None if found.after is None else cursor(found.after)
            answer = KeysAnswer(
                table.name,
                prefix,
                limit,
                [KeyEntry(place.key, *place.source, row.offset) for place, row in found.rows],
                following,
                partitions(parts),
                self._elsewhere(table),
            )
            return answer, lambda: pages.keys_page(answer)

        return await _answer(request, make)

    async def key(self, request: web.Request) -> web.Response:
        """GET /tables/{table}/{key}: the rows of a key, whichever workers have them."""

        async def make() -> Made:
            Parameters(request.query, ()).check()
            table, key = self._table(request), _key(request)
            if ROUTED in request.headers:
                held = self._view.now().held(table)
                routed = RoutedAnswer(self._rows(table, key, held), sorted(held))
                return routed, lambda: pages.problem_page("A routed request", "is answered with JSON")
            rows = await self._find(table, key, request.headers.get(hdrs.AUTHORIZATION, ""))
            if not rows:
                raise UnknownKeyError(table.name, key)
            answer = KeyAnswer(table.name, key, sorted(rows, key=lambda row: row.source))
            return answer, lambda: pages.key_page(answer)

        return await _answer(request, make)

    async def close(self) -> None:
        """Ask nobody any more, and begin no more pages."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._workers.close()

    def _table(self, request: web.Request) -> Table[Any]:
        self._services.require_started()
        name = request.match_info["table"]
        if (table := self._view.table(name)) is None:
            raise UnknownTableError(name)
        return table

    def _all_parts(self, table: Table[Any]) -> dict[Source, Store[Any]]:
        """The parts of a table that are ours. Raises UnavailableError where one is not complete: half a truth."""
        now = self._view.now()
        if (reason := now.not_ready(table)) is not None:
            raise not_ready(reason)
        return now.held(table)

    def _describe(self, table: Table[Any], now: Snapshot) -> TableAnswer:
        held = now.held(table)
        parts = [_part(status, held) for status in now.of(table)]
        lag = sum(part.changelog_lag or 0 for part in parts)
        return TableAnswer(
            table.name,
            table.help,
            sum(map(len, held.values())),
            "ready" if now.not_ready(table) is None else "restoring" if lag else "waiting",
            self._view.changelog(table),
            lag,
            parts,
            self._elsewhere(table),
        )

    def _elsewhere(self, table: Table[Any]) -> list[WorkerAnswer]:
        others = elsewhere(inputs_of(table), self._view.owners(), self._view.url)
        return [WorkerAnswer(url, partitions(sources)) for url, sources in others.items()]

    def _rows(self, table: Table[Any], key: str, parts: Mapping[Source, Store[Any]]) -> list[RowAnswer]:
        return [
            RowAnswer(*source, row.offset, msgspec.Raw(table.encode(row)), self._view.url)
            for source, store in parts.items()
            if (row := store.get(key)) is not None
        ]

    async def _find(self, table: Table[Any], key: str, authorization: str) -> list[RowAnswer]:
        """Every row of a key. None at all means that everybody who could have one was asked.

        Raises UnavailableError where somebody cannot be asked now.
        """
        first, everywhere = plan(inputs_of(table), key, await self._placement.partitions())
        if first is not None:
            if rows := await self._ask(table, key, {first}, authorization):
                return rows
            everywhere -= {first}
        return await self._ask(table, key, everywhere, authorization)

    async def _ask(
        self, table: Table[Any], key: str, sources: AbstractSet[Source], authorization: str
    ) -> list[RowAnswer]:
        now = self._view.now()
        here, others = self._placement.shares(table, sources, now)
        rows = self._rows(table, key, {source: table.parts[source] for source in here})
        path = key_path(table.name, key)
        answers = await asyncio.gather(
            *(self._workers.ask(url, path, authorization, RoutedAnswer) for url in others), return_exceptions=True
        )
        for wanted, answer in zip(others.values(), answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            check_held(wanted, set(answer.held))
            rows.extend(row for row in answer.rows if row.source in wanted)
        return rows


def _part(status: PartitionStatus, held: Mapping[Source, Store[Any]]) -> PartAnswer:
    store = held.get(status.source)
    return PartAnswer(
        *status.source,
        status.phase.value,
        None if store is None else len(store),
        None if store is None else store.position,
        0 if store is not None else status.restoring,
        status.committed if is_trusted(status) else None,
    )


def _key(request: web.Request) -> str:
    """The key in the path: all that comes after the table, its slashes included, decoded once."""
    raw = request.rel_url.raw_path.split("/", TABLES_PATH.count("/") + 2)[-1]
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequestError("the key in the path is not UTF-8") from exc


async def _answer(request: web.Request, make: Callable[[], Awaitable[Made]]) -> web.Response:
    """What the client prefers of an answer, or of the error in its place: JSON, or a page."""
    html = prefers_html(request.headers.get(hdrs.ACCEPT))
    try:
        answer, render = await make()
    except PlatformError as exc:
        response = problem(exc, request.rel_url.raw_path)
        if html:
            response.text = pages.problem_page(*pages.words_of(response.text or ""))
            response.content_type = "text/html"
    else:
        response = web.Response()
        if html:
            response.text = render()
            response.content_type = "text/html"
        else:
            response.body = msgspec.json.encode(answer)
            response.content_type = "application/json"
    headers = response.headers
    headers[hdrs.CACHE_CONTROL] = "no-store"
    headers[hdrs.VARY] = hdrs.ACCEPT
    headers["X-Content-Type-Options"] = "nosniff"
    if html:
        headers["Content-Security-Policy"] = pages.SECURITY_POLICY
        headers["Referrer-Policy"] = "no-referrer"
    return response
