"""GET /openapi.json and GET /docs: complete, correct by the specification's own validator, and made from what is there."""

from __future__ import annotations

import json
import re
from unittest.mock import MagicMock

import jsonschema_rs
import msgspec
import pytest
from openapi_spec_validator import validate

from streams.domain.errors import PlatformError
from tests.web_gateway import EVENT as EVENT_EXAMPLE
from tests.web_gateway import gateway
from web.describe.docs_page import SECURITY_POLICY, docs_page
from web.describe.openapi import described, openapi_document, operation_key, possible_errors
from web.describe.operations import OPERATIONS
from web.describe.operations.event_body import EVENT
from web.describe.schemas import type_schemas
from web.errors import PROBLEMS
from web.routes import OPEN, PREFIX, routes

TABLE = routes(MagicMock())
DOCUMENT = openapi_document(TABLE)
OPERATION_OBJECTS = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]


class Inner(msgspec.Struct):
    """Within."""

    here: int
    """Where
    it is."""


class Outer(Inner):
    """Around."""

    from_: list[Inner] = msgspec.field(name="from", default_factory=list)
    """Whence."""


def references(value):
    """Every `$ref` in a document."""
    if isinstance(value, dict):
        for name, member in value.items():
            if name == "$ref":
                yield member
            else:
                yield from references(member)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


# Completeness


def test_every_route_is_described_and_every_description_has_a_route():
    assert {operation_key(route) for route in TABLE} == OPERATIONS.keys()


def test_the_document_has_each_path_and_method_once():
    assert {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods} == {
        (route.method, re.sub(r":.*\}", "}", route.path)) for route in described(TABLE)
    }
    # What is open is found at both places, and described where it is looked for.
    assert {"/health", "/metrics", "/openapi.json", f"{PREFIX}/events/{{topic}}"} <= DOCUMENT["paths"].keys()
    assert f"{PREFIX}/health" not in DOCUMENT["paths"]


def test_operations_are_named_once():
    ids = [operation["operationId"] for operation in OPERATION_OBJECTS]
    assert len(set(ids)) == len(ids)


def test_an_operation_wants_the_scope_of_its_route():
    wanted = {operation_key(route): [] if route.scope is OPEN else [{"token": [route.scope]}] for route in TABLE}
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            assert operation["security"] == wanted[f"{method.upper()} {path.removeprefix(PREFIX)}"]


def test_a_route_that_nobody_describes_is_told_by_name():
    route = MagicMock(method="GET", path="/api/v1/nowhere/{topic}")
    with pytest.raises(LookupError, match=r"GET /nowhere/\{topic\}"):
        openapi_document([route])


# Correctness


def test_the_specification_s_validator_takes_it():
    validate(DOCUMENT)


def test_it_is_plain_json_and_the_same_each_time():
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT
    assert json.dumps(openapi_document(routes(MagicMock()))) == json.dumps(DOCUMENT)


def test_each_reference_leads_somewhere_and_each_component_is_used():
    used = {reference.removeprefix("#/components/schemas/") for reference in references(DOCUMENT)}
    assert used == DOCUMENT["components"]["schemas"].keys()


def test_every_example_fits_its_schema():
    examples = 0
    for operation in OPERATION_OBJECTS:
        for content in operation.get("requestBody", {}).get("content", {}).values():
            if "example" in content and content["schema"].get("type") != "string":
                examples += 1
                schema = {**content["schema"], "components": DOCUMENT["components"]}
                assert jsonschema_rs.validator_for(schema).is_valid(content["example"]), operation["operationId"]
    assert examples >= 2


def test_an_error_is_described_with_the_status_and_the_codes_that_it_has():
    for route in described(TABLE):
        operation = OPERATIONS[operation_key(route)]
        responses = DOCUMENT["paths"][re.sub(r":.*\}", "}", route.path)][route.method.lower()]["responses"]
        own = {answer.status for answer in operation.answers}
        for error in possible_errors(route, operation):
            status = next(PROBLEMS[base].status for base in error.__mro__ if base in PROBLEMS)
            if status not in own:
                schema = responses[str(int(status))]["content"]["application/problem+json"]["schema"]
                assert error.code in schema["allOf"][1]["properties"]["code"]["enum"]


@pytest.mark.parametrize("operation_id", ["latestEvents", "eventRecord"])
def test_questions_to_the_log_may_be_too_many(operation_id):
    [operation] = [each for each in OPERATION_OBJECTS if each["operationId"] == operation_id]
    schema = operation["responses"]["429"]["content"]["application/problem+json"]["schema"]
    assert schema["allOf"][1]["properties"]["code"]["enum"] == ["overloaded", "rate_limited"]


def test_every_error_is_told_of_by_an_operation_that_may_answer_with_it():
    told = {error for route in TABLE for error in possible_errors(route, OPERATIONS[operation_key(route)])}
    # Not answers to a request: of the start, of agents, and of a stream's end.
    assert {error.code for error in PROBLEMS} - {error.code for error in told} == NEVER_ANSWERED


NEVER_ANSWERED = {"configuration", "duplicate_event"}


def test_the_schema_of_an_event_tells_valid_from_invalid():
    validator = jsonschema_rs.validator_for(EVENT)
    assert validator.is_valid(EVENT_EXAMPLE)
    for change in (
        {"event_type": "1"},
        {"event_type": "a\n"},
        {"timestamp": None},
        {"device_id": None},
        {"event_id": "none"},
        {"payload": []},
        {"value": "1"},
        {"more": 1},
    ):
        assert not validator.is_valid(EVENT_EXAMPLE | change), change
    assert not validator.is_valid({name: value for name, value in EVENT_EXAMPLE.items() if name != "device_id"})


def test_a_field_is_described_by_the_docstring_below_it():
    _, components = type_schemas([Outer])
    assert components["Outer"]["description"] == "Around."
    assert components["Outer"]["properties"]["from"]["description"] == "Whence."
    assert components["Outer"]["properties"]["here"]["description"] == "Where it is."
    assert components["Inner"]["properties"]["here"]["description"] == "Where it is."


# The handlers


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_anyone_may_read_it(prefix):
    async with gateway() as g:
        response = await g.client.get(f"{prefix}/openapi.json")
        assert (response.status, response.content_type) == (200, "application/json")
        assert await response.json() == DOCUMENT
        page = await g.client.get(f"{prefix}/docs")
        assert (page.status, page.content_type, page.charset) == (200, "text/html", "utf-8")
        assert page.headers["Content-Security-Policy"] == SECURITY_POLICY
        assert page.headers["X-Content-Type-Options"] == "nosniff"


# The page


PAGE = str(docs_page(DOCUMENT))


def test_the_page_shows_every_operation_and_type():
    for operation in OPERATION_OBJECTS:
        assert f'<article id="{operation["operationId"]}">' in PAGE
    for name in DOCUMENT["components"]["schemas"]:
        assert f'<article id="type-{name}">' in PAGE
    for error in (error for route in TABLE for error in possible_errors(route, OPERATIONS[operation_key(route)])):
        assert f"<code>{error.code}</code>" in PAGE


def test_every_link_of_the_page_leads_into_it_or_to_a_document_beside_it():
    ids = set(re.findall(r' id="([^"]+)"', PAGE))
    links = set(re.findall(r'href="([^"]+)"', PAGE))
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    assert {link for link in links if not link.startswith("#")} == {"openapi.json", "asyncapi.json"}


def test_the_page_has_no_script_and_loads_nothing():
    assert "<script" not in PAGE
    assert not re.search(r" (src|srcset|action|style|on[a-z]+)=", PAGE)
    assert "@import" not in PAGE
    assert "url(" not in PAGE
    assert SECURITY_POLICY.startswith("default-src 'none'; style-src 'sha256-")


def test_what_the_document_says_is_text_on_the_page():
    document = json.loads(json.dumps(DOCUMENT).replace("Publish one event", "<script>alert(1)</script>"))
    assert "<script>" not in docs_page(document)
    assert "&lt;script&gt;" in docs_page(document)


def test_the_root_of_all_errors_is_told_of_everywhere():
    assert all("internal" in json.dumps(operation["responses"]["500"]) for operation in OPERATION_OBJECTS)
    assert PlatformError.code == "internal"
