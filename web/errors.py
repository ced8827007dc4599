"""Every error's HTTP status, in one place; and the errors that only HTTP knows.

How they look on the wire is in `web.problems`; what a client does about each is in `docs/errors.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from streams.domain.errors import (
    AuthenticationError,
    ConfigurationError,
    DuplicateEventError,
    FieldError,
    IdempotencyConflictError,
    IncompatibleSchemaError,
    InvalidEventError,
    InvalidSchemaError,
    InvalidTopicError,
    KafkaAccessError,
    KafkaUnavailableError,
    MalformedEventError,
    OverloadedError,
    PermissionDeniedError,
    PlatformError,
    RecordRejectedError,
    RedriveLogError,
    RedriveRunningError,
    RedriveSupersededError,
    RegistryAccessError,
    RegistryUnavailableError,
    TooManyRecordsError,
    TooManyTopicsError,
    TopicExistsError,
    UnavailableError,
    UnknownSchemaError,
    UnknownTopicError,
    UnsupportedFormatError,
)


class InvalidRequestError(PlatformError):
    """The request itself is broken: its encoding, its upgrade, its connection."""

    code = "invalid_request"


class InvalidParameterError(PlatformError):
    """Query parameters are unknown or wrong; `errors` names each, with a path such as `?limit`."""

    code = "invalid_parameter"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{e.path}: {e.message}" for e in self.errors))


class BodyTooLargeError(PlatformError):
    """The body, decompressed, is larger than the limit (bytes)."""

    code = "body_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit} bytes")


class HeadersTooLargeError(PlatformError):
    """The request's headers are too many, or too large (RFC 6585, section 5)."""

    code = "headers_too_large"


class UriTooLongError(PlatformError):
    """The request's path and query are too long."""

    code = "uri_too_long"


class CompressionRatioError(PlatformError):
    """The body is a bomb: compressed, it is far smaller than what it would become."""

    code = "compression_ratio"

    def __init__(self, max_ratio: int) -> None:
        super().__init__(f"the body would become more than {max_ratio} times as large when it is inflated")


class SlowBodyError(PlatformError):
    """The body did not arrive within the request's deadline (seconds)."""

    code = "request_timeout"
    retriable = True

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"the body did not arrive within {deadline_s:g} s")


class SlowHeadersError(SlowBodyError):
    """The headers of a request did not arrive in time (seconds)."""

    def __init__(self, timeout_s: float) -> None:
        PlatformError.__init__(self, f"the request's headers did not arrive within {timeout_s:g} s")


class UnsupportedEncodingError(PlatformError):
    """The Content-Encoding is none that we decode."""

    code = "unsupported_encoding"

    def __init__(self, encoding: str, supported: Sequence[str]) -> None:
        self.supported = tuple(supported)
        super().__init__(f"Content-Encoding {encoding!r} is not one of {', '.join(supported)}")


class NotAcceptableError(PlatformError):
    """The header Accept takes none of the forms that the answer comes in."""

    code = "not_acceptable"

    def __init__(self, supported: Sequence[str]) -> None:
        self.supported = tuple(supported)
        super().__init__(f"the answer comes as {', '.join(supported)}")


class InvalidTokenError(AuthenticationError):
    """A token came, but it is malformed, forged, expired or not for us."""

    code = "invalid_token"


class UnknownSigningKeyError(InvalidTokenError):
    """A token names a signing key that is not known here, or not yet."""


class RateLimitedError(UnavailableError):
    """The token's subject sends more than its share; nothing of this call was started."""

    code = "rate_limited"


class OriginDeniedError(PlatformError):
    """A browser's page of another origin asked for a WebSocket."""

    code = "origin_denied"


class NotFoundError(PlatformError):
    """Nothing is at this path: it has no such record, or no such run."""

    code = "not_found"

    def __init__(self) -> None:
        super().__init__("nothing is at this path")


class UnknownTableError(PlatformError):
    """No table has this name."""

    code = "unknown_table"

    def __init__(self, table: str) -> None:
        super().__init__(f"there is no table {table!r}")


class UnknownKeyError(PlatformError):
    """No part of the table, wherever it is, has a row of this key."""

    code = "unknown_key"

    def __init__(self, table: str, key: str) -> None:
        super().__init__(f"the table {table!r} has no row {key!r}")


class UnknownOffsetError(PlatformError):
    """No event is at this place: outside the log, a transaction's mark, or removed since."""

    code = "unknown_offset"


class WorkerUnavailableError(UnavailableError):
    """Another worker, which has what was asked for, does not answer."""

    code = "worker_unavailable"


class WorkerFailedError(UnavailableError):
    """Another worker, which has what was asked for, answered with an error."""

    code = "worker_failed"


class DeadlineExceededError(UnavailableError):
    """The request was not done within its deadline (seconds)."""

    code = "deadline_exceeded"

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"not done within {deadline_s:g} s")


@dataclass(frozen=True, slots=True)
class Problem:
    """How an error is answered."""

    status: HTTPStatus
    title: str
    detail: str | None = None
    """Told in place of the error's message, where that speaks of our insides: hosts, credentials, traces."""


PROBLEMS: Final[Mapping[type[PlatformError], Problem]] = {
    PlatformError: Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error", "an error of ours; it has been logged"),
    ConfigurationError: Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "Misconfigured", "a setting of the service is wrong; its log says which"
    ),
    InvalidRequestError: Problem(HTTPStatus.BAD_REQUEST, "The request is broken"),
    InvalidParameterError: Problem(HTTPStatus.BAD_REQUEST, "A query parameter is wrong"),
    MalformedEventError: Problem(HTTPStatus.BAD_REQUEST, "The body cannot be read"),
    InvalidEventError: Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "The event is not valid"),
    UnknownSchemaError: Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "The schema is not known"),
    RecordRejectedError: Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "Kafka refused the record",
        "Kafka will never take this record: it is too large for the topic, or not allowed",
    ),
    IncompatibleSchemaError: Problem(
        HTTPStatus.CONFLICT, "The schema is not compatible", "the registry refuses the schema"
    ),
    InvalidSchemaError: Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "The schema cannot be used"),
    InvalidTopicError: Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "The topic cannot be created so"),
    TopicExistsError: Problem(HTTPStatus.CONFLICT, "The topic exists"),
    TooManyTopicsError: Problem(HTTPStatus.CONFLICT, "There are too many topics"),
    DuplicateEventError: Problem(HTTPStatus.CONFLICT, "The event was stored before"),
    IdempotencyConflictError: Problem(HTTPStatus.CONFLICT, "The id was used for another event"),
    RedriveRunningError: Problem(HTTPStatus.CONFLICT, "A redrive is running"),
    RedriveSupersededError: Problem(HTTPStatus.CONFLICT, "Another redrive has taken over"),
    RedriveLogError: Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "The log of redrives cannot be read"),
    UnsupportedFormatError: Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The content type is not supported"),
    UnsupportedEncodingError: Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The content encoding is not supported"),
    NotAcceptableError: Problem(HTTPStatus.NOT_ACCEPTABLE, "No such form of the answer"),
    BodyTooLargeError: Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large"),
    CompressionRatioError: Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is compressed too much"),
    TooManyRecordsError: Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The batch has too many records"),
    SlowBodyError: Problem(HTTPStatus.REQUEST_TIMEOUT, "The body came too slowly"),
    SlowHeadersError: Problem(HTTPStatus.REQUEST_TIMEOUT, "The headers came too slowly"),
    HeadersTooLargeError: Problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too large"),
    UriTooLongError: Problem(HTTPStatus.REQUEST_URI_TOO_LONG, "The URL is too long"),
    UnknownTopicError: Problem(HTTPStatus.NOT_FOUND, "No such topic"),
    UnknownOffsetError: Problem(HTTPStatus.NOT_FOUND, "No such event"),
    NotFoundError: Problem(HTTPStatus.NOT_FOUND, "Not Found"),
    UnknownTableError: Problem(HTTPStatus.NOT_FOUND, "No such table"),
    UnknownKeyError: Problem(HTTPStatus.NOT_FOUND, "No such key"),
    AuthenticationError: Problem(HTTPStatus.UNAUTHORIZED, "Authentication required"),
    InvalidTokenError: Problem(HTTPStatus.UNAUTHORIZED, "The token is not valid"),
    PermissionDeniedError: Problem(HTTPStatus.FORBIDDEN, "The token does not allow this"),
    OriginDeniedError: Problem(HTTPStatus.FORBIDDEN, "The origin is not allowed"),
    OverloadedError: Problem(HTTPStatus.TOO_MANY_REQUESTS, "Too much is in flight"),
    RateLimitedError: Problem(HTTPStatus.TOO_MANY_REQUESTS, "Too many at once"),
    UnavailableError: Problem(HTTPStatus.SERVICE_UNAVAILABLE, "Not available now"),
    WorkerUnavailableError: Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Another worker is not available",
        "the worker that has it does not answer; when its partitions are with others, they will",
    ),
    WorkerFailedError: Problem(
        HTTPStatus.BAD_GATEWAY, "Another worker failed", "the worker that has it answered with an error"
    ),
    DeadlineExceededError: Problem(HTTPStatus.SERVICE_UNAVAILABLE, "Not done in time"),
    KafkaUnavailableError: Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Kafka is not available",
        "Kafka did not answer in time: try again; an event may be stored all the same, so send it under the same event_id",
    ),
    RegistryUnavailableError: Problem(
        HTTPStatus.SERVICE_UNAVAILABLE, "The schema registry is not available", "the schema registry did not answer"
    ),
    KafkaAccessError: Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "Kafka refused the service", "Kafka refused the service's own credentials"
    ),
    RegistryAccessError: Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "The schema registry refused the service",
        "the schema registry refused the service's own credentials",
    ),
}

HTTP_CODES: Final[Mapping[int, tuple[str, str]]] = {
    HTTPStatus.BAD_REQUEST: (InvalidRequestError.code, "the request is not one that this path takes"),
    HTTPStatus.NOT_FOUND: (NotFoundError.code, str(NotFoundError())),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method_not_allowed", "the path does not take this method"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (BodyTooLargeError.code, "the body is too large"),
}
"""Code and detail of the errors that aiohttp itself raises, by status."""


def problem_of(error: PlatformError) -> Problem:
    """How an error is answered: its own entry, or that of the nearest base class."""
    return problem_of_type(type(error))


def problem_of_type(error: type[PlatformError]) -> Problem:
    """How errors of a class are answered."""
    for type_ in error.__mro__:
        if type_ in PROBLEMS:
            return PROBLEMS[type_]
    raise TypeError(f"{error.__name__} is no PlatformError")
