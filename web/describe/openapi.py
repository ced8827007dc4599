"""The OpenAPI 3.1 document: made from the table of routes, the operations, the types of answers, and the errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Final

from aiohttp import hdrs

from streams.domain.errors import (
    AuthenticationError,
    KafkaAccessError,
    KafkaUnavailableError,
    OverloadedError,
    PermissionDeniedError,
    PlatformError,
    UnavailableError,
    UnknownTopicError,
    UnsupportedFormatError,
)
from streams.domain.naming import TOPIC_PATTERN
from web.describe.operations import OPERATIONS
from web.describe.operations.model import Content, Operation
from web.describe.schemas import REF_TEMPLATE, Schema, type_schemas
from web.errors import (
    BodyTooLargeError,
    CompressionRatioError,
    DeadlineExceededError,
    HeadersTooLargeError,
    InvalidParameterError,
    InvalidRequestError,
    InvalidTokenError,
    NotFoundError,
    RateLimitedError,
    SlowBodyError,
    SlowHeadersError,
    UnsupportedEncodingError,
    UriTooLongError,
    problem_of_type,
)
from web.negotiation import HTML
from web.problems import CONTENT_TYPE, ProblemDocument
from web.routes import OPEN, PREFIX, Route

SECURITY_SCHEME: Final = "token"
PROBLEM_REF: Final = REF_TEMPLATE.format(name=ProblemDocument.__name__)

_VARIABLE: Final = re.compile(r"\{([a-z_]+)(?::(?:[^{}]|\{[^{}]*\})*)?\}")

PATH_PARAMETERS: Final[Mapping[str, tuple[Schema, str]]] = {
    "topic": ({"type": "string", "pattern": f"^{TOPIC_PATTERN}$"}, "the topic, without `events.`"),
    "partition": ({"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, "the partition"),
    "offset": ({"type": "integer", "minimum": 0, "maximum": 10**18 - 1}, "the offset within the partition"),
    "id": ({"type": "string", "minLength": 1}, "the id of the run"),
    "table": ({"type": "string", "minLength": 1}, "the table"),
    "key": ({"type": "string", "minLength": 1}, "the key; its slashes are written as `%2F`"),
}


def openapi_document(table: Iterable[Route]) -> Schema:
    """The document. It is the same for the same table."""
    routes = [(route, operation_of(route)) for route in described(table)]
    schemas = _Schemas(operation for _, operation in routes)
    paths: dict[str, Schema] = {}
    for route, operation in routes:
        paths.setdefault(_plain(route.path), {})[route.method.lower()] = _operation(route, operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Event streams",
            "version": version("event-streams"),
            "summary": "Events in, validated and stored once; the log, windows and live streams out.",
            "description": (
                "Times are milliseconds since the Unix epoch. Every error is a problem document (RFC 9457) with a stable"
                " `code`. `HEAD` is answered wherever `GET` is, but for the live stream, which is described in"
                " `/asyncapi.json`. A token's scope may have `*` for a word: `events:write:*`."
            ),
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for _, operation in routes)],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                SECURITY_SCHEME: {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "The scope that an operation needs is named beside it; never put a token in a URL.",
                }
            },
        },
    }


def described(table: Iterable[Route]) -> list[Route]:
    """The routes that the document has: what is found with and without the prefix is there once, without it."""
    routes = list(table)
    bare = {(route.method, route.path) for route in routes if not route.path.startswith(PREFIX)}
    return [
        route
        for route in routes
        if not (route.path.startswith(PREFIX) and (route.method, route.path.removeprefix(PREFIX)) in bare)
    ]


def operation_key(route: Route) -> str:
    """Where `OPERATIONS` has the route's."""
    return f"{route.method} {_plain(route.path.removeprefix(PREFIX))}"


def operation_of(route: Route) -> Operation:
    """What the route does. Raises LookupError where nobody has said so."""
    try:
        return OPERATIONS[operation_key(route)]
    except KeyError:
        raise LookupError(f"web.describe.operations does not describe {operation_key(route)}") from None


def _plain(path: str) -> str:
    """With the names of its variables alone, as OpenAPI has them."""
    return _VARIABLE.sub(r"{\1}", path)


def possible_errors(route: Route, operation: Operation) -> list[type[PlatformError]]:
    """Every error that the route may answer with: what it names, and what follows from how it is made."""
    errors: list[type[PlatformError]] = [
        PlatformError,
        InvalidRequestError,
        DeadlineExceededError,
        HeadersTooLargeError,
        SlowHeadersError,
        UriTooLongError,
    ]
    if route.scope is not OPEN:
        errors += [AuthenticationError, InvalidTokenError, PermissionDeniedError, RateLimitedError, UnavailableError]
    if operation.query is not None:
        errors += [InvalidParameterError]
    if operation.body:
        errors += [
            UnsupportedFormatError,
            UnsupportedEncodingError,
            BodyTooLargeError,
            CompressionRatioError,
            SlowBodyError,
            OverloadedError,
        ]
    if "{" in route.path:
        # Of what fits no variable, such as a brace.
        errors += [NotFoundError]
    if "{topic}" in route.path:
        errors += [UnknownTopicError, KafkaUnavailableError, KafkaAccessError]
    return sorted({*errors, *operation.errors}, key=lambda error: (problem_of_type(error).status, error.code))


def _operation(route: Route, operation: Operation, schemas: _Schemas) -> Schema:
    document: Schema = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    if operation.description:
        document["description"] = operation.description
    # OpenAPI 3.1 lets any scheme name the roles that it must give; 3.0 let OAuth alone.
    document["security"] = [] if route.scope is OPEN else [{SECURITY_SCHEME: [route.scope]}]
    if parameters := [*_path_parameters(route.path), *_query_parameters(operation), *_header_parameters(operation)]:
        document["parameters"] = parameters
    if operation.body:
        document["requestBody"] = {"required": operation.body_required, "content": schemas.content(operation.body)}
    if route.websocket:
        document["x-websocket"] = True
    document["responses"] = {
        str(status): response
        for status, response in sorted([*_answers(operation, schemas), *_problems(route, operation)])
    }
    return document


def _path_parameters(path: str) -> list[Schema]:
    parameters = []
    for name in _VARIABLE.findall(path):
        schema, description = PATH_PARAMETERS[name]
        parameters.append({"name": name, "in": "path", "required": True, "description": description, "schema": schema})
    return parameters


def _query_parameters(operation: Operation) -> list[Schema]:
    return [
        {"name": each.name, "in": "query", "description": each.description, "schema": dict(each.schema)}
        for each in operation.query or ()
    ]


def _header_parameters(operation: Operation) -> list[Schema]:
    return [
        {"name": each.name, "in": "header", "description": each.description, "schema": dict(each.schema)}
        for each in operation.headers
    ]


def _answers(operation: Operation, schemas: _Schemas) -> list[tuple[int, Schema]]:
    found = []
    for answer in operation.answers:
        response: Schema = {"description": answer.description}
        if answer.headers:
            response["headers"] = {
                name: {"description": text, "required": True, "schema": {"type": "string"}}
                for name, text in answer.headers.items()
            }
        if answer.content:
            response["content"] = schemas.content(answer.content)
        found.append((answer.status, response))
    return found


def _problems(route: Route, operation: Operation) -> list[tuple[int, Schema]]:
    """A response for each status, with the codes that come with it."""
    answered = {answer.status for answer in operation.answers}
    by_status: dict[HTTPStatus, list[type[PlatformError]]] = {}
    for error in possible_errors(route, operation):
        by_status.setdefault(problem_of_type(error).status, []).append(error)
    return [
        (status.value, _problem(status, errors, html=operation.error_pages))
        for status, errors in by_status.items()
        if status not in answered
    ]


def _problem(status: HTTPStatus, errors: Sequence[type[PlatformError]], *, html: bool) -> Schema:
    codes = sorted({error.code for error in errors})
    schema = {"allOf": [{"$ref": PROBLEM_REF}, {"properties": {"code": {"enum": codes}}}]}
    content: Schema = {CONTENT_TYPE: {"schema": schema}}
    if html:
        content[HTML] = {"schema": {"type": "string"}}
    response: Schema = {
        "description": "; ".join(sorted({problem_of_type(error).title for error in errors})),
        "content": content,
    }
    if headers := _problem_headers(status, errors):
        response["headers"] = headers
    return response


def _problem_headers(status: HTTPStatus, errors: Sequence[type[PlatformError]]) -> Schema:
    if all(issubclass(error, UnavailableError) for error in errors):
        return {
            str(hdrs.RETRY_AFTER): {
                "description": "seconds to wait before the same request is sent again",
                "required": True,
                "schema": {"type": "integer", "minimum": 1},
            }
        }
    if status == HTTPStatus.UNAUTHORIZED:
        return {
            str(hdrs.WWW_AUTHENTICATE): {
                "description": "the challenge (RFC 6750)",
                "required": True,
                "schema": {"type": "string"},
            }
        }
    return {}


class _Schemas:
    """The components, and the schema of each type of a body."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        shapes = [
            content.shape
            for operation in operations
            for content in (*operation.body, *(c for answer in operation.answers for c in answer.content))
        ]
        types = [*dict.fromkeys(shape for shape in shapes if not isinstance(shape, Mapping)), ProblemDocument]
        schemas, self.components = type_schemas(types)
        self._schemas = dict(zip(types, schemas, strict=True))

    def content(self, contents: Iterable[Content]) -> Schema:
        """The value of `content`."""
        document: Schema = {}
        for content in contents:
            shape = content.shape
            schema = dict(shape) if isinstance(shape, Mapping) else dict(self._schemas[shape])
            if content.description:
                schema["description"] = content.description
            media: Schema = {"schema": schema}
            if content.example is not None:
                media["example"] = content.example
            document[content.media_type] = media
        return document
