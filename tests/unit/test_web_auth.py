"""Tokens: which are taken, what they allow, and the key that signs them."""

from __future__ import annotations

import base64
import json
import multiprocessing
import stat
import time

import jwt
import pytest

from streams.domain.errors import AuthenticationError, ConfigurationError, PermissionDeniedError
from tests.web_gateway import SECRET, gateway, make_settings, problem_of
from web.errors import InvalidTokenError
from web.security import auth
from web.security.auth import LEEWAY_S, Authenticator, Claims, bearer_token, load_or_create_secret, make_token

NOW = 1_750_000_000.0
LONG_SECRET = SECRET * 2
"""Long enough for every HMAC, so that nothing but the algorithm is wrong."""
GOOD = {"iss": "event-streams", "aud": "event-streams", "sub": "me", "nbf": NOW - 60, "exp": NOW + 60, "scope": "a:b"}


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def make_authenticator(clock: Clock | None = None) -> Authenticator:
    authenticator = Authenticator(make_settings(jwt_secret=LONG_SECRET), clock=clock or Clock())
    authenticator.start()
    return authenticator


def sign(claims, key=LONG_SECRET, algorithm="HS256"):
    return jwt.encode(claims, key, algorithm=algorithm)


def unsigned(header, claims):
    def part(document):
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims)}."


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


def test_a_good_token_says_who_and_what():
    claims = make_authenticator().verify(sign(GOOD | {"scope": "events:read:* events:write:iot"}))
    assert claims == Claims("me", frozenset({"events:read:*", "events:write:iot"}), NOW + 60)


def test_a_token_without_scope_allows_nothing():
    claims = make_authenticator().verify(sign(without("scope")))
    with pytest.raises(PermissionDeniedError):
        claims.require("events:read:iot")


def test_an_audience_may_be_one_of_several():
    assert make_authenticator().verify(sign(GOOD | {"aud": ["other", "event-streams"]})).subject == "me"


_DEEP = base64.urlsafe_b64encode(b"[" * 5_000).decode()

WRONG = {
    "alg none": unsigned({"alg": "none", "typ": "JWT"}, GOOD),
    "alg None": unsigned({"alg": "None"}, GOOD),
    "no alg": unsigned({"typ": "JWT"}, GOOD),
    "HS512 with our key": sign(GOOD, LONG_SECRET, "HS512"),
    "HS384 with our key": sign(GOOD, LONG_SECRET, "HS384"),
    "wrong key": sign(GOOD, "another key, of 32 bytes or more."),
    "changed payload": sign(GOOD).replace(".", ".e30", 1),
    "signature cut": sign(GOOD)[:-3],
    "expired": sign(GOOD | {"exp": NOW - LEEWAY_S}),
    "not yet": sign(GOOD | {"nbf": NOW + LEEWAY_S + 1}),
    "another audience": sign(GOOD | {"aud": "other"}),
    "another issuer": sign(GOOD | {"iss": "other"}),
    "exp is text": sign(GOOD | {"exp": "never"}),
    "exp is true": sign(GOOD | {"exp": True}),
    "exp is endless": sign(GOOD | {"exp": 1e300}),
    "exp is null": sign(GOOD | {"exp": None}),
    "nbf is a list": sign(GOOD | {"nbf": [1]}),
    "scope is a list": sign(GOOD | {"scope": ["*"]}),
    "aud is a number": sign(GOOD | {"aud": 7}),
    "sub is a number": sign(GOOD | {"sub": 7}),
    "sub is half a character": sign(GOOD | {"sub": "\ud83d"}),
    "garbage": "garbage",
    "empty parts": "..",
    "many parts": "a.b.c.d.e",
    "not ASCII": "é.é.é",
    "a surrogate": "\udcff.x.x",
    "nested without end": f"{_DEEP}.e30.x",
    "null payload": jwt.api_jws.encode(b"null", LONG_SECRET, "HS256"),
    "list payload": jwt.api_jws.encode(b"[]", LONG_SECRET, "HS256"),
} | {f"without {name}": sign(without(name)) for name in ("iss", "aud", "exp", "nbf")}


@pytest.mark.parametrize("token", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_token_is_refused(token):
    with pytest.raises(InvalidTokenError) as caught:
        make_authenticator().verify(token)
    # It goes into a header (RFC 6750, section 3).
    assert all(" " <= c <= "~" and c not in '"\\' for c in str(caught.value))


def test_a_token_is_known_after_the_first_time_and_still_expires():
    clock = Clock()
    authenticator = make_authenticator(clock)
    token = sign(GOOD)
    assert authenticator.verify(token) is authenticator.verify(token)
    clock.now = NOW + 60 + LEEWAY_S
    with pytest.raises(InvalidTokenError, match="expired"):
        authenticator.verify(token)
    with pytest.raises(InvalidTokenError, match="expired"):
        authenticator.verify(token)


def test_requests_count_for_the_subject_or_else_for_the_token():
    authenticator = make_authenticator()

    def charged_to(**changes):
        return authenticator.verify(sign({k: v for k, v in (GOOD | changes).items() if v is not None})).charged_to

    assert charged_to() == charged_to(scope="x") != charged_to(sub="you")
    assert charged_to(sub=None) != charged_to(sub=None, scope="x")
    # The same token, written in another way.
    token = sign(without("sub"))
    assert {authenticator.verify(t).charged_to for t in (token, token + "=")} == {charged_to(sub=None)}
    # No subject can be called as another's token is.
    assert charged_to(sub=charged_to(sub=None)) != charged_to(sub=None)


def test_the_memory_of_tokens_is_bounded_and_keeps_those_in_use(monkeypatch):
    size = len(sign(GOOD))
    monkeypatch.setattr(auth, "_REMEMBERED_BYTES", 10 * size)
    clock = Clock()
    authenticator = make_authenticator(clock)
    used = authenticator.verify(sign(GOOD))
    for number in range(100):
        authenticator.verify(sign(GOOD | {"sub": str(number)}))
        assert authenticator.verify(sign(GOOD)) is used
    assert 9 <= len(authenticator._known) <= 10
    # By their size: a header may have 16 KiB, and a claim thousands of scopes.
    authenticator.verify(sign(GOOD | {"scope": "x" * 5 * size}))
    assert sum(map(len, authenticator._known)) <= 10 * size
    clock.now = NOW + 60 + LEEWAY_S
    for token in list(authenticator._known):
        with pytest.raises(InvalidTokenError, match="expired"):
            authenticator.verify(token)
    assert (len(authenticator._known), authenticator._known_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("granted", "wanted", "allowed"),
    [
        ("events:write:iot", "events:write:iot", True),
        ("events:write:iot", "events:write:iot2", False),
        ("events:write:iot", "events:read:iot", False),
        ("events:write:*", "events:write:iot", True),
        ("events:write:*", "events:read:iot", False),
        ("events:*:iot", "events:read:iot", True),
        ("events:*:iot", "events:read:other", False),
        ("events:*", "events:read:iot", True),
        ("*", "events:read:iot", True),
        ("*", "admin", True),
        ("*:write:iot", "events:write:iot", True),
        ("events:*", "admin", False),
        ("events:*", "events", False),
        ("events:write:iot:*", "events:write:iot", False),
        ("events:write:i*", "events:write:iot", False),
        ("events:write", "events:write:iot", False),
        ("events:write:iot", "events:write:*", False),
        ("", "admin", False),
    ],
)
def test_what_a_scope_covers(granted, wanted, allowed):
    assert Claims(None, frozenset(granted.split()), NOW).allows(wanted) is allowed


def test_where_a_token_is_looked_for():
    assert bearer_token("Bearer abc") == bearer_token("bearer  abc") == "abc"
    assert bearer_token(None, "event-streams.v1, bearer.abc") == "abc"
    for authorization in (None, "", "Bearer", "Bearer ", "Basic abc", "abc"):
        with pytest.raises(AuthenticationError):
            bearer_token(authorization)


class TestOverHttp:
    async def test_no_token(self):
        async with gateway() as g:
            response = await g.client.post("/api/v1/events/iot", data=b"{}")
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="event-streams"'
            assert (await problem_of(response))["code"] == "unauthenticated"

    async def test_a_wrong_token(self):
        async with gateway() as g:
            headers = {"Authorization": f"Bearer {g.token(now=time.time() - 10_000)}"}
            response = await g.client.post("/api/v1/events/iot", data=b"{}", headers=headers)
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == (
                'Bearer realm="event-streams", error="invalid_token", error_description="the token has expired"'
            )
            assert (await problem_of(response))["code"] == "invalid_token"

    async def test_a_lacking_scope(self):
        async with gateway() as g:
            headers = g.headers("events:read:* events:write:other")
            response = await g.client.post("/api/v1/events/iot", data=b"{}", headers=headers)
            assert response.status == 403
            assert response.headers["WWW-Authenticate"] == (
                'Bearer realm="event-streams", error="insufficient_scope", scope="events:write:iot"'
            )
            assert (await problem_of(response))["code"] == "forbidden"
            assert g.producer.sent == []

    @pytest.mark.parametrize("topic", ["a%0d%0aSet-Cookie:x", "%22%2c%20x=%22", "%F0%9F%92%A9", "%ff"])
    async def test_a_topic_cannot_write_headers(self, topic):
        async with gateway() as g:
            response = await g.client.post(f"/api/v1/events/{topic}", headers=g.headers("x"))
            assert response.status == 403
            assert "Set-Cookie" not in response.headers
            assert response.headers["WWW-Authenticate"].count('"') == 6

    async def test_a_token_in_the_url_is_no_token(self):
        async with gateway() as g:
            response = await g.client.get(f"/api/v1/events/iot/latest?access_token={g.token()}")
            assert response.status == 401


class TestMakingTokens:
    def test_what_is_made_is_taken(self):
        settings = make_settings(jwt_secret=LONG_SECRET)
        token = make_token(settings, load_or_create_secret(settings), ["events:write:iot", "admin"], 60, "me", NOW)
        claims = make_authenticator().verify(token)
        assert claims == Claims("me", frozenset({"events:write:iot", "admin"}), NOW + 60)

    @pytest.mark.parametrize("scope", ["", "a b", 'a"b', "é", "a\n"])
    def test_a_scope_that_no_token_can_carry(self, scope):
        with pytest.raises(ConfigurationError, match="events:write:iot"):
            make_token(make_settings(), SECRET.encode(), [scope], 60, "me", NOW)

    def test_a_time_to_live_of_nothing(self):
        with pytest.raises(ConfigurationError, match="1 second"):
            make_token(make_settings(), SECRET.encode(), ["*"], 0, "me", NOW)


class TestKeyFile:
    def settings(self, path):
        return make_settings(jwt_secret=None, jwt_secret_file=path)

    def test_a_missing_file_is_made_for_us_alone(self, tmp_path):
        path = tmp_path / "secrets" / "key"
        key = load_or_create_secret(self.settings(path))
        assert len(bytes.fromhex(key.decode())) == 32
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert load_or_create_secret(self.settings(path)) == key
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
    def test_a_file_that_others_can_read_is_refused_with_the_remedy(self, tmp_path, mode):
        path = tmp_path / "key"
        path.write_text("k" * 64)
        path.chmod(mode)
        with pytest.raises(ConfigurationError, match=f"chmod 600 {path}"):
            load_or_create_secret(self.settings(path))

    def test_a_short_key_is_refused(self, tmp_path):
        path = tmp_path / "key"
        path.write_text("short\n")
        path.chmod(0o600)
        with pytest.raises(ConfigurationError, match=r"STREAMS_JWT_SECRET_FILE.*32 bytes"):
            load_or_create_secret(self.settings(path))

    def test_a_place_that_cannot_be_written_is_told(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigurationError, match="STREAMS_JWT_SECRET_FILE"):
            load_or_create_secret(self.settings(tmp_path / "file" / "key"))

    def test_processes_that_start_together_have_one_key(self, tmp_path):
        path = tmp_path / "key"
        with multiprocessing.get_context("fork").Pool(4) as pool:
            keys = pool.map(_load, [str(path)] * 16, chunksize=1)
        assert set(keys) == {path.read_bytes().strip()}

    async def test_a_wrong_key_file_stops_the_start(self, tmp_path):
        path = tmp_path / "key"
        path.write_text("short")
        path.chmod(0o600)
        with pytest.raises(ConfigurationError):
            async with gateway(jwt_secret=None, jwt_secret_file=path):
                pass


def _load(path: str) -> bytes:
    return load_or_create_secret(make_settings(jwt_secret=None, jwt_secret_file=path))
