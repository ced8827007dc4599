"""Bearer tokens (RFC 6750) as JWT (RFC 7519), checked as RFC 8725 asks, and what their scopes allow.

A scope is words joined by colons, such as `events:write:iot`. In a token, `*` stands for any one word,
and at the end for all that follow: `events:*` allows everything with events, `*` everything.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import jwt

from streams.domain.errors import AuthenticationError, ConfigurationError, PermissionDeniedError
from streams.settings import Settings
from web.errors import InvalidTokenError, UnknownSigningKeyError
from web.security.key_ring import key_ring
from web.security.signing_key import load_or_create_secret

__all__ = ["Authenticator", "Claims", "bearer_token", "load_or_create_secret", "make_token"]

HS256: Final = "HS256"
"""Signed with a secret that we have as well: for development."""
TOKEN_TYPES: Final = frozenset({"jwt", "at+jwt"})
"""What `typ` may say (RFC 8725, section 3.11; RFC 9068): an issuer's other tokens, for logout say, open nothing."""
REQUIRED_CLAIMS: Final = ("iss", "aud", "exp", "nbf")
LEEWAY_S: Final = 5.0
"""How far the issuer's clock may be from ours."""
SUBPROTOCOL_PREFIX: Final = "bearer."
"""Before a token in Sec-WebSocket-Protocol: the one header that a browser's WebSocket can set."""

_REMEMBERED_BYTES: Final = 4_194_304
"""Of tokens, some thousands; with many short scopes, what they say takes twenty times as much memory.

Past them, the one that was not used for longest is verified again.
"""
_REMEMBERED_SCOPES: Final = 1_024
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")  # RFC 6749, section 3.3
_MAX_TIME: Final = 2.0**53


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says."""

    subject: str | None
    scopes: frozenset[str]
    expires_at: float
    """Seconds since the Unix epoch."""
    charged_to: str = field(default="", compare=False)
    """Whose share a request counts for: the subject's, or the token's own where it names none."""

    def allows(self, scope: str) -> bool:
        """Whether the scopes cover this one."""
        return _allows(self.scopes, scope)

    def require(self, scope: str) -> None:
        """Return if the scopes cover this one. Raises PermissionDeniedError."""
        if not self.allows(scope):
            raise PermissionDeniedError(scope)


class Authenticator:
    """Verifies tokens. A token that was verified before costs a look-up, until it expires or keys change.

    The algorithms are fixed by the settings: a token's header chooses among them (RFC 8725, section 3.1),
    and each key is for one alone.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._secret: bytes | None = None
        self._known: OrderedDict[str, Claims] = OrderedDict()
        self._known_bytes = 0
        # With the keys go all tokens that were signed by those withdrawn; the others are verified once more.
        self._ring = key_ring(settings, on_change=self._forget)
        self._started = False

    def start(self) -> None:
        """Load the keys, and begin to follow those that may change. Raises ConfigurationError."""
        if HS256 in self._settings.jwt_algorithms:
            self._secret = load_or_create_secret(self._settings)
        if self._ring is not None:
            self._ring.start()
        self._started = True

    async def close(self) -> None:
        """End what runs in the background."""
        if self._ring is not None:
            await self._ring.close()

    def verify(self, token: str) -> Claims:
        """What a token says, by the keys that are known.

        Raises InvalidTokenError; UnknownSigningKeyError, one of its kind, where a look for new keys may help;
        UnavailableError while there are no keys yet.
        """
        now = self._clock()
        claims = self._known.get(token)
        if claims is None:
            claims = self._decode(token, now)
            self._remember(token, claims)
        elif now >= claims.expires_at + LEEWAY_S:
            del self._known[token]
            self._known_bytes -= len(token)
            raise InvalidTokenError("the token has expired")
        else:
            self._known.move_to_end(token)
        return claims

    async def verify_with_new_keys(self, token: str) -> Claims:
        """As `verify`, after a look for new keys, which is made once for all who ask and once in some seconds."""
        if self._ring is not None:
            await self._ring.refetch()
        return self.verify(token)

    def _remember(self, token: str, claims: Claims) -> None:
        self._known[token] = claims
        self._known_bytes += len(token)
        while self._known_bytes > _REMEMBERED_BYTES:
            oldest, _ = self._known.popitem(last=False)
            self._known_bytes -= len(oldest)

    def _forget(self) -> None:
        self._known.clear()
        self._known_bytes = 0

    def _decode(self, token: str, now: float) -> Claims:
        if not self._started:
            raise RuntimeError("the authenticator is not started")
        try:
            algorithm, key = self._key(jwt.get_unverified_header(token))
            payload = jwt.decode(
                token,
                key,
                algorithms=(algorithm,),
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
        subject = payload.get("sub")
        if subject is not None and not _is_text(subject):
            raise InvalidTokenError("the claim sub is not a text")
        # Without the signature: another may fit as well (ES256 has two), and "=" behind it.
        signed = token.rpartition(".")[0]
        # Two kinds of names, so that no subject can be called as another's token.
        charged_to = f"sub {subject}" if subject is not None else f"token {hashlib.sha256(signed.encode()).hexdigest()}"
        return Claims(subject, frozenset(scope.split()), expires_at, charged_to)

    def _key(self, header: dict[str, Any]) -> tuple[str, Any]:
        """The algorithm and the key for a token of this header. Raises InvalidTokenError or UnavailableError."""
        if "crit" in header:
            # RFC 7515, section 4.1.11: what is critical must be understood, and we understand no extension.
            raise InvalidTokenError("the token needs an extension that is not known here")
        type_ = header.get("typ", "JWT")
        if not isinstance(type_, str) or type_.lower().removeprefix("application/") not in TOKEN_TYPES:
            raise InvalidTokenError("the token is not of type JWT or at+jwt")
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._settings.jwt_algorithms:
            raise InvalidTokenError("the token is signed by an algorithm that is not allowed")
        if algorithm == HS256:
            return algorithm, self._secret
        assert self._ring is not None, "the settings want a key set for every other algorithm"
        kid = header.get("kid")
        key = self._ring.keys.find(kid, algorithm)
        if key is not None:
            return algorithm, key.key
        if kid is None:
            raise InvalidTokenError("the token does not name its key (kid), and there are several, or none")
        raise UnknownSigningKeyError("the token is signed by a key that is not known here")


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
    return jwt.encode(claims, secret, algorithm=HS256)


@lru_cache(maxsize=_REMEMBERED_SCOPES)
def _allows(scopes: frozenset[str], scope: str) -> bool:
    wanted = scope.split(":")
    return scope in scopes or any(_covers(granted.split(":"), wanted) for granted in scopes if "*" in granted)


def _covers(granted: list[str], wanted: list[str]) -> bool:
    if granted[-1] == "*" and len(wanted) >= len(granted):
        wanted = wanted[: len(granted)]
    return len(granted) == len(wanted) and all(g in ("*", w) for g, w in zip(granted, wanted, strict=True))


def _is_text(value: str) -> bool:
    """Whether it has no half of a surrogate pair, which JSON can say and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


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
