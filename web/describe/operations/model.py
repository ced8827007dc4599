"""The words in which an operation is described."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from streams.domain.errors import PlatformError
from web.parameters import Query

BINARY: Final = {"type": "string", "format": "binary"}
TEXT: Final = {"type": "string"}


@dataclass(frozen=True, slots=True)
class Content:
    """A form of a body: its media type, and its type or its JSON Schema."""

    media_type: str
    shape: Any
    """A type that msgspec knows, or a mapping, which is a JSON Schema."""
    example: Any = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes back where all went well; or where it did not, in a form that is no problem document."""

    status: int
    description: str
    content: tuple[Content, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """Descriptions by name: of headers that are always there."""


@dataclass(frozen=True, slots=True)
class RequestHeader:
    """A header of the request that means something here."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route does. Errors that follow from its path, its scope and its body need not be named."""

    id: str
    tag: str
    summary: str
    answers: tuple[Answer, ...]
    description: str = ""
    query: tuple[Query[Any], ...] | None = None
    """None where the query is not looked at; where it is, a parameter that is not here is refused."""
    headers: tuple[RequestHeader, ...] = ()
    body: tuple[Content, ...] = ()
    body_required: bool = True
    errors: tuple[type[PlatformError], ...] = ()
    error_pages: bool = False
    """Whether errors, too, are HTML for who prefers it."""
