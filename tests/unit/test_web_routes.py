"""Every path of the worker's real web server, Faust's own included: open ones are known, all others want a token."""

from __future__ import annotations

import re
import time

import pytest
from aiohttp.test_utils import TestClient, TestServer

import web
from streams.faust_app import create_app
from tests.web_gateway import make_settings, problem_of
from web.security.auth import load_or_create_secret, make_token

OPEN = {
    prefix + path
    for prefix in ("", "/api/v1")
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/openapi.json", "/asyncapi.json", "/docs")
}


@pytest.fixture
def app():
    """The app as the worker makes it; it is never started, so nothing is connected."""
    app = create_app(make_settings(kafka_bootstrap_servers="127.0.0.1:26999", registry_url="http://127.0.0.1:26998"))
    web.install(app)
    app.web.init_server()
    return app


@pytest.fixture
async def client(app):
    async with TestClient(TestServer(app.web.web_app)) as client:
        yield client


def routes(app):
    return sorted(
        {
            (route.method, re.sub(r"\{[^}]*\}", "iot", route.resource.canonical))
            for route in app.web.web_app.router.routes()
        }
    )


def headers(app, scopes):
    settings = app.platform.settings
    token = make_token(settings, load_or_create_secret(settings), scopes, 60, "me", time.time())
    return {"Authorization": f"Bearer {token}"}


async def test_no_route_but_the_open_ones_answers_without_a_token(app, client):
    paths = set()
    for method, path in routes(app):
        response = await client.request("GET" if method == "*" else method, path, allow_redirects=False)
        paths.add(path)
        if path in OPEN:
            assert response.status in (200, 503), (method, path)
        else:
            assert response.status == 401, (method, path)
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            if method != "HEAD":
                await problem_of(response)
    # What this is about: ours and Faust's are both there.
    assert paths >= OPEN
    assert {"/", "/table/", "/api/v1/events/iot", "/api/v1/stream/iot"} <= paths


async def test_no_route_but_the_open_ones_answers_a_token_that_allows_nothing(app, client):
    for method, path in routes(app):
        if path not in OPEN:
            response = await client.request(method, path, headers=headers(app, ["nothing"]))
            assert response.status == 403, (method, path)


async def test_faust_s_pages_want_the_scope_admin(app, client):
    assert (await client.get("/table/", headers=headers(app, ["events:*"]))).status == 403
    assert (await client.get("/table/", headers=headers(app, ["admin"]))).status == 200


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1", "/api/v1/events", "/api/v1/events/iot/", "/api/v2/events/iot"])
async def test_a_path_that_leads_nowhere_is_known_with_a_token_only(app, client, path):
    assert (await client.get(path)).status == 401
    response = await client.get(path, headers=headers(app, ["nothing"]))
    assert response.status == 404
    assert (await problem_of(response))["code"] == "not_found"


async def test_another_method_is_refused_and_told_which_are_taken(app, client):
    assert (await client.delete("/api/v1/events/iot")).status == 401
    response = await client.delete("/api/v1/events/iot", headers=headers(app, ["nothing"]))
    assert response.status == 405
    assert response.headers["Allow"] == "POST"
    assert (await problem_of(response))["code"] == "method_not_allowed"


async def test_a_worker_that_has_not_started_says_so(app, client):
    response = await client.post("/api/v1/events/iot", data=b"{}", headers=headers(app, ["*"]))
    assert (response.status, response.headers["Retry-After"]) == (503, "2")


async def test_an_unhandled_error_tells_nothing(app, client, caplog):
    caplog.set_level("ERROR")
    response = await client.get("/router/unknown-table/key/", headers=headers(app, ["admin"]))
    assert response.status in (404, 500, 503)
    assert "Traceback" not in await response.text()
