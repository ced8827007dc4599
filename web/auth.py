"""Bearer tokens (RFC 6750) as JWT (RFC 7519), checked as RFC 8725 asks, and what their scopes allow.

A scope is words joined by colons, such as `events:write:iot`. In a token, `*` stands for any one word,
and at the end for all that follow: `events:*` allows everything with events, `*` everything.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import jwt

from streams.domain.errors import AuthenticationError, ConfigurationError, PermissionDeniedError
from streams.settings import Settings
from web.errors import InvalidTokenError
from web.signing_key import load_or_create_secret

__all__ = ["Authenticator", "Claims", "bearer_token", "load_or_create_secret", "make_token"]

ALGORITHMS: Final = ("HS256",)
"""Fixed by us: what a token's header says about it is never trusted (RFC 8725, section 3.1)."""
REQUIRED_CLAIMS: Final = ("iss", "aud", "exp", "nbf")
LEEWAY_S: Final = 5.0
"""How far the issuer's clock may be from ours."""
SUBPROTOCOL_PREFIX: Final = "bearer."
"""Before a token in Sec-WebSocket-Protocol: the one header that a browser's WebSocket can set."""

_REMEMBERED: Final = 1_024
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")  # RFC 6749, section 3.3
_MAX_TIME: Final = 2.0**53


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says."""

    subject: str | None
    scopes: frozenset[str]
    expires_at: float
    """Seconds since the Unix epoch."""

    def allows(self, scope: str) -> bool:
        """Whether the scopes cover this one."""
        return _allows(self.scopes, scope)

    def require(self, scope: str) -> None:
        """Return if the scopes cover this one. Raises PermissionDeniedError."""
        if not self.allows(scope):
            raise PermissionDeniedError(scope)


class Authenticator:
    """Verifies tokens. A token that was verified before costs a look-up, until it expires."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._key: bytes | None = None
        self._known: OrderedDict[str, Claims] = OrderedDict()

    def start(self) -> None:
        """Load the key. Raises ConfigurationError."""
        self._key = load_or_create_secret(self._settings)

    def verify(self, token: str) -> Claims:
        """What a token says. Raises InvalidTokenError."""
        now = self._clock()
        claims = self._known.get(token)
        if claims is None:
            claims = self._decode(token, now)
            self._known[token] = claims
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        elif now >= claims.expires_at + LEEWAY_S:
            del self._known[token]
            raise InvalidTokenError("the token has expired")
        else:
            self._known.move_to_end(token)
        return claims

    def _decode(self, token: str, now: float) -> Claims:
        if self._key is None:
            raise RuntimeError("the authenticator is not started")
        try:
            payload = jwt.decode(
                token,
                self._key,
                algorithms=ALGORITHMS,
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
                # Times are checked below, against one clock, on every use and not only on the first.
                options={
                    "require": list(REQUIRED_CLAIMS),
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.PyJWTError as exc:
            raise InvalidTokenError(_reason(exc)) from exc
        except (ValueError, RecursionError) as exc:
            # PyJWT parses the header before it knows who wrote it: not ASCII, nested without end.
            raise InvalidTokenError("it is no token") from exc
        expires_at, not_before = _seconds(payload, "exp"), _seconds(payload, "nbf")
        if now >= expires_at + LEEWAY_S:
            raise InvalidTokenError("the token has expired")
        if now < not_before - LEEWAY_S:
            raise InvalidTokenError("the token is not valid yet")
        scope = payload.get("scope", "")
        if not isinstance(scope, str):
            raise InvalidTokenError("the claim scope is not a text")
        return Claims(payload.get("sub"), frozenset(scope.split()), expires_at)


def bearer_token(authorization: str | None, subprotocols: str | None = None) -> str:
    """The token of an Authorization header or, for WebSocket, of Sec-WebSocket-Protocol.

    Raises AuthenticationError where there is none.
    """
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer" and token:
            return token.strip()
    for offered in (subprotocols or "").split(","):
        if (name := offered.strip()).startswith(SUBPROTOCOL_PREFIX):
            return name[len(SUBPROTOCOL_PREFIX) :]
    raise AuthenticationError("send a token: Authorization: Bearer <token>")


def make_token(  # noqa: PLR0917 - the commands call it so
    settings: Settings, secret: bytes, scopes: Collection[str], ttl_s: int, subject: str, now: float
) -> str:
    """A token for development, valid from `now` (seconds since the epoch) for `ttl_s` seconds.

    Raises ConfigurationError for a scope that no token can carry, or a time to live that is not positive.
    """
    for scope in scopes:
        if _SCOPE.fullmatch(scope) is None:
            raise ConfigurationError(f"{scope!r} is no scope; one looks like events:write:iot, events:read:* or *")
    if ttl_s <= 0:
        raise ConfigurationError(f"a token must be valid for 1 second or more, not {ttl_s}")
    issued_at = int(now)
    claims: dict[str, Any] = {
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "sub": subject,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": issued_at + ttl_s,
        "scope": " ".join(scopes),
    }
    return jwt.encode(claims, secret, algorithm=ALGORITHMS[0])


@lru_cache(maxsize=_REMEMBERED)
def _allows(scopes: frozenset[str], scope: str) -> bool:
    wanted = scope.split(":")
    return scope in scopes or any(_covers(granted.split(":"), wanted) for granted in scopes if "*" in granted)


def _covers(granted: list[str], wanted: list[str]) -> bool:
    if granted[-1] == "*" and len(wanted) >= len(granted):
        wanted = wanted[: len(granted)]
    return len(granted) == len(wanted) and all(g in ("*", w) for g, w in zip(granted, wanted, strict=True))


def _seconds(payload: dict[str, Any], claim: str) -> float:
    value = payload[claim]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_TIME:
        raise InvalidTokenError(f"the claim {claim} is not a time")
    return float(value)


def _reason(exc: jwt.PyJWTError) -> str:
    """Why, in words of ours: PyJWT's may quote the token, and go into a header."""
    match exc:
        case jwt.MissingRequiredClaimError():
            return f"the claim {exc.claim} is missing"
        case jwt.InvalidAudienceError():
            return "the token is for another audience"
        case jwt.InvalidIssuerError():
            return "the token is from another issuer"
        case jwt.InvalidAlgorithmError():
            return "the token is signed by an algorithm that is not allowed"
        case jwt.InvalidSignatureError():
            return "the signature does not fit"
        case _:
            return "it is no token"
