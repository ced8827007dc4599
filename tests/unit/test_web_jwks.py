"""Key sets of token issuers: which keys are used, how they rotate, and what a source that fails costs."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from contextlib import asynccontextmanager

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from streams.domain.errors import ConfigurationError, UnavailableError
from tests.web_gateway import SECRET, gateway, make_settings, problem_of
from web.errors import InvalidTokenError, UnknownSigningKeyError
from web.security import key_ring
from web.security.auth import Authenticator, load_or_create_secret
from web.security.jwks import MAX_DOCUMENT_BYTES, MAX_KEYS, JwksError, parse_jwks

ALL = ("RS256", "ES256", "EdDSA")
RSA = rsa.generate_private_key(65_537, 2_048)
RSA_2 = rsa.generate_private_key(65_537, 2_048)
SMALL_RSA = rsa.generate_private_key(65_537, 1_024)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
ED448 = ed448.Ed448PrivateKey.generate()


def public(key, kid="k1", **more):
    if isinstance(key, rsa.RSAPrivateKey):
        document = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        document = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        document = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    document.pop("key_ops", None)
    return document | ({} if kid is None else {"kid": kid}) | more


def private(key, kid="k1"):
    return RSAAlgorithm.to_jwk(key, as_dict=True) | {"kid": kid, "key_ops": ["sign", "verify"]}


def document(*keys):
    return json.dumps({"keys": list(keys)}).encode()


def claims(**changes):
    now = time.time()
    return {
        "iss": "event-streams", "aud": "event-streams", "sub": "me", "nbf": now - 60, "exp": now + 600, "scope": "*",
    } | changes  # fmt: skip


def sign(key, algorithm="RS256", kid="k1", headers=None, **changes):
    headers = ({} if kid is None else {"kid": kid}) | (headers or {})
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def sign_as_it_is(header):
    """With a header that PyJWT would change."""
    signing = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims()))
    signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(signing, RSA)
    return (signing + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"jwt_algorithms": "RS256"}, "STREAMS_JWT_JWKS_FILE or STREAMS_JWT_JWKS_URL"),
        ({"jwt_jwks_file": "x"}, "such an algorithm in STREAMS_JWT_ALGORITHMS"),
        ({"jwt_algorithms": "RS256", "jwt_jwks_file": "x", "jwt_jwks_url": "https://x/"}, "not both"),
        ({"jwt_algorithms": "RS256", "jwt_jwks_url": "http://issuer.example.com/"}, "jwt_jwks_url"),
        ({"jwt_algorithms": "RS256", "jwt_jwks_url": "http://127.0.0.1.example.com/"}, "jwt_jwks_url"),
        ({"jwt_algorithms": "RS256", "jwt_jwks_url": "http://localhost@example.com/"}, "jwt_jwks_url"),
        ({"jwt_algorithms": "RS256", "jwt_jwks_url": "https://user:password@example.com/"}, "jwt_jwks_url"),
        ({"jwt_algorithms": ""}, "one algorithm or more"),
        ({"jwt_algorithms": "HS256,HS256"}, "each once"),
        ({"jwt_algorithms": "none"}, "jwt_algorithms"),
        ({"jwt_algorithms": "HS512"}, "jwt_algorithms"),
    ],
)
def test_settings_that_do_not_belong_together_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        make_settings(**settings)


class TestWhichKeysAreUsed:
    @pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (P256, "ES256"), (ED25519, "EdDSA")])
    def test_each_type_is_for_one_algorithm(self, key, algorithm):
        keys = parse_jwks(document(public(key)), ALL)
        found = keys.find("k1", algorithm)
        assert found is not None
        assert found.algorithm == algorithm
        assert [keys.find("k1", other) for other in ALL if other != algorithm] == [None, None]

    @pytest.mark.parametrize(
        ("key", "reason"),
        [
            (public(SMALL_RSA), "1024 bits are fewer than 2048"),
            (public(P384), "type is not"),
            (public(ED448), "type is not"),
            ({"kty": "oct", "k": base64.urlsafe_b64encode(b"k" * 32).decode(), "kid": "k1"}, "type is not"),
            (public(RSA, use="enc"), "use is not sig"),
            (public(RSA, key_ops=["encrypt"]), "key_ops have no verify"),
            (public(RSA, key_ops="verify"), "key_ops have no verify"),
            (public(RSA, alg="RS512"), "alg does not fit"),
            (public(RSA, alg="HS256"), "alg does not fit"),
            (public(RSA, alg=["RS256"]), "alg does not fit"),
            (public(RSA, kid=7), "kid is no text"),
            (private(RSA), "private key"),
            (public(RSA, n="AQ"), "fewer than|no key"),
            (public(RSA, n=7), "no key"),
            (public(P256, x="AQ"), "no key"),
            ({"kty": ["RSA"]}, "no text"),
            ({}, "no text"),
            ("a text", "no object"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_key_that_is_not_for_us_is_left_out_with_the_reason(self, key, reason):
        with pytest.raises(JwksError, match=reason):
            parse_jwks(document(key), ALL)
        keys = parse_jwks(document(key, public(P256, "good")), ALL)
        assert [k.kid for k in keys.keys] == ["good"]
        assert len(keys.unused) == 1

    def test_a_key_whose_algorithm_is_not_allowed_is_left_out(self):
        with pytest.raises(JwksError, match="ES256 is not allowed here"):
            parse_jwks(document(public(P256)), ("RS256",))

    def test_of_two_keys_with_one_name_the_first_is_used(self):
        keys = parse_jwks(document(public(RSA), public(RSA_2), public(P256)), ALL)
        assert keys.find("k1", "RS256") in parse_jwks(document(public(RSA)), ALL).keys
        assert keys.find("k1", "ES256") is not None
        assert keys.unused == ("key 1: another key has the same kid and algorithm",)

    def test_a_token_without_kid_is_verified_where_there_is_one_key_alone(self):
        one = parse_jwks(document(public(RSA), public(P256, "k2")), ALL)
        found = one.find(None, "RS256")
        assert found is not None
        assert found.kid == "k1"
        assert parse_jwks(document(public(RSA), public(RSA_2, "k2")), ALL).find(None, "RS256") is None

    @pytest.mark.parametrize(
        "wrong",
        [
            *(b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": 1}', b'{"keys": {}}', b"\xff", b"[" * 5_000),
            b'{"keys": [{"kid": "\xff"}]}',
            document(*[public(RSA)] * (MAX_KEYS + 1)),
            b" " * (MAX_DOCUMENT_BYTES + 1),
        ],
        ids=lambda text: text[:12],
    )
    def test_what_is_no_key_set_is_refused(self, wrong):
        with pytest.raises(JwksError):
            parse_jwks(wrong, ALL)


@asynccontextmanager
async def authenticator(path=None, *, url=None, algorithms="RS256,ES256,EdDSA", clock=time.time, **settings):
    made = Authenticator(
        make_settings(jwt_algorithms=algorithms, jwt_jwks_file=path, jwt_jwks_url=url, **settings), clock=clock
    )
    made.start()
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "jwks.json"
    path.write_bytes(document(public(RSA), public(P256), public(ED25519)))
    return path


def replace(path, content):
    # Another inode, as mounted secrets have it.
    draft = path.with_suffix(".new")
    draft.write_bytes(content)
    draft.replace(path)


class TestTokensOfAnIssuer:
    @pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (P256, "ES256"), (ED25519, "EdDSA")])
    async def test_a_good_token_is_taken(self, path, key, algorithm):
        async with authenticator(path) as a:
            token = sign(key, algorithm)
            assert a.verify(token).subject == "me"
            assert a.verify(token) is a.verify(token)

    async def test_a_header_of_the_least_is_taken(self, path):
        async with authenticator(path) as a:
            assert a.verify(sign_as_it_is({"alg": "RS256", "kid": "k1"})).subject == "me"

    @pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
    async def test_types_of_tokens_that_are_taken(self, path, typ):
        async with authenticator(path) as a:
            assert a.verify(sign(RSA, headers={"typ": typ})).subject == "me"

    @pytest.mark.parametrize(
        "token",
        {
            "signed by another": sign(RSA_2),
            "an algorithm that is not allowed": sign(RSA, "RS512"),
            "PSS": sign(RSA, "PS256"),
            "another curve": sign(P384, "ES384"),
            "a key of another type": sign(P256, "ES256", kid="rsa-only"),
            "without kid, where there are two": sign(RSA, kid=None),
            "critical": sign(RSA, headers={"crit": ["exp"], "exp": 1}),
            "critical, and known to PyJWT": sign_as_it_is({"alg": "RS256", "kid": "k1", "crit": ["b64"], "b64": True}),
            "critical, empty": sign(RSA, headers={"crit": []}),
            "a logout token": sign(RSA, headers={"typ": "logout+jwt"}),
            "a type that is no text": sign(RSA, headers={"typ": 7}),
            "another issuer": sign(RSA, iss="other"),
            "expired": sign(RSA, exp=time.time() - 60),
            "HS256 with the secret": jwt.encode(claims(), SECRET, "HS256"),
        }.items(),
        ids=lambda item: item[0],
    )
    async def test_a_wrong_token_is_refused(self, path, token):
        path.write_bytes(document(public(RSA), public(P256, "p256"), public(RSA, "rsa-only"), public(ED25519)))
        async with authenticator(path) as a:
            with pytest.raises(InvalidTokenError) as caught:
                a.verify(token[1])
            assert all(" " <= c <= "~" and c not in '"\\' for c in str(caught.value))

    @pytest.mark.parametrize("algorithms", ["RS256", "RS256,HS256"])
    async def test_a_public_key_is_no_hmac_secret(self, path, algorithms):
        pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        header, payload = ({"alg": "HS256", "typ": "JWT", "kid": "k1"}, claims())
        signing = b".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)
        )
        for secret in (pem, json.dumps(public(RSA)).encode()):
            signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(signing, secret)
            token = (signing + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()
            async with authenticator(path, algorithms=algorithms) as a:
                with pytest.raises(InvalidTokenError):
                    a.verify(token)

    async def test_both_kinds_are_taken_where_both_are_configured(self, path):
        async with authenticator(path, algorithms="HS256,RS256") as a:
            assert a.verify(sign(RSA)).subject == a.verify(jwt.encode(claims(), SECRET, "HS256")).subject == "me"

    async def test_no_secret_is_made_where_none_is_used(self, path, tmp_path):
        async with authenticator(path, jwt_secret=None, jwt_secret_file=tmp_path / "secret"):
            assert not (tmp_path / "secret").exists()

    def test_development_tokens_are_not_made_for_an_issuer_s_keys(self, path, tmp_path):
        settings = make_settings(
            jwt_algorithms="RS256", jwt_jwks_file=path, jwt_secret=None, jwt_secret_file=tmp_path / "secret"
        )
        with pytest.raises(ConfigurationError, match=r"STREAMS_JWT_ALGORITHMS is RS256.*add HS256"):
            load_or_create_secret(settings)
        assert not (tmp_path / "secret").exists()


class TestRotationOfAFile:
    async def test_a_new_key_is_found_and_a_withdrawn_one_forgotten(self, path, monkeypatch):
        monkeypatch.setattr(key_ring, "_FILE_INTERVAL_S", 0.02)
        monkeypatch.setattr(key_ring.FileSource, "interval_s", 0.02)
        old, new = sign(RSA), sign(RSA_2, kid="k2")
        async with authenticator(path) as a:
            a.verify(old)
            with pytest.raises(UnknownSigningKeyError):
                a.verify(new)
            replace(path, document(public(RSA_2, "k2")))
            await eventually(lambda: a.verify(new))
            # It was remembered as good, and is no more.
            with pytest.raises(UnknownSigningKeyError):
                a.verify(old)

    async def test_the_same_name_with_another_key_is_another_key(self, path):
        token = sign(RSA)
        async with authenticator(path) as a:
            a.verify(token)
            replace(path, document(public(RSA_2)))
            a._ring._fetched_at = float("-inf")
            await a._ring.refetch()
            with pytest.raises(InvalidTokenError, match="signature"):
                a.verify(token)

    async def test_the_same_keys_again_forget_no_token(self, path):
        token = sign(RSA)
        async with authenticator(path) as a:
            known = a.verify(token)
            replace(path, document(public(ED25519), public(RSA), public(P256)))
            a._ring._fetched_at = float("-inf")
            await a._ring.refetch()
            assert a.verify(token) is known

    @pytest.mark.parametrize("content", [b"", b'{"keys": []}', document(public(SMALL_RSA)), None])
    async def test_a_file_that_breaks_leaves_the_old_keys_and_is_told_once(self, path, content, caplog):
        token = sign(RSA)
        async with authenticator(path) as a:
            path.unlink() if content is None else replace(path, content)
            for _ in range(3):
                a._ring._fetched_at = float("-inf")
                await a._ring.refetch()
            assert a.verify(token).subject == "me"
        assert len([r for r in caplog.records if "those that are known stay in use" in r.getMessage()]) == 1

    @pytest.mark.parametrize("content", [None, b"x", b'{"keys": []}', document(public(SMALL_RSA))])
    async def test_a_file_that_cannot_be_used_stops_the_start(self, path, content):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=f"STREAMS_JWT_JWKS_FILE: cannot use {path}.*name a file"):
            async with gateway(jwt_algorithms="RS256", jwt_jwks_file=path):
                pass


class Issuer:
    """An issuer's web server."""

    def __init__(self):
        self.keys = [public(RSA)]
        self.url = ""
        self.status = 200
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def answer(self, _):
        self.asked += 1
        await self.gate.wait()
        if self.status == 302:
            raise web.HTTPFound("/elsewhere")
        return web.Response(status=self.status, body=document(*self.keys), content_type="application/jwk-set+json")


@pytest.fixture
async def issuer():
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/jwks", issuer.answer)
    app.router.add_get("/elsewhere", issuer.answer)
    async with TestServer(app) as server:
        issuer.url = f"http://127.0.0.1:{server.port}/jwks"
        yield issuer


async def eventually(check, seconds=5.0):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return check()
        except (AssertionError, InvalidTokenError, UnavailableError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.01)


class TestRotationOfAUrl:
    async def test_keys_come_and_go_while_tokens_are_verified(self, issuer, monkeypatch):
        monkeypatch.setattr(key_ring, "REFETCH_INTERVAL_S", 0.0)
        old, new = sign(RSA), sign(RSA_2, kid="k2")
        async with authenticator(url=issuer.url, algorithms="RS256") as a:
            assert (await eventually(lambda: a.verify(old))).subject == "me"
            issuer.keys = [public(RSA_2, "k2")]
            assert (await a.verify_with_new_keys(new)).subject == "me"
            with pytest.raises(UnknownSigningKeyError):
                a.verify(old)

    async def test_keys_are_fetched_again_before_their_lifetime_is_over(self, issuer):
        old = sign(RSA)
        async with authenticator(url=issuer.url, algorithms="RS256", jwt_jwks_ttl_s=1) as a:
            await eventually(lambda: a.verify(old))
            issuer.keys = [public(RSA_2, "k2")]
            began = time.monotonic()
            while _takes(a, old):
                assert time.monotonic() - began < 3
                await asyncio.sleep(0.02)
            # Not at once: that would be a fetch a request.
            assert time.monotonic() - began > 0.3

    async def test_a_flood_of_made_up_kids_costs_one_fetch(self, issuer):
        async with authenticator(url=issuer.url, algorithms="RS256") as a:
            await eventually(lambda: a.verify(sign(RSA)))
            a._ring._fetched_at = float("-inf")
            issuer.gate.clear()
            before = issuer.asked

            async def flood(kid):
                with pytest.raises(UnknownSigningKeyError):
                    await a.verify_with_new_keys(sign(RSA, kid=kid))

            attempts = [asyncio.ensure_future(flood(f"made-up-{n}")) for n in range(20)]
            await asyncio.sleep(0.05)
            # Who has a token that is known does not wait.
            assert a.verify(sign(RSA)).subject == "me"
            issuer.gate.set()
            await asyncio.gather(*attempts)
            await asyncio.gather(*(flood(f"more-{n}") for n in range(20)))
            assert issuer.asked == before + 1

    @pytest.mark.parametrize("status", [500, 404, 302])
    async def test_a_fetch_that_fails_keeps_the_keys_and_is_tried_again(self, issuer, status, monkeypatch, caplog):
        monkeypatch.setattr(key_ring, "REFETCH_INTERVAL_S", 0.0)
        monkeypatch.setattr(key_ring, "_RETRY_S", 0.05)
        token = sign(RSA)
        async with authenticator(url=issuer.url, algorithms="RS256", jwt_jwks_ttl_s=1) as a:
            await eventually(lambda: a.verify(token))
            issuer.status, issuer.keys = status, [public(RSA_2, "k2")]
            with pytest.raises(UnknownSigningKeyError):
                await a.verify_with_new_keys(sign(RSA_2, kid="k2"))
            assert a.verify(token).subject == "me"
            assert f"the answer is {status}, not 200; those that are known stay in use" in caplog.text
            issuer.status = 200
            await eventually(lambda: a.verify(sign(RSA_2, kid="k2")))

    async def test_tokens_wait_for_the_first_keys_with_503(self, issuer, monkeypatch):
        monkeypatch.setattr(key_ring, "_FIRST_RETRY_S", 0.05)
        issuer.status = 503
        async with gateway(jwt_algorithms="RS256", jwt_jwks_url=issuer.url) as g:
            headers = {"Authorization": f"Bearer {sign(RSA)}"}
            response = await g.client.get("/api/v1/nowhere", headers=headers)
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert (await problem_of(response))["code"] == "unavailable"
            assert (await g.client.get("/health/live")).status == 200
            issuer.status = 200
            deadline = time.monotonic() + 5
            while (response := await g.client.get("/api/v1/nowhere", headers=headers)).status == 503:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            assert response.status == 404

    async def test_a_request_with_a_new_key_waits_for_it(self, issuer, monkeypatch):
        monkeypatch.setattr(key_ring, "REFETCH_INTERVAL_S", 0.0)
        async with gateway(jwt_algorithms="RS256", jwt_jwks_url=issuer.url) as g:
            await asyncio.sleep(0.1)
            issuer.keys.append(public(RSA_2, "k2"))
            response = await g.client.get(
                "/api/v1/nowhere", headers={"Authorization": f"Bearer {sign(RSA_2, kid='k2')}"}
            )
            assert response.status == 404

    async def test_an_answer_without_end_is_not_read(self, issuer, caplog):
        issuer.keys = [public(RSA, filler="x" * 300_000)]
        async with authenticator(url=issuer.url, algorithms="RS256") as a:
            await eventually(lambda: _said(caplog, "larger than 262144 bytes"))
            with pytest.raises(UnavailableError):
                a.verify(sign(RSA))


def _said(caplog, text):
    assert text in caplog.text


def _takes(authenticator, token):
    try:
        authenticator.verify(token)
    except UnknownSigningKeyError:
        return False
    return True
