"""Public keys of token issuers: a JSON Web Key Set (RFC 7517), read with mistrust.

Each key is bound to the one algorithm that its type is for, whatever a token's header says of it
(RFC 8725, section 3.1): so a public key can never be taken for an HMAC secret.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

MIN_RSA_BITS: Final = 2_048
"""RFC 7518, section 3.3."""
MAX_KEYS: Final = 100
MAX_DOCUMENT_BYTES: Final = 262_144

_ALGORITHMS: Final[Mapping[tuple[str, str | None], tuple[str, tuple[str, ...]]]] = {
    ("RSA", None): ("RS256", ("RS256",)),
    ("EC", "P-256"): ("ES256", ("ES256",)),
    # RFC 9864 names the curve in the algorithm; tokens still say EdDSA.
    ("OKP", "Ed25519"): ("EdDSA", ("EdDSA", "Ed25519")),
}
"""By `kty` and `crv`: the algorithm, and what a key's `alg` may say. What is not here is not used: HMAC keys least of all."""


class JwksError(Exception):
    """The document is no key set, or has no key that can be used; the message says why, key by key."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that tokens are verified with. Two are equal when they are the same key, under the same name."""

    kid: str | None
    algorithm: str
    material: str
    """The public numbers, as text."""
    key: Any
    """As PyJWT takes it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    @property
    def identity(self) -> tuple[str | None, str, str]:
        """What makes two keys the same."""
        return self.kid, self.algorithm, self.material


class KeySet:
    """The keys of one moment."""

    def __init__(self, keys: Collection[PublicKey], unused: Collection[str] = ()) -> None:
        self.keys = frozenset(keys)
        self.unused = tuple(unused)
        """Why the others of the document are not used."""
        self._named = {(key.kid, key.algorithm): key for key in keys if key.kid is not None}

    def find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key of this name and algorithm; without a name, the only key of the algorithm."""
        if kid is not None:
            return self._named.get((kid, algorithm))
        fitting = [key for key in self.keys if key.algorithm == algorithm]
        return fitting[0] if len(fitting) == 1 else None


def parse_jwks(document: bytes, algorithms: Collection[str]) -> KeySet:
    """The keys of a document that are for these algorithms. Raises JwksError."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise JwksError(f"the key set is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        parsed = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise JwksError("the key set is no JSON") from exc
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_KEYS:
        raise JwksError(f'a key set is {{"keys": […]}}, with 1 to {MAX_KEYS} keys')
    keys: dict[tuple[str | None, str, str], PublicKey] = {}
    unused: list[str] = []
    names: set[tuple[str, str]] = set()
    for number, entry in enumerate(entries):
        try:
            key = _public_key(entry, algorithms)
            if key.kid is not None and (key.kid, key.algorithm) in names:
                raise JwksError("another key has the same kid and algorithm")  # noqa: TRY301 - told as all others are
        except JwksError as exc:
            unused.append(f"key {number}: {exc}")
            continue
        if key.kid is not None:
            names.add((key.kid, key.algorithm))
        keys[key.kid, key.algorithm, key.material] = key
    if not keys:
        raise JwksError("the key set has no key that can be used: " + "; ".join(unused))
    return KeySet(keys.values(), unused)


def _public_key(entry: object, algorithms: Collection[str]) -> PublicKey:
    if not isinstance(entry, dict):
        raise JwksError("it is no object")
    algorithm = _algorithm(entry)
    if algorithm not in algorithms:
        raise JwksError(f"{algorithm} is not allowed here")
    # RFC 7517, sections 4.2 and 4.3: a key that is made for something else is not for us.
    if entry.get("use", "sig") != "sig":
        raise JwksError("its use is not sig")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise JwksError("its key_ops have no verify")
    if "d" in entry:
        raise JwksError("it holds a private key, which belongs to the issuer alone")
    kid = entry.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise JwksError("its kid is no text")
    try:
        key = jwt.PyJWK(entry, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError) as exc:
        raise JwksError("its numbers are no key") from exc
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise JwksError(f"its {key.key_size} bits are fewer than {MIN_RSA_BITS}")
    material = " ".join(str(entry.get(name, "")) for name in ("n", "e", "x", "y"))
    return PublicKey(kid, algorithm, material, key)


def _algorithm(entry: dict[str, Any]) -> str:
    kty, crv = entry.get("kty"), entry.get("crv")
    if not isinstance(kty, str) or not (crv is None or isinstance(crv, str)):
        raise JwksError("its kty or crv is no text")
    found = _ALGORITHMS.get((kty, crv))
    if found is None:
        raise JwksError("its type is not RSA, EC on P-256, or OKP on Ed25519")
    algorithm, names = found
    if (said := entry.get("alg")) is not None and said not in names:
        raise JwksError("its alg does not fit its type")
    return algorithm
