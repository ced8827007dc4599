"""No header, no path and no token that somebody makes up opens what is closed."""

from __future__ import annotations

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.domain.errors import AuthenticationError
from tests.strategies import json_values
from tests.web_gateway import SECRET, make_settings
from web.auth import LEEWAY_S, REQUIRED_CLAIMS, Authenticator, Claims, bearer_token
from web.errors import InvalidTokenError

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
