"""The REST handlers for dead letters: looking at them, redriving them, and what was redriven."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from http import HTTPStatus
from typing import Annotated, Final, NoReturn, TypeVar

import msgspec
from aiohttp import hdrs, web

from streams.codecs import AvroCodec
from streams.dead_letters import LetterBrowser, LetterStore, LetterSummary
from streams.domain.errors import PlatformError, RedriveRunningError, RedriveSupersededError
from streams.domain.newest_first import CURSOR_PATTERN, parse_cursor
from streams.domain.redrive import LetterFilter, Place, Tally
from streams.domain.redrive_log import RedriveLog, Run, RunState
from streams.domain.validation import parse_timestamp
from streams.redriving import Intake, Look, Order, Redrive, Redriver, Sample
from web.errors import InvalidRequestError, InvalidTokenError, NotFoundError
from web.http.body import read_body
from web.parameters import TIME_NUMBER, TIME_TEXT, Parameters, integer, parsed, text, time_ms
from web.security.claims import CLAIMS
from web.services import Services

log = logging.getLogger(__name__)

JSON: Final = "application/json"
PATH: Final = "/api/v1/dlq"
MAX_LIMIT: Final = 500
DEFAULT_LIMIT: Final = 50
MAX_SHOWN: Final = 1_000
"""How many letters of a run are named."""

_SHARE: Final = 0.8
"""How much of the request's deadline a look may take, or the wait for a run's beginning."""
_STOP_S: Final = 8.0
"""How long a run that is told to stop has for the transaction that is under way."""
_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)

REASON: Final = text("reason", "codes, separated by commas")
SOURCE_TOPIC: Final = text("source_topic", "the Kafka topic that the record was read from")
EVENT_TOPIC: Final = text("event_topic", "the topic that the event was for")
FROM: Final = time_ms("from", "written at this time or later")
TO: Final = time_ms("to", "written before this time")
LIMIT: Final = integer("limit", "at most so many letters", default=DEFAULT_LIMIT, least=1, most=MAX_LIMIT)
BEFORE: Final = parsed(
    "before",
    "the cursor `before` of the page that was newer",
    parse_cursor,
    "invalid_cursor",
    {"type": "string", "pattern": f"^{CURSOR_PATTERN}$"},
)
PAGE_QUERY: Final = (REASON, SOURCE_TOPIC, EVENT_TOPIC, FROM, TO, LIMIT, BEFORE)

T = TypeVar("T")
_Time = (
    Annotated[int, msgspec.Meta(extra_json_schema=TIME_NUMBER)]
    | Annotated[str, msgspec.Meta(extra_json_schema=TIME_TEXT)]
    | None
)
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Reasons = Annotated[frozenset[_Name], msgspec.Meta(max_length=100)]
_Places = Annotated[
    frozenset[Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,10}@[0-9]{1,18}\Z")]], msgspec.Meta(max_length=1_000)
]


class FilterBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which dead letters: as `LetterFilter`, in the words of the API."""

    reasons: _Reasons = frozenset()
    source_topic: _Name | None = None
    event_topic: _Name | None = None
    from_: _Time = msgspec.field(name="from", default=None)
    """RFC 3339 or epoch milliseconds, as `to`."""
    to: _Time = None
    letters: _Places = frozenset()
    """As `partition@offset`."""

    def read(self) -> LetterFilter:
        """The filter. Raises InvalidRequestError for a time that is none."""
        return LetterFilter(
            self.reasons,
            self.source_topic,
            self.event_topic,
            _time_ms("from", self.from_),
            _time_ms("to", self.to),
            frozenset(map(Place.parse, self.letters)),
        )


class RedriveBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What is asked for. Without `dry_run: false` nothing is written."""

    filter: FilterBody = FilterBody()
    dry_run: bool = True
    rate: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] | None = None
    """Records a second."""
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many letters are redriven at most."""


class LettersAnswer(msgspec.Struct):
    """A page of dead letters, newest first."""

    letters: list[LetterSummary]
    before: str | None
    """The cursor of the next page; null at the beginning of the log."""
    truncated: bool
    """Whether the page ends here since too much was looked at, not since it is full."""


class DryRunAnswer(msgspec.Struct):
    """What a redrive would do now."""

    totals: Tally
    sample: list[Sample]
    complete: bool
    """False where time ran out before all letters were seen."""
    dry_run: bool = True


class RunAnswer(msgspec.Struct):
    """A run, and the letters that it redrove."""

    run: Run
    running_here: bool
    """Whether it runs in the worker that answers."""
    letters: list[str]
    """As `partition@offset`; the first thousand."""


class RunsAnswer(msgspec.Struct):
    """Every run, newest first."""

    redrives: list[Run]


class DeadLetters:
    """The handlers, and the one redrive that may run in this worker."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        codec: AvroCodec = services.codec
        self._services = services
        self._store = LetterStore(services.open_reader)
        self._browser = LetterBrowser(self._store, codec, services.loader, services.registry)
        self._redriver = Redriver(
            self._store,
            services.open_redrive_writer,
            Intake(codec, services.loader, services.catalog, services.publisher),
            policy=settings.retry_policy(),
            max_replays=settings.dlq_max_replays,
        )
        self._here: _RunHere | None = None
        """The run of this worker: that which runs, or the last one."""

    async def page(self, request: web.Request) -> web.Response:
        """GET /dlq: dead letters, newest first."""
        parameters = Parameters(request.query, PAGE_QUERY)
        reasons = (parameters.read(REASON) or "").split(",")
        wanted = LetterFilter(
            frozenset(filter(None, reasons)),
            parameters.read(SOURCE_TOPIC),
            parameters.read(EVENT_TOPIC),
            parameters.read(FROM),
            parameters.read(TO),
        )
        limit = parameters.read(LIMIT)
        before = parameters.read(BEFORE)
        parameters.check()
        self._services.require_started()
        found = await self._browser.page(wanted, limit, before)
        return _json(LettersAnswer(found.items, found.before, found.truncated))

    async def letter(self, request: web.Request) -> web.Response:
        """GET /dlq/{partition}/{offset}: one dead letter in full."""
        partition, offset = request.match_info["partition"], request.match_info["offset"]
        if not (_NUMBER.fullmatch(partition) and _NUMBER.fullmatch(offset)):
            raise NotFoundError
        self._services.require_started()
        view = await self._browser.view(Place(int(partition), int(offset)))
        if view is None:
            raise NotFoundError
        return _json(view)

    async def redrive(self, request: web.Request) -> web.Response:
        """POST /dlq/redrive: 200 says what a run would do; 202 says that one has begun."""
        services = self._services
        services.require_started()
        body = _decoded(await read_body(request, services.settings.max_body_bytes), RedriveBody)
        wanted = body.filter.read()
        within_s = services.settings.request_deadline_s * _SHARE
        if body.dry_run:
            look: Look = await self._redriver.look(wanted, body.limit, within_s=within_s)
            return _json(DryRunAnswer(look.totals, look.sample, look.complete))
        who = request[CLAIMS].subject
        if not who:
            raise InvalidTokenError("the claim sub is missing, and the audit record says who redrives")
        if self._here is not None and self._here.is_running:
            raise RedriveRunningError(f"the redrive {self._here.run.order.run_id} runs in this worker")
        order = Order(
            str(uuid.uuid4()),
            who,
            time.time_ns() // 1_000_000,
            wanted,
            body.rate or services.settings.dlq_redrive_rate,
            body.limit,
        )
        here = self._here = _RunHere(self._redriver.begin(order))
        await here.wait_for_beginning(within_s)
        location = f"{PATH}/redrives/{order.run_id}"
        return _json(RunAnswer(here.described(), here.is_running, []), HTTPStatus.ACCEPTED, {hdrs.LOCATION: location})

    async def runs(self, request: web.Request) -> web.Response:
        """GET /dlq/redrives: every run, newest first, as the log of redrives has them."""
        Parameters(request.query, ()).check()
        self._services.require_started()
        runs = (await self._store.redrive_log()).newest_first()
        return _json(RunsAnswer(runs))

    async def run(self, request: web.Request) -> web.Response:
        """GET /dlq/redrives/{id}: one run."""
        self._services.require_started()
        run_id = request.match_info["id"]
        known: RedriveLog = await self._store.redrive_log()
        here = self._here if self._here is not None and self._here.run.order.run_id == run_id else None
        run = known.runs.get(run_id)
        if run is None and here is not None:
            run = here.described()
        if run is None:
            raise NotFoundError
        letters = [str(place) for place in known.letters_of(run_id)[:MAX_SHOWN]]
        return _json(RunAnswer(run, here is not None and here.is_running, letters))

    async def close(self) -> None:
        """End the run, if there is one: its transaction is finished, or given up if that takes too long."""
        if self._here is not None:
            await self._here.close()


class _RunHere:
    """A run of this worker, as a task that outlives the request."""

    def __init__(self, run: Redrive) -> None:
        self.run = run
        self._task = asyncio.get_running_loop().create_task(run.work(), name=f"redrive-{run.order.run_id}")
        self._task.add_done_callback(self._ended)

    @property
    def is_running(self) -> bool:
        return not self._task.done()

    async def wait_for_beginning(self, seconds: float) -> None:
        """Return when its first record is written, or time is up: then it goes on trying. Raises what ended it."""
        began = asyncio.ensure_future(self.run.began.wait())
        try:
            await asyncio.wait({began, self._task}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            began.cancel()
        if self._task.done():
            self._task.result()

    def described(self) -> Run:
        """The run as this worker knows it, for as long as the log does not have it."""
        order = self.run.order
        run = Run(
            order.run_id,
            order.who,
            order.started_at,
            order.filter,
            order.rate,
            order.limit,
            self.run.max_replays,
            redriven=self.run.tally.redriven,
        )
        if self._task.done() and not self._task.cancelled():
            error = self._task.exception()
            match error:
                case None:
                    run.state = RunState.COMPLETED
                case RedriveSupersededError():
                    run.state = RunState.SUPERSEDED
                case _:
                    run.state = RunState.FAILED
            if error is not None:
                run.error = _code(error)
        return run

    async def close(self) -> None:
        self.run.stop()
        if self.is_running:
            await asyncio.wait({self._task}, timeout=_STOP_S)
        if self.is_running:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _ended(self, task: asyncio.Task[Tally]) -> None:
        run_id = self.run.order.run_id
        if task.cancelled():
            log.warning("the redrive %s was given up: its last transaction will be ended by the next one", run_id)
        elif (error := task.exception()) is None:
            log.info("the redrive %s has ended: %s", run_id, task.result())
        elif isinstance(error, PlatformError):
            log.warning("the redrive %s has ended: %s [%s]", run_id, error, error.code)
        else:
            log.error("the redrive %s has failed", run_id, exc_info=error)


def _code(error: BaseException) -> str:
    return error.code if isinstance(error, PlatformError) else PlatformError.code


def _decoded(body: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(body or b"{}", type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        _refuse(f"the body is not what this path takes: {exc}", exc)


def _time_ms(name: str, value: int | str | None) -> int | None:
    if value is None:
        return None
    try:
        return parse_timestamp(value)
    except ValueError as exc:
        _refuse(f"the body is not what this path takes: {exc} - at `$.filter.{name}`", exc)


def _refuse(message: str, cause: Exception) -> NoReturn:
    raise InvalidRequestError(message) from cause


def _json(
    document: msgspec.Struct, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(
        status=status.value,
        content_type=JSON,
        body=msgspec.json.encode(document),
        headers={hdrs.CACHE_CONTROL: "no-store", **(headers or {})},
    )
