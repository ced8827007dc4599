"""Property 20: no endpoint but the open ones answers without a valid token.

It is generated over the routes of the worker's real web server, Faust's own pages included: a new route is covered by
itself, and is closed unless it is named in `OPEN` here. No header, no path, no method and no token that somebody makes
up opens what is closed.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import re
import threading
import time
from contextlib import contextmanager
from typing import cast

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from faust.web.drivers.aiohttp import Web as FaustWeb
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

import web
from streams.domain.errors import AuthenticationError
from streams.faust_app import create_app
from tests.strategies import json_values
from tests.web_gateway import SECRET, Server, make_settings
from web.errors import InvalidTokenError
from web.security.auth import LEEWAY_S, REQUIRED_CLAIMS, Authenticator, Claims, bearer_token

OPEN = {
    prefix + path
    for prefix in ("", "/api/v1")
    for path in (
        "/health", "/health/live", "/health/ready", "/metrics", "/openapi.json", "/asyncapi.json", "/docs",
    )
}  # fmt: skip
ISSUER_KEY = rsa.generate_private_key(65_537, 2_048)
OTHER_RSA = rsa.generate_private_key(65_537, 2_048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
ORIGIN = "https://app.example.com"
METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "PROPFIND",
    "QUERY",
    "M-SEARCH",
    "PURGE",
)


def make_claims(**changes):
    now = time.time()
    claims = {
        "iss": "event-streams", "aud": "event-streams", "sub": "me", "nbf": now - 60, "exp": now + 3_600, "scope": "*",
    } | changes  # fmt: skip
    return {name: value for name, value in claims.items() if value is not ...}


def part(document):
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def hs256(key=SECRET, headers=None, **changes):
    return jwt.encode(make_claims(**changes), key, "HS256", headers)


def rs256(key=ISSUER_KEY, headers=None, algorithm="RS256", **changes):
    return jwt.encode(make_claims(**changes), key, algorithm, {"kid": "k1"} | (headers or {}))


def confused():
    """Signed by the issuer's public key, taken for an HMAC secret: PyJWT itself refuses to make it."""
    pem = ISSUER_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signing = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': 'k1'})}.{part(make_claims())}"
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(signing.encode(), pem)
    return f"{signing}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


now = time.time()
flaws = st.one_of(
    st.sampled_from(["iss", "aud", "exp", "nbf"]).map(lambda name: {name: ...}),
    st.text(max_size=20).filter(lambda text: text != "event-streams").map(lambda text: {"iss": text}),
    st.text(max_size=20).filter(lambda text: text != "event-streams").map(lambda text: {"aud": text}),
    st.floats(0, now - 600).map(lambda time_: {"exp": time_}),
    st.floats(now + 3_600, 2**52).map(lambda time_: {"nbf": time_}),
    st.one_of(st.none(), st.text(max_size=5), st.booleans(), st.lists(st.integers())).map(lambda odd: {"exp": odd}),
    st.one_of(st.none(), st.text(max_size=5), st.booleans(), st.lists(st.integers())).map(lambda odd: {"nbf": odd}),
    st.one_of(st.integers(), st.lists(st.text(max_size=3))).map(lambda odd: {"scope": odd}),
)
headers_of_others = st.sampled_from(
    [{"typ": "logout+jwt"}, {"typ": 1}, {"crit": ["exp"]}, {"crit": ["b64"], "b64": True}, {"crit": []}]
)
broken_tokens = st.one_of(
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60),
    st.lists(st.binary(max_size=20).map(lambda b: base64.urlsafe_b64encode(b).decode()), max_size=4).map(".".join),
    flaws.map(lambda flaw: hs256(**flaw)),
    flaws.map(lambda flaw: rs256(**flaw)),
    headers_of_others.map(lambda headers: hs256(headers=headers)),
    headers_of_others.map(lambda headers: rs256(headers=headers)),
    st.binary(min_size=32, max_size=64).map(hs256),
    st.sampled_from(["HS384", "HS512"]).map(lambda name: jwt.encode(make_claims(), SECRET * 2, name)),
    st.sampled_from(["RS384", "RS512", "PS256"]).map(lambda name: rs256(algorithm=name)),
    st.sampled_from(["none", "None", "NONE", "", "hs256"]).map(
        lambda name: f"{part({'alg': name, 'typ': 'JWT'})}.{part(make_claims())}."
    ),
    st.text(max_size=8).filter(lambda kid: kid != "k1").map(lambda kid: rs256(OTHER_RSA, {"kid": kid})),
    st.builds(lambda: rs256(OTHER_RSA)),
    st.builds(lambda: rs256(P256, algorithm="ES256")),
    st.builds(lambda: rs256(ED25519, algorithm="EdDSA")),
    st.builds(confused),
    st.integers(1, 60).map(lambda cut: hs256()[:-cut]),
    st.integers(1, 60).map(lambda cut: rs256()[:-cut]),
    st.integers(1, 60).map(lambda cut: rs256()[cut:]),
)


class Served:
    """The real app's web server, in a thread of its own; the app is never started, so nothing is connected."""

    def __init__(self, path):
        self.settings = make_settings(
            kafka_bootstrap_servers="127.0.0.1:26999",
            registry_url="http://127.0.0.1:26998",
            jwt_algorithms="HS256,RS256",
            jwt_jwks_file=path,
            cors_origins=ORIGIN,
        )
        app = create_app(self.settings)
        web.install(app)
        driver = cast("FaustWeb", app.web)
        driver.init_server()
        self.web_app = driver.web_app
        self.resources = sorted(
            {resource.canonical for resource in self.web_app.router.resources()}
            | {"/", "/nowhere", "/api", "/api/v1", "/api/v1/events", "/static/x", "/favicon.ico"}
        )
        self.loop = asyncio.new_event_loop()
        self.server = Server(self.web_app, self.settings)

    def ask(self, method, path, headers):
        """Status and headers. A connection each: what one does must not matter to the next."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value.encode())
            connection.endheaders()
            response = connection.getresponse()
            response.read()
        finally:
            connection.close()
        return response.status, response.headers


@contextmanager
def running(served):
    thread = threading.Thread(target=served.loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(served.server.start_server(), served.loop).result(10)
        yield served
        asyncio.run_coroutine_threadsafe(served.server.close(), served.loop).result(10)
    finally:
        served.loop.call_soon_threadsafe(served.loop.stop)
        thread.join(10)
        served.loop.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("issuer") / "jwks.json"
    key = RSAAlgorithm.to_jwk(ISSUER_KEY.public_key(), as_dict=True)
    path.write_text(json.dumps({"keys": [key | {"kid": "k1"}]}))
    with running(Served(path)) as served:
        yield served


segments = st.text(st.sampled_from("abciotz019-_.~%20"), min_size=1, max_size=8).filter(
    lambda text: re.search("%(?![0-9a-f]{2})", text) is None and text not in (".", "..")
)


@st.composite
def paths(draw, resources):
    """A path of the table with its variables filled, now and then with something behind it."""
    canonical = draw(st.sampled_from(resources))
    path = re.sub(r"\{[^{}]*\}", lambda _: draw(st.just("iot") | segments), canonical)
    return path, path + draw(st.sampled_from(["", "", "", "", "/", "?access_token=x", "?token=x", "/.."]))


credentials = st.one_of(
    st.just({}),
    broken_tokens.map(lambda token: {"Authorization": f"Bearer {token}"}),
    broken_tokens.filter(lambda token: "," not in token).map(
        lambda token: {"Sec-WebSocket-Protocol": f"event-streams.v1, bearer.{token}"}
    ),
    st.sampled_from(["Basic eDp5", "Bearer", "Bearer ", "bearer", "Token x"]).map(lambda text: {"Authorization": text}),
    st.builds(lambda: {"X-Authorization": f"Bearer {hs256()}", "Cookie": f"token={hs256()}"}),
    st.builds(lambda: {"Authorization": f"Basic {hs256()}"}),
)
extras = st.sampled_from(
    [
        {},
        {"X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/health", "X-Rewrite-URL": "/health"},
        {"X-HTTP-Method-Override": "GET", "X-Streams-Routed": "1"},
        {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "eA=="},
        {"Origin": ORIGIN},
        {"Origin": "https://evil.example.com", "Access-Control-Request-Method": "POST"},
        {"Content-Type": "application/json"},
        {"Expect": "100-continue", "Content-Length": "0"},
        {"Expect": "something else"},
    ]
)


@settings(max_examples=400, deadline=None)
@given(data=st.data(), method=st.sampled_from(METHODS), credentials=credentials, extra=extras)
def test_no_endpoint_but_the_open_ones_answers_without_a_valid_token(served, data, method, credentials, extra):
    _, target = data.draw(paths(served.resources))
    if method in ("GET", "HEAD") and target.partition("?")[0] in OPEN:
        return
    status, headers = served.ask(method, target, extra | credentials)
    assert status == 401, (method, target)
    assert headers["WWW-Authenticate"].startswith('Bearer realm="event-streams"')
    assert headers["Content-Type"] == "application/problem+json"


def test_every_method_of_every_path_is_closed(served):
    """None is left to chance: with examples alone, one open route among so many is missed now and then."""
    allowed_nothing = {"Authorization": f"Bearer {hs256(scope='nothing')}"}
    for canonical in served.resources:
        path = re.sub(r"\{[^{}]*\}", "iot", canonical)
        for method in METHODS:
            if method in ("GET", "HEAD") and path in OPEN:
                continue
            assert served.ask(method, path, {})[0] == 401, (method, path)
            # Of an open path, what is no GET.
            expected = (405,) if path in OPEN else (403, 404, 405)
            assert served.ask(method, path, allowed_nothing)[0] in expected, (method, path)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), method=st.sampled_from(METHODS))
def test_no_endpoint_but_the_open_ones_does_anything_for_a_token_that_allows_nothing(served, data, method):
    _, target = data.draw(paths(served.resources))
    if target.partition("?")[0] in OPEN:
        return
    token = data.draw(st.sampled_from([hs256(scope="nothing"), rs256(scope="events"), hs256(scope=...)]))
    status, _ = served.ask(method, target, {"Authorization": f"Bearer {token}"})
    # 404 and 405: a valid token may know what there is.
    assert status in (403, 404, 405), (method, target)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), credentials=credentials)
def test_a_preflight_tells_no_more_than_the_methods_of_a_path_in_our_table(served, data, credentials):
    path, target = data.draw(paths(served.resources))
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    status, answered = served.ask("OPTIONS", target, headers | credentials)
    if path.startswith(("/api/v1/", "/health", "/metrics", "/openapi", "/asyncapi", "/docs")) and status == 204:
        assert answered["Content-Length"] in (None, "0")
        assert set(answered["Access-Control-Allow-Methods"].split(", ")) <= {"GET", "HEAD", "POST"}
    else:
        assert status == 401, target


def test_the_table_is_the_real_one_and_a_good_token_opens_it(served):
    assert set(served.resources) >= OPEN | {"/", "/table/", "/api/v1/events/{topic}", "/api/v1/stream/{topic}"}
    for token in (hs256(), rs256()):
        headers = {"Authorization": f"Bearer {token}"}
        assert served.ask("GET", "/table/", headers)[0] == 200
        # Not 401, nor 403: the platform behind it is away.
        assert served.ask("POST", "/api/v1/events/iot", headers | {"Content-Length": "0"})[0] == 503
    for path in OPEN:
        assert served.ask("GET", path, {})[0] in (200, 503)


NOW = 1_750_000_000.0
words = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=4)
scopes = st.lists(words | st.just("*"), min_size=1, max_size=4).map(":".join)


@pytest.fixture(scope="module")
def authenticator():
    authenticator = Authenticator(make_settings(), clock=lambda: NOW)
    authenticator.start()
    return authenticator


@settings(max_examples=100, deadline=None)
@given(authorization=st.text(st.characters(exclude_categories=())) | st.text().map("Bearer {}".format))
def test_no_text_is_a_token(authenticator, authorization):
    with pytest.raises(AuthenticationError):
        authenticator.verify(bearer_token(authorization))


@settings(max_examples=100, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from([*REQUIRED_CLAIMS, "sub", "scope", "iat", "jti"]), json_values, max_size=3),
    missing=st.sets(st.sampled_from(REQUIRED_CLAIMS), max_size=1),
)
def test_a_signed_token_is_taken_only_with_claims_that_hold(authenticator, changes, missing):
    claims = {"iss": "event-streams", "aud": "event-streams", "nbf": NOW, "exp": NOW + 1, "scope": "a"} | changes
    for name in missing:
        claims.pop(name, None)
    try:
        token = jwt.encode(claims, SECRET, algorithm="HS256")
    except (TypeError, ValueError):
        return  # PyJWT makes no such token
    try:
        verified = authenticator.verify(token)
    except InvalidTokenError:
        return
    assert not missing
    assert claims["iss"] == "event-streams"
    assert claims["aud"] == "event-streams" or "event-streams" in claims["aud"]
    assert claims["nbf"] - LEEWAY_S <= NOW < claims["exp"] + LEEWAY_S
    assert verified.expires_at == claims["exp"]
    assert verified.scopes == frozenset(claims["scope"].split())


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_token_with_one_character_changed_is_refused(authenticator, data):
    token = jwt.encode(
        {"iss": "event-streams", "aud": "event-streams", "nbf": NOW, "exp": NOW + 60, "scope": "*"}, SECRET, "HS256"
    )
    # The last character of each part carries bits that base64url does not use.
    place = data.draw(st.sampled_from([i for i, c in enumerate(token[:-1]) if c != "." and token[i + 1] != "."]))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != token[place]))
    with pytest.raises(InvalidTokenError):
        authenticator.verify(token[:place] + other + token[place + 1 :])


@given(granted=st.lists(scopes, max_size=4), wanted=scopes.filter(lambda s: "*" not in s))
def test_scopes_agree_with_a_naive_model(granted, wanted):
    def covers(pattern: list[str], scope: list[str]) -> bool:
        if pattern == ["*"] and scope:
            return True
        if not pattern or not scope:
            return pattern == scope
        return pattern[0] in ("*", scope[0]) and covers(pattern[1:], scope[1:])

    model = any(covers(pattern.split(":"), wanted.split(":")) for pattern in granted)
    assert Claims(None, frozenset(granted), NOW).allows(wanted) is model
