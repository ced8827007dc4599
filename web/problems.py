"""Errors as responses: `application/problem+json` (RFC 9457), with the headers that belong to each status."""

from __future__ import annotations

import json
import logging
import math
import time
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import msgspec
from aiohttp import hdrs, web

from streams.domain.errors import (
    AuthenticationError,
    IncompatibleSchemaError,
    InvalidEventError,
    InvalidSchemaError,
    InvalidTopicError,
    PermissionDeniedError,
    PlatformError,
    UnavailableError,
    UnsupportedFormatError,
)
from web.errors import (
    HTTP_CODES,
    BodyTooLargeError,
    InvalidParameterError,
    InvalidTokenError,
    SlowBodyError,
    UnsupportedEncodingError,
    problem_of,
)

log = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/problem+json"
REALM: Final = "event-streams"
_TYPE_PREFIX: Final = "urn:problem-type:event-streams:"
_SAY_AGAIN_S: Final = 10.0

_said_at: dict[str, float] = {}
"""When a hidden message of each code was last logged (monotonic seconds)."""


class FieldProblem(msgspec.Struct):
    """One thing that is wrong with a body or a query."""

    path: str
    """A JSON Pointer into the body, such as `/payload`; for a query parameter `?` and its name."""
    message: str
    code: str


class DeadLetterPlace(msgspec.Struct, gc=False):
    """Where in `platform.dlq` a record is that Kafka would not take."""

    partition: int
    offset: int


class ProblemDocument(msgspec.Struct, omit_defaults=True):
    """An error (RFC 9457). Some have members of their own besides."""

    type: str
    """A URI that stands for the code."""
    title: str
    status: int
    detail: str
    instance: str
    """The path of the request."""
    code: str
    """Stable: what a client decides by."""
    retriable: bool
    """Whether the very same request may succeed later."""
    errors: list[FieldProblem] | None = None
    """Everything that is wrong with the body or the query."""
    reasons: list[str] | None = None
    """Why the registry refuses a schema."""
    dead_letter: DeadLetterPlace | None = None
    """Where an event is kept that Kafka will never take."""
    results: list[dict[str, Any]] | None = None
    """What became of each record of a batch of which none was stored: as in its answer."""


def problem(error: PlatformError, instance: str, **members: Any) -> web.Response:
    """The response to an error; `instance` is the path of the request, percent-encoded; `members` are further ones."""
    kind = problem_of(error)
    if kind.detail is not None and type(error) is not PlatformError:
        _log_hidden(error)
    extra: dict[str, Any] = {name: msgspec.to_builtins(value) for name, value in members.items()}
    if (errors := field_problems(error)) is not None:
        extra["errors"] = msgspec.to_builtins(errors)
    if isinstance(error, IncompatibleSchemaError):
        extra["reasons"] = list(error.reasons)
    detail = kind.detail if kind.detail is not None else str(error)
    response = _response(kind.status, error.code, kind.title, detail, instance, retriable=error.retriable, **extra)
    _add_headers(response, error)
    return response


def field_problems(error: PlatformError) -> list[FieldProblem] | None:
    """Everything that an error says is wrong; None where it is not about fields."""
    if not isinstance(error, InvalidEventError | InvalidParameterError | InvalidSchemaError | InvalidTopicError):
        return None
    return [FieldProblem(e.path, e.message, e.code) for e in error.errors]


def http_problem(error: web.HTTPException, instance: str) -> web.Response:
    """The response to an error that aiohttp raised, with the headers that it carries (Allow)."""
    status = HTTPStatus(error.status)
    code, detail = HTTP_CODES.get(status, (f"http_{status.value}", status.description or status.phrase))
    response = _response(status, code, status.phrase, detail, instance, retriable=False)
    if (allow := error.headers.get(hdrs.ALLOW)) is not None:
        response.headers[hdrs.ALLOW] = allow
    return response


def _response(status: HTTPStatus, code: str, title: str, detail: str, instance: str, **extra: Any) -> web.Response:
    document = {
        "type": _TYPE_PREFIX + code,
        "title": title,
        "status": status.value,
        "detail": detail,
        "instance": instance,
        "code": code,
        **extra,
    }
    # json, in ASCII: a message may quote anything that a client sent, lone surrogates too.
    return web.Response(
        status=status.value,
        body=json.dumps(document).encode(),
        content_type=CONTENT_TYPE,
        headers={hdrs.CACHE_CONTROL: "no-store"},
    )


def _add_headers(response: web.Response, error: PlatformError) -> None:
    match error:
        case UnavailableError(retry_after_s=seconds):
            # RFC 9110, section 10.2.3: whole seconds; 0 would invite a tight loop.
            response.headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(seconds)))
        case InvalidTokenError():
            response.headers[hdrs.WWW_AUTHENTICATE] = (
                f'Bearer realm="{REALM}", error="invalid_token", error_description="{error}"'
            )
        case AuthenticationError():
            # RFC 6750, section 3.1: no error code where the client may not have known that a token is needed.
            response.headers[hdrs.WWW_AUTHENTICATE] = f'Bearer realm="{REALM}"'
        case PermissionDeniedError(scope=scope):
            # A topic comes from the URL and may hold anything; the header may not.
            named = quote(scope, safe=":*._-")
            response.headers[hdrs.WWW_AUTHENTICATE] = (
                f'Bearer realm="{REALM}", error="insufficient_scope", scope="{named}"'
            )
        case UnsupportedFormatError(supported=supported):
            response.headers[hdrs.ACCEPT] = ", ".join(supported)
        case UnsupportedEncodingError(supported=supported):
            response.headers[hdrs.ACCEPT_ENCODING] = ", ".join(supported)
        case BodyTooLargeError() | SlowBodyError():
            # What is left of the body is not read: the connection cannot be used again.
            response.force_close()


def _log_hidden(error: PlatformError) -> None:
    """What the client is not told goes to the log; once in a while, since it may be every request."""
    now = time.monotonic()
    if now - _said_at.get(error.code, float("-inf")) >= _SAY_AGAIN_S:
        _said_at[error.code] = now
        log.warning("%s: %s", error.code, error)
