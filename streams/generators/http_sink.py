"""Events over HTTP: each is posted, and its answer compared with what the event was meant to get."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from streams.domain.errors import (
    AuthenticationError,
    OverloadedError,
    PermissionDeniedError,
    PlatformError,
    RegistryUnavailableError,
    UnavailableError,
    UnknownTopicError,
)
from streams.domain.retry import RetryPolicy
from streams.generators.emission import Emission
from streams.generators.sink import AbandonedError, Outcome, Verdict
from streams.retrying import retrying
from streams.settings import Settings

_KEEP_ALIVE_S: Final = 15.0
"""Shorter than any server's: a connection that the server has just closed would cost an uncertain attempt."""
_BEYOND_DEADLINE_S: Final = 5.0
_SHOWN_CHARS: Final = 300
_SUCCESS: Final = range(200, 300)
_SERVER_ERRORS: Final = range(500, 600)
_LATER: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_INVALID: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
_DONE_NOTHING: Final = (OverloadedError.code, RegistryUnavailableError.code, UnavailableError.code)
"""Errors that are given before an event can have reached Kafka."""


class _FieldProblem(msgspec.Struct, frozen=True):
    path: str = ""
    code: str | None = None


class _Problem(msgspec.Struct, frozen=True):
    """What is read of an RFC 9457 document."""

    code: str | None = None
    detail: str | None = None
    errors: tuple[_FieldProblem, ...] = ()


class _UncertainError(UnavailableError):
    """No answer, or one that leaves open whether the event is stored."""


class _Receipt(msgspec.Struct, frozen=True, gc=False):
    """What is read of the answer to an event that is stored."""

    duplicate: bool = False


class _Answer(msgspec.Struct, frozen=True, gc=False):
    status: int
    problem: _Problem = _Problem()
    text: str = ""
    duplicate: bool = False


def base_url(settings: Settings) -> URL:
    """Where the worker's API is; one that listens on every address is reached on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.web_host, settings.web_host)  # noqa: S104
    return URL.build(scheme="http", host=host, port=settings.web_port)


class HttpSink:
    """Posts to `/api/v1/events/{topic}`; at most `connections` at once, over kept-alive connections.

    408, 429 and 5xx are tried again by the retry policy; a Retry-After holds back every event, not just its own,
    so that their order stays about the same.
    """

    def __init__(self, settings: Settings, token: str, *, connections: int, give_up_after_s: float) -> None:
        self._base = base_url(settings)
        self._policy: RetryPolicy = settings.retry_policy(give_up_after_s)
        self._give_up_after_s = give_up_after_s
        self._urls: dict[str, URL] = {}
        self._abandoned = asyncio.Event()
        self._resume_at = 0.0
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=_KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/json",
                "Accept": "application/json",
                "User-Agent": "event-streams-generator",
            },
            skip_auto_headers=["Accept-Encoding"],
            # The server answers within its own deadline; past it, the answer is lost.
            timeout=aiohttp.ClientTimeout(total=settings.request_deadline_s + _BEYOND_DEADLINE_S),
        )

    async def send(self, emission: Emission) -> Outcome:
        """See Sink."""
        retries = 0
        uncertain = False

        async def attempt() -> _Answer:
            nonlocal uncertain
            if retries or self._resume_at:
                await self._wait_for_turn(retries)
            try:
                return await self._post(emission)
            except _UncertainError:
                uncertain = True
                raise

        def count_retry(_error: Exception, failures: int) -> None:
            nonlocal retries
            retries = failures

        try:
            answer = await retrying(attempt, self._policy, on_retry=count_retry)
        except AbandonedError:
            return Outcome(Verdict.FAILED, retries - 1, uncertain)
        except UnavailableError as exc:
            spent = f"an event was tried for {self._give_up_after_s:g} s and {retries + 1} attempts"
            fatal = UnavailableError(f"{self._base} does not take events: {spent}; the last answer: {exc}")
            return Outcome(Verdict.FAILED, retries, uncertain, fatal=fatal)
        except PlatformError as exc:
            return Outcome(Verdict.FAILED, retries, uncertain, fatal=exc)
        return _judge(emission, answer, retries, uncertain)

    def abandon(self) -> None:
        """See Sink."""
        self._abandoned.set()

    async def aclose(self) -> None:
        """See Sink."""
        await self._session.close()

    async def _post(self, emission: Emission) -> _Answer:
        """The answer that settles the event. Raises UnavailableError, or what no retry can mend."""
        url = self._urls.get(emission.topic)
        if url is None:
            url = self._urls[emission.topic] = self._base / "api/v1/events" / emission.topic
        try:
            async with self._session.post(url, data=emission.body, allow_redirects=False) as response:
                status = response.status
                body = await response.read()
                if status == HTTPStatus.CREATED:
                    return _Answer(status, duplicate=_is_duplicate(body))
                retry_after = response.headers.get("Retry-After")
        except aiohttp.ClientConnectorError as exc:
            # Nothing was sent.
            raise UnavailableError(f"no connection: {exc}") from exc
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise _UncertainError(f"no answer: {type(exc).__name__} {exc}".rstrip()) from exc
        return self._read(emission, status, body, retry_after)

    def _read(self, emission: Emission, status: int, body: bytes, retry_after: str | None) -> _Answer:
        problem = _problem(body)
        text = body[:_SHOWN_CHARS].decode("utf-8", "replace")
        if status in _LATER or status in _SERVER_ERRORS:
            self._hold_back(retry_after)
            done_nothing = status in _LATER or problem.code in _DONE_NOTHING
            error = UnavailableError if done_nothing else _UncertainError
            raise error(f"{status} {text}")
        if status == HTTPStatus.UNAUTHORIZED:
            raise AuthenticationError(f"{self._base} refused the token: {problem.detail or text}")
        if status == HTTPStatus.FORBIDDEN:
            raise PermissionDeniedError(f"events:write:{emission.topic}")
        if status == HTTPStatus.NOT_FOUND:
            raise UnknownTopicError(emission.topic, f"{self._base} has no such topic")
        return _Answer(status, problem, text)

    def _hold_back(self, retry_after: str | None) -> None:
        # Its other form, a date, is as good as none here: the policy's own delay applies.
        if retry_after is not None and retry_after.strip().isdigit():
            wait_s = min(float(retry_after), self._give_up_after_s)
            self._resume_at = max(self._resume_at, time.monotonic() + wait_s)

    async def _wait_for_turn(self, retries: int) -> None:
        while not self._abandoned.is_set() and (wait_s := self._resume_at - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self._abandoned.wait(), wait_s)
            except TimeoutError:
                continue
        if retries and self._abandoned.is_set():
            raise AbandonedError


def _is_duplicate(body: bytes) -> bool:
    try:
        return msgspec.json.decode(body, type=_Receipt).duplicate
    except (msgspec.DecodeError, UnicodeDecodeError):
        # As below.
        return False


def _problem(body: bytes) -> _Problem:
    try:
        return msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # An answer of a proxy, or of a bug: the text itself is shown.
        return _Problem()


def _judge(emission: Emission, answer: _Answer, retries: int, uncertain: bool) -> Outcome:  # noqa: FBT001
    """Compare an answer with the intent."""
    verdict = Verdict.ACCEPTED if answer.status in _SUCCESS else Verdict.REJECTED
    error = emission.error
    if error is None:
        wanted = "201"
        as_wanted = answer.status == HTTPStatus.CREATED
    else:
        wanted = f"400 or 422, {error.reason}, with {error.code} at {error.path or '/'} ({error.fault})"
        broken = [(field.code, field.path) for field in answer.problem.errors]
        as_wanted = (
            answer.status in _INVALID
            and answer.problem.code == error.reason
            # Which fields are broken is compared where the answer says it.
            and (not broken or (error.code, error.path) in broken)
        )
    if as_wanted:
        # After an attempt whose fate is unknown it may be the receipt of that one: then it is stored, once.
        return Outcome(verdict, retries, uncertain, repeated=answer.duplicate and not uncertain)
    surprise = (
        f"{emission.intent} {emission.event_type} {emission.event_id} should get {wanted};"
        f" the answer was {answer.status} {answer.text}".rstrip()
    )
    return Outcome(verdict, retries, uncertain, surprise=surprise)
