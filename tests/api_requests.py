"""Requests to the operations of the OpenAPI document, and what the document says of their answers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import quote, urlsplit

import httpx
import jsonschema_rs
from hypothesis import strategies as st

from deploy.local.paths import ROOT
from tests.served_gateway import Served
from web.describe.openapi import openapi_document
from web.problems import CONTENT_TYPE
from web.routes import routes

DOCUMENT = openapi_document(routes(MagicMock()))
EXISTING = {"topic": "iot", "table": "state", "key": "iot/d1", "partition": "0", "offset": "0", "id": "r1"}
ERRORS = {
    found[1]: (int(found[2]), found[3] == "yes")
    for found in re.finditer(
        r"^\| `(\w+)` \| (\d+) \| (yes|no) \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE
    )
}
"""Status and whether to retry, by code, as `docs/errors.md` has them."""


@dataclass(frozen=True)
class Operation:
    """An operation of the document."""

    method: str
    path: str
    described: dict[str, Any] = field(repr=False, hash=False, compare=False)

    @property
    def is_open(self) -> bool:
        return self.described["security"] == []

    @property
    def query(self) -> dict[str, Any]:
        """Schemas of query parameters by name."""
        return {p["name"]: p["schema"] for p in self.described.get("parameters", ()) if p["in"] == "query"}

    @property
    def narrow(self) -> list[str]:
        """Query parameters that take numbers, times or a few words: of these, it is known what is wrong."""
        return [
            n for n, s in self.query.items() if s.get("type") in ("integer", "boolean") or "enum" in s or "anyOf" in s
        ]

    @property
    def checks_query(self) -> bool:
        """Whether an unknown parameter is refused."""
        return "invalid_parameter" in self.codes(400)

    @property
    def body(self) -> dict[str, Any]:
        """Media types of the body."""
        return self.described.get("requestBody", {}).get("content", {})

    def codes(self, status: int) -> list[str]:
        """The errors that it may answer with."""
        content = self.described["responses"].get(str(status), {}).get("content", {})
        return (
            content[CONTENT_TYPE]["schema"]["allOf"][1]["properties"]["code"]["enum"] if CONTENT_TYPE in content else []
        )

    def url(self, **values: str) -> str:
        """Its path with what exists, but for what is told otherwise."""
        return re.sub(r"\{(\w+)\}", lambda m: quote(values.get(m[1], EXISTING.get(m[1], "1")), safe=""), self.path)

    @cached_property
    def example(self) -> tuple[dict[str, str], bytes | None]:
        """Headers and body that it takes."""
        for media_type, content in self.body.items():
            if "example" in content:
                example = content["example"]
                body = example.encode() if isinstance(example, str) else json.dumps(example).encode()
                return {"Content-Type": media_type}, body
        return {}, None


OPERATIONS = [
    Operation(method.upper(), path, described)
    for path, methods in DOCUMENT["paths"].items()
    for method, described in methods.items()
    # A live stream has no answer to check: property 13 is about it.
    if not described.get("x-websocket")
]

operations = st.sampled_from(OPERATIONS)


def send(
    served: Served, operation: Operation, url: str | None = None, scopes: str | None = "*", **request: Any
) -> httpx.Response:
    """Send a request, as good as the operation takes it but for what is told otherwise; `scopes` None is no token."""
    headers, body = operation.example
    headers = headers | (served.gateway.headers(scopes) if scopes is not None else {}) | request.pop("headers", {})
    request.setdefault("content", body)
    return served.client.request(
        request.pop("method", operation.method), url or operation.url(), headers=headers, **request
    )


def assert_documented(operation: Operation, response: httpx.Response) -> None:
    """The answer is one that the document has: its status, media type, schema and headers."""
    described = operation.described["responses"]
    assert str(response.status_code) in described, (response.status_code, response.text)
    answer = described[str(response.status_code)]
    media_type = response.headers.get("content-type", "").partition(";")[0]
    assert media_type in answer["content"], (response.status_code, media_type)
    for name, header in answer.get("headers", {}).items():
        assert name in response.headers, (response.status_code, name)
        if header["schema"]["type"] == "integer":
            assert int(response.headers[name]) >= header["schema"].get("minimum", 0)
    if media_type == "application/json" or media_type.endswith("+json"):
        schema = {**answer["content"][media_type]["schema"], "components": DOCUMENT["components"]}
        jsonschema_rs.validator_for(schema).validate(response.json())
    if media_type == CONTENT_TYPE:
        assert_problem(response)


def assert_problem(response: httpx.Response) -> dict[str, Any]:
    """A problem document (RFC 9457), of a code that `docs/errors.md` has, with the status and the advice that it says."""
    assert response.headers["content-type"].partition(";")[0] == CONTENT_TYPE
    problem: dict[str, Any] = response.json()
    code = problem["code"]
    assert code in ERRORS
    assert (problem["status"], problem["retriable"]) == ERRORS[code]
    assert problem["status"] == response.status_code
    assert problem["type"] == f"urn:problem-type:event-streams:{code}"
    assert problem["instance"] == urlsplit(str(response.request.url)).path
    assert problem["title"]
    assert problem["detail"]
    # RFC 9110, section 10.2.3: where waiting helps, how long is told.
    if problem["retriable"] and response.status_code in (429, 502, 503):
        assert int(response.headers["Retry-After"]) >= 1
    return problem
