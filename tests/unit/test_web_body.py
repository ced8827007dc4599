"""Compressed bodies: what is sent is what is read, and a bomb is refused before it is inflated."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from aiohttp import ClientResponse
from backports import zstd

from tests.web_gateway import EVENT, Gateway, gateway, problem_of
from web.errors import BodyTooLargeError, CompressionRatioError, InvalidRequestError
from web.http.body import inflate

BODY = json.dumps(EVENT).encode()
LIMIT = 1_048_576


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP ": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "zstd": zstd.compress,
    "identity": bytes,
}
KINDS = ["gzip", "deflate", "zstd"]


async def post(g: Gateway, body: bytes, *encodings: str) -> ClientResponse:
    headers = [*g.headers(**{"Content-Type": "application/json"}).items()]
    headers += [("Content-Encoding", encoding) for encoding in encodings]
    return await g.client.post("/api/v1/events/iot", data=body, headers=headers)


async def test_a_body_in_every_encoding_is_the_same_event():
    async with gateway() as g:
        for encoding, compress in COMPRESS.items():
            assert (await post(g, compress(BODY), encoding)).status == 201
        stored = [g.codec.decode_event(record.value or b"") for record in g.producer.sent]
        assert len(stored) == len(COMPRESS)
        assert {(event.device_id, event.value, event.payload) for event in stored} == {("d1", 21.5, '{"a": [1]}')}


async def test_a_body_that_comes_in_pieces_is_read_as_a_whole():
    async with gateway() as g:
        large = json.dumps(EVENT | {"payload": {"a": list(range(50_000))}}).encode()
        body = gzip.compress(large)
        assert len(body) > 65_536

        async def pieces():
            for at in range(0, len(body), 10_000):
                yield body[at : at + 10_000]

        response = await g.client.post(
            "/api/v1/events/iot",
            data=pieces(),
            headers=g.headers(**{"Content-Type": "application/json", "Content-Encoding": "gzip"}),
        )
        assert response.status == 201


@pytest.mark.parametrize("encodings", [["br"], ["gzip, gzip"], ["gzip", "zstd"], ["compress"], [""]])
async def test_an_encoding_that_is_not_read_is_refused_and_told_which_are(encodings):
    async with gateway() as g:
        response = await post(g, BODY, *encodings)
        assert (response.status, (await problem_of(response))["code"]) == (415, "unsupported_encoding")
        assert response.headers["Accept-Encoding"] == "gzip, deflate, zstd, identity"


@pytest.mark.parametrize("encoding", KINDS)
async def test_a_body_that_is_not_what_its_header_says_is_the_clients_fault(encoding):
    async with gateway() as g:
        whole = COMPRESS[encoding](BODY * 100)
        for broken in (BODY, whole[:-5], whole[:1], whole + b"\x00\x01"):
            response = await post(g, broken, encoding)
            assert (response.status, (await problem_of(response))["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("encoding", KINDS)
async def test_a_body_that_becomes_too_large_is_refused(encoding):
    async with gateway(max_body_bytes=10_000) as g:
        assert (await post(g, COMPRESS[encoding](BODY + b" " * (10_000 - len(BODY))), encoding)).status == 201
        response = await post(g, COMPRESS[encoding](BODY + b" " * (10_001 - len(BODY))), encoding)
        assert (response.status, (await problem_of(response))["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("encoding", KINDS)
async def test_a_bomb_is_refused_without_being_inflated(encoding):
    bomb = COMPRESS[encoding](bytes(100_000_000))
    async with gateway() as g:
        tracemalloc.start()
        try:
            response = await post(g, bomb, encoding)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert response.status == 413
        assert (await problem_of(response))["code"] in {"body_too_large", "compression_ratio"}
        assert peak < 4 * LIMIT


@pytest.mark.parametrize("encoding", KINDS)
def test_past_64_kib_a_body_may_become_so_many_times_as_large(encoding):
    assert len(inflate(COMPRESS[encoding](bytes(65_536)), encoding, LIMIT)) == 65_536
    with pytest.raises(CompressionRatioError, match="100 times"):
        inflate(COMPRESS[encoding](bytes(200_000)), encoding, LIMIT)
    assert len(inflate(COMPRESS[encoding](bytes(200_000)), encoding, LIMIT, 100_000)) == 200_000


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_body_may_be_several_files_one_after_the_other(encoding):
    one = COMPRESS[encoding]
    assert inflate(b"".join(map(one, [b"a", b"", b"b"])), encoding, LIMIT) == b"ab"
    with pytest.raises(BodyTooLargeError):
        inflate(one(b"a" * 60) + one(b"b" * 60), encoding, 100)
    with pytest.raises(InvalidRequestError):
        inflate(one(b"") * 5_000, encoding, LIMIT)


def test_a_window_larger_than_a_sender_may_use_is_refused():
    """RFC 9659: 8 MiB."""
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    with pytest.raises(InvalidRequestError):
        inflate(compressor.compress(b"a") + compressor.flush(), "zstd", LIMIT)


async def test_an_empty_body_has_no_encoding():
    async with gateway() as g:
        response = await post(g, b"", "gzip")
        assert (response.status, (await problem_of(response))["code"]) == (400, "malformed_event")
