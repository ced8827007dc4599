"""Which pages of other origins may call the API, and what a preflight tells them."""

from __future__ import annotations

import pytest

from tests.web_gateway import gateway, make_settings, problem_of
from web.read.reading import UNREADABLE
from web.security.cors import ALLOWED_HEADERS, origin_allowed

APP = "https://app.example.com"
OTHER = "https://other.example.com"
PATH = "/api/v1/events/iot"


def preflight(origin=APP, method="POST", headers="authorization,content-type"):
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


def cors_headers(response):
    return {name for name in response.headers if name.lower().startswith("access-control-")}


async def test_a_preflight_is_answered_without_a_token_from_the_route_table():
    async with gateway(cors_origins=f"{APP},https://second.example.com:8443") as g:
        response = await g.client.options(PATH, headers=preflight())
        assert (response.status, await response.read()) == (204, b"")
        assert response.headers["Access-Control-Allow-Origin"] == APP
        assert response.headers["Access-Control-Allow-Methods"] == "POST"
        assert response.headers["Access-Control-Allow-Headers"] == ", ".join(ALLOWED_HEADERS)
        assert response.headers["Access-Control-Max-Age"] == "600"
        assert response.headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in response.headers
        response = await g.client.options("/api/v1/events/iot/latest", headers=preflight(method="GET"))
        assert response.headers["Access-Control-Allow-Methods"] == "GET, HEAD"
        response = await g.client.options(PATH, headers=preflight("https://second.example.com:8443"))
        assert response.headers["Access-Control-Allow-Origin"] == "https://second.example.com:8443"


@pytest.mark.parametrize(
    "headers",
    [
        preflight(OTHER),
        preflight("null"),
        preflight("http://app.example.com"),
        preflight(APP + ":8443"),
        preflight(APP + ".evil.com"),
        {"Origin": APP},
        {"Access-Control-Request-Method": "POST"},
        {},
    ],
)
async def test_any_other_options_needs_a_token_like_all_else(headers):
    async with gateway(cors_origins=APP) as g:
        response = await g.client.options(PATH, headers=headers)
        assert response.status == 401
        assert ("Access-Control-Allow-Origin" in response.headers) is (headers.get("Origin") == APP)
        assert "Access-Control-Allow-Methods" not in response.headers
        assert (await g.client.options(PATH, headers=headers | g.headers())).status == 405


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1", "/api/v1/events", "/table/", "/"])
async def test_a_preflight_tells_nothing_of_what_is_not_in_the_table(path):
    async with gateway(cors_origins=APP) as g:
        response = await g.client.options(path, headers=preflight())
        assert response.status == 401
        assert "Access-Control-Allow-Methods" not in response.headers


async def test_without_the_setting_no_page_is_let_in():
    async with gateway() as g:
        response = await g.client.options(PATH, headers=preflight())
        assert (response.status, cors_headers(response)) == (401, set())
        response = await g.client.get("/health/live", headers={"Origin": APP})
        assert cors_headers(response) == set()
        assert "Vary" not in response.headers


async def test_answers_can_be_read_by_an_allowed_origin_errors_too():
    async with gateway(cors_origins=APP) as g:
        for path, headers, status in (
            ("/health/live", {}, 200),
            (PATH, {}, 401),
            (PATH, g.headers("nothing"), 405),
            ("/api/v1/events/iot/latest", g.headers("nothing"), 403),
        ):
            response = await g.client.get(path, headers=headers | {"Origin": APP})
            assert response.status == status
            assert response.headers["Access-Control-Allow-Origin"] == APP
            exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
            # The last two: a page of events says where the next one is in headers alone, in every form but JSON.
            assert {"Retry-After", "Link", UNREADABLE} <= set(exposed)
            assert response.headers["Vary"] == "Origin"
            if status >= 400:
                await problem_of(response)


async def test_another_origin_gets_answers_that_its_page_cannot_read():
    async with gateway(cors_origins=APP) as g:
        for origin in ({"Origin": OTHER}, {}):
            response = await g.client.get("/health/live", headers=origin)
            assert (response.status, cors_headers(response)) == (200, set())
            # A cache must not give this answer to the other origin.
            assert response.headers["Vary"] == "Origin"


async def test_the_star_is_every_origin_and_never_with_credentials():
    async with gateway(cors_origins="*") as g:
        for origin in (APP, OTHER, "null"):
            response = await g.client.options(PATH, headers=preflight(origin))
            assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (204, "*")
            assert "Access-Control-Allow-Credentials" not in response.headers
        assert (await g.client.get(PATH, headers={"Origin": OTHER})).status == 401


@pytest.mark.parametrize(
    ("origin", "host", "origins", "allowed"),
    [
        ("http://here:6066", "here:6066", "", True),
        ("https://HERE:6066", "here:6066", "", True),
        ("http://here:1", "here:6066", "", False),
        ("null", "here:6066", "", False),
        ("", "", "", False),
        ("garbage", "here", "", False),
        ("http://[", "here", "", False),
        (APP, "here", "", False),
        (APP, "here", APP, True),
        (OTHER, "here", APP, False),
        (OTHER, "here", "*", True),
    ],
)
def test_where_a_page_may_open_a_stream(origin, host, origins, allowed):
    assert origin_allowed(origin, host, make_settings(cors_origins=origins)) is allowed


@pytest.mark.parametrize(
    "wrong", ["app.example.com", "https://a.b/", "https://A.B", "*,https://a.b", "https://*.b", "x*"]
)
def test_what_is_no_origin_is_refused(wrong):
    with pytest.raises(ValueError, match="cors_origins"):
        make_settings(cors_origins=wrong)
