"""GET /stream/{topic}: the live stream."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError

from streams.domain.errors import RegistryUnavailableError, UnavailableError, UnknownTopicError
from tests.web_gateway import gateway, make_record, problem_of
from web.websocket import SUBPROTOCOL, TOKEN_EXPIRED

PATH = "/api/v1/stream/iot"


async def message(socket):
    return await socket.receive_json(timeout=2)


async def close_of(socket):
    received = await socket.receive(timeout=3)
    assert received.type is WSMsgType.CLOSE, received
    return received.data, received.extra


async def test_what_is_stored_is_seen_with_its_place_and_cursor():
    async with gateway() as g, g.client.ws_connect(PATH, headers=g.headers("events:read:iot")) as socket:
        g.hub.open[0].put([make_record(g.codec, 4, value=1.5), make_record(g.codec, 9, partition=1)])
        first, second = await message(socket), await message(socket)
        assert (first["type"], first["partition"], first["offset"], first["cursor"]) == ("event", 0, 4, "0:4")
        assert first["event"]["value"] == 1.5
        assert (second["partition"], second["offset"], second["cursor"]) == (1, 9, "0:4,1:9")


async def test_filters_leave_out_but_the_cursor_moves_on():
    async with gateway() as g, g.client.ws_connect(PATH + "?key=d2&event_type=a", headers=g.headers()) as socket:
        g.hub.open[0].put(
            [
                make_record(g.codec, 0, device_id="d1", event_type="a"),
                make_record(g.codec, 1, device_id="d2", event_type="b"),
                make_record(g.codec, 2, device_id="d2", event_type="a"),
            ]
        )
        assert (await message(socket))["cursor"] == "0:2"


async def test_a_slow_client_is_told_of_the_gap():
    async with gateway() as g:
        g.hub.capacity = 2
        async with g.client.ws_connect(PATH, headers=g.headers()) as socket:
            g.hub.open[0].put([make_record(g.codec, 0)])
            await message(socket)
            g.hub.open[0].put([make_record(g.codec, n) for n in range(1, 6)])
            assert await message(socket) == {"type": "gap", "missed": 3, "cursor": "0:0"}
            assert [(await message(socket))["offset"] for _ in range(2)] == [4, 5]
        page = await (await g.client.get("/metrics")).text()
        assert 'streams_websocket_events_missed_total{topic="iot"} 3' in page
        assert 'streams_websocket_events_sent_total{topic="iot"} 3' in page


async def test_a_record_that_nobody_can_read_is_told():
    async with gateway() as g, g.client.ws_connect(PATH, headers=g.headers()) as socket:
        g.hub.open[0].put([replace(make_record(g.codec, 0), value=b"garbage")])
        received = await message(socket)
        assert (received["event"], received["error"]) == (None, "malformed_event")


async def test_clients_are_counted_while_they_are_there():
    async with gateway() as g:
        async with g.client.ws_connect(PATH, headers=g.headers()), g.client.ws_connect(PATH, headers=g.headers()):
            assert 'streams_websocket_clients{topic="iot"} 2' in await (await g.client.get("/metrics")).text()
        await _until(lambda: g.metrics.requests_in_flight == 0)
        page = await (await g.client.get("/metrics")).text()
        assert 'streams_websocket_clients{topic="iot"} 0' in page
        assert 'route="/api/v1/stream/{topic}",status="101"} 2' in page
        assert 'streams_http_request_duration_seconds_count{method="GET",route="/api/v1/stream/{topic}"}' not in page


async def test_what_a_client_says_is_ignored_and_its_ping_answered():
    async with gateway() as g, g.client.ws_connect(PATH, headers=g.headers(), autoping=False) as socket:
        await socket.send_str("hello")
        await socket.ping(b"x")
        assert (await socket.receive(timeout=2)).type is WSMsgType.PONG
        g.hub.open[0].put([make_record(g.codec, 0)])
        assert (await message(socket))["offset"] == 0


class TestClosing:
    async def test_shutdown_closes_with_1001(self):
        async with gateway() as g:
            socket = await g.client.ws_connect(PATH, headers=g.headers())
            closing = asyncio.ensure_future(close_of(socket))
            began = time.monotonic()
            await g.client.server.close()
            assert await closing == (1001, "the server is shutting down")
            assert time.monotonic() - began < 5

    async def test_a_hub_that_ends_closes_with_1001_after_what_is_left(self):
        async with gateway() as g:
            socket = await g.client.ws_connect(PATH, headers=g.headers())
            g.hub.open[0].put([make_record(g.codec, 0)])
            g.hub.open[0].close()
            assert (await message(socket))["offset"] == 0
            assert (await close_of(socket))[0] == 1001

    async def test_an_expired_token_closes_with_4401(self):
        async with gateway() as g:
            headers = {"Authorization": f"Bearer {g.token(ttl_s=1, now=time.time())}"}
            socket = await g.client.ws_connect(PATH, headers=headers)
            assert await close_of(socket) == (TOKEN_EXPIRED, "the token has expired")
            await _until(lambda: not g.hub.open)

    async def test_the_registry_away_closes_with_1013(self):
        async with gateway() as g:
            g.registry.fails = RegistryUnavailableError("away")
            socket = await g.client.ws_connect(PATH, headers=g.headers())
            g.hub.open[0].put([replace(make_record(g.codec, 0), value=b"\x00\x00\x00\x00\x63xx")])
            assert await close_of(socket) == (1013, "registry_unavailable")

    async def test_a_bug_closes_with_1011_and_is_logged(self, caplog, monkeypatch):
        async with gateway() as g:
            socket = await g.client.ws_connect(PATH, headers=g.headers())
            monkeypatch.setattr(g.codec, "decode_event", lambda data: 1 / 0)
            g.hub.open[0].put([make_record(g.codec, 0)])
            assert await close_of(socket) == (1011, "internal")
        assert "ZeroDivisionError" in caplog.text

    async def test_a_client_that_goes_is_forgotten(self):
        async with gateway() as g:
            socket = await g.client.ws_connect(PATH, headers=g.headers())
            await socket.close()
            await _until(lambda: not g.hub.open)

    async def test_a_client_that_vanishes_is_forgotten(self, caplog):
        async with gateway() as g:
            socket = await g.client.ws_connect(PATH, headers=g.headers())
            assert socket._response.connection is not None
            transport = socket._response.connection.transport
            assert transport is not None
            transport.abort()
            for n in range(100):
                if g.hub.open:
                    g.hub.open[0].put([make_record(g.codec, n)])
                await asyncio.sleep(0)
            await _until(lambda: not g.hub.open)
        assert caplog.text == ""


class TestHandshake:
    async def refused(self, g, status, path=PATH, **options):
        with pytest.raises(WSServerHandshakeError) as caught:
            await g.client.ws_connect(path, **options)
        assert caught.value.status == status

    async def test_a_token_is_needed(self):
        async with gateway() as g:
            await self.refused(g, 401)
            await self.refused(g, 403, headers=g.headers("events:read:other"))
            await self.refused(g, 401, PATH + "?token=" + g.token())

    async def test_a_browser_s_token_comes_as_a_subprotocol_and_is_not_sent_back(self):
        async with gateway() as g:
            offered = [f"bearer.{g.token('events:read:iot')}", SUBPROTOCOL]
            async with g.client.ws_connect(PATH, protocols=offered) as socket:
                assert socket.protocol == SUBPROTOCOL

    async def test_a_token_that_is_offered_alone_is_refused_and_never_logged(self, caplog):
        async with gateway() as g:
            await self.refused(g, 400, protocols=[f"bearer.{g.token()}"])
            assert g.token()[:20] not in caplog.text

    async def test_a_subprotocol_is_no_token_elsewhere(self):
        async with gateway() as g:
            headers = {"Sec-WebSocket-Protocol": f"bearer.{g.token()}, {SUBPROTOCOL}"}
            assert (await g.client.get("/api/v1/events/iot/latest", headers=headers)).status == 401

    async def test_pages_of_other_origins_are_refused(self):
        async with gateway() as g:
            for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example", ""):
                await self.refused(g, 403, headers=g.headers(Origin=origin))
            origin = f"http://{g.client.host}:{g.client.port}"
            async with g.client.ws_connect(PATH, headers=g.headers(Origin=origin)):
                pass

    async def test_errors_come_as_problems_before_the_upgrade(self):
        async with gateway() as g:
            await self.refused(g, 404, "/api/v1/stream/nowhere", headers=g.headers())
            await self.refused(g, 400, PATH + "?colour=blue", headers=g.headers())
            g.hub.fails = UnavailableError("live streams have not started yet")
            await self.refused(g, 503, headers=g.headers())
            g.hub.fails = UnknownTopicError("iot")
            await self.refused(g, 404, headers=g.headers())

    async def test_a_plain_get_is_told_that_it_is_none(self):
        async with gateway() as g:
            response = await g.client.get(PATH, headers=g.headers())
            assert response.status == 400
            assert (await problem_of(response))["code"] == "invalid_request"
            assert g.hub.open == []


async def _until(condition, timeout_s=2.0):
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - of parts that know no event
            await asyncio.sleep(0.01)
