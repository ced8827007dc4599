"""GET /stream/{topic}: the live stream."""

from __future__ import annotations

import asyncio
import io
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import cast
from unittest import mock

import fastavro
import pytest
from aiohttp import WSMsgType, WSServerHandshakeError
from aiohttp.client_exceptions import ClientConnectionResetError

from streams import hub as hub_module
from streams import schemas
from streams.codecs import parse
from streams.domain.errors import RegistryUnavailableError, UnavailableError, UnknownTopicError
from streams.schemas import event_pb2
from tests.web_gateway import gateway, make_record, problem_of
from web.live import websocket
from web.live.websocket import SUBPROTOCOL, TOKEN_EXPIRED, TOPIC_GONE

PATH = "/api/v1/stream/iot"
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def message(socket):
    return await socket.receive_json(timeout=2)


@asynccontextmanager
async def connected(g, path=PATH, position=None):
    """A stream whose first message, where it begins, was read."""
    async with g.client.ws_connect(path, headers=g.headers("events:read:iot")) as socket:
        first = await message(socket)
        assert first.keys() == {"type", "cursor"}
        assert first["type"] == "position"
        assert position in (None, first["cursor"])
        yield socket


async def close_of(socket):
    received = await socket.receive(timeout=4)
    assert received.type is WSMsgType.CLOSE, received
    return received.data, received.extra


async def test_what_is_stored_is_seen_with_its_place_and_cursor():
    async with gateway() as g:
        g.hub.log.append(*[make_record(g.codec, n) for n in range(4)])
        async with connected(g, position="0:4,1:0") as socket:
            traced = make_record(g.codec, 4, value=1.5)
            g.hub.log.append(replace(traced, headers=(*traced.headers, ("traceparent", TRACE.encode()))))
            first = await message(socket)
            g.hub.log.append(make_record(g.codec, 0, partition=1))
            second = await message(socket)
        assert (first["type"], first["partition"], first["offset"], first["cursor"]) == ("event", 0, 4, "0:5,1:0")
        assert (first["event"]["value"], first["traceparent"]) == (1.5, TRACE)
        assert (second["partition"], second["offset"], second["cursor"]) == (1, 0, "0:5,1:1")
        assert "traceparent" not in second


async def test_a_client_that_comes_back_goes_on_where_it_was():
    async with gateway() as g:
        async with connected(g) as socket:
            g.hub.log.append(*[make_record(g.codec, n) for n in range(3)])
            cursors = [(await message(socket))["cursor"] for _ in range(2)]
        g.hub.log.append(make_record(g.codec, 3))
        async with connected(g, f"{PATH}?from={cursors[-1]}", position="0:2,1:0") as socket:
            assert [(await message(socket))["offset"] for _ in range(2)] == [2, 3]
        # From what the hub has kept: nothing was read again.
        assert g.hub.log.readers == ["hub", "hub-offsets"]


async def test_history_is_read_from_the_earliest_record_and_then_the_stream_goes_on(monkeypatch):
    async with gateway(stream_queue_events=4) as g:
        g.hub.log.append(*[make_record(g.codec, n) for n in range(10)])
        async with connected(g, PATH + "?from=earliest", position="0:0,1:0") as socket:
            assert [(await message(socket))["offset"] for _ in range(10)] == list(range(10))
            g.hub.log.append(make_record(g.codec, 10))
            assert (await message(socket))["cursor"] == "0:11,1:0"
        assert g.hub.log.readers == ["hub", "hub-offsets", "catch-up"]


async def test_what_retention_took_is_an_explicit_gap():
    async with gateway() as g:
        g.hub.log.append(*[make_record(g.codec, n) for n in range(5)])
        g.hub.log.expire(0, 3)
        async with connected(g, PATH + "?from=0:1,1:0&slow=close", position="0:1,1:0") as socket:
            assert await message(socket) == {
                "type": "gap",
                "cursor": "0:3,1:0",
                "from": "0:1,1:0",
                "missed": 2,
                "reason": "expired",
                "ranges": [{"partition": 0, "from": 1, "to": 3}],
            }
            assert (await message(socket))["offset"] == 3


async def test_a_partition_that_the_cursor_does_not_name_is_read_from_its_beginning():
    async with gateway() as g:
        g.hub.log.append(make_record(g.codec, 0), make_record(g.codec, 0, partition=1))
        async with connected(g, PATH + "?from=0:1", position="0:1,1:0") as socket:
            assert (await message(socket))["cursor"] == "0:1,1:1"


async def test_a_partition_that_is_added_while_clients_watch_is_followed_from_its_beginning(monkeypatch):
    monkeypatch.setattr(hub_module, "_REFRESH_S", 0.01)
    async with gateway() as g, connected(g, position="0:0,1:0") as socket:
        g.hub.log.add_partition()
        g.hub.log.append(make_record(g.codec, 0, partition=2))
        assert (await message(socket))["cursor"] == "0:0,1:0,2:1"


async def test_filters_leave_out_but_the_cursor_moves_on():
    async with gateway() as g, connected(g, PATH + "?key=d2&event_type=a") as socket:
        g.hub.log.append(
            make_record(g.codec, 0, device_id="d1", event_type="a"),
            make_record(g.codec, 1, device_id="d2", event_type="b"),
            make_record(g.codec, 2, device_id="d2", event_type="a"),
        )
        assert (await message(socket))["cursor"] == "0:3,1:0"


async def test_a_client_whose_filter_takes_nothing_is_told_now_and_then_how_far_it_is(monkeypatch):
    monkeypatch.setattr(websocket, "_POSITION_S", 0.2)
    async with gateway() as g, connected(g, PATH + "?key=nobody") as socket:
        began = time.monotonic()
        g.hub.log.append(*[make_record(g.codec, n) for n in range(3)])
        assert await message(socket) == {"type": "position", "cursor": "0:3,1:0"}
        assert time.monotonic() - began > 0.1
        with pytest.raises(TimeoutError):
            await socket.receive(timeout=0.5)


async def test_what_a_filter_leaves_out_behind_the_last_event_is_told_too(monkeypatch):
    monkeypatch.setattr(websocket, "_POSITION_S", 0.2)
    async with gateway() as g, connected(g, PATH + "?key=d2") as socket:
        g.hub.log.append(make_record(g.codec, 0, device_id="d2"), make_record(g.codec, 1))
        assert (await message(socket))["cursor"] == "0:1,1:0"
        assert await message(socket) == {"type": "position", "cursor": "0:2,1:0"}


class TestFormats:
    async def test_avro_frames_have_the_record_s_own_bytes(self):
        async with gateway() as g, connected(g, PATH + "?format=avro") as socket:
            record = make_record(g.codec, 0, value=1.5)
            traced = make_record(g.codec, 1)
            traced = replace(traced, headers=(*traced.headers, ("traceparent", TRACE.encode())))
            g.hub.log.append(record, traced)
            received = [await socket.receive_bytes(timeout=2) for _ in range(2)]
        schema = parse(schemas.STREAM_MESSAGE)
        first, second = [cast("dict", fastavro.schemaless_reader(io.BytesIO(data), schema, None)) for data in received]
        assert first == {
            "cursor": "0:1,1:0",
            "partition": 0,
            "offset": 0,
            "stored_at": record.timestamp_ms,
            "traceparent": None,
            "event": record.value,
        }
        assert (second["cursor"], second["traceparent"]) == ("0:2,1:0", TRACE)

    async def test_protobuf_frames_have_the_event(self):
        async with gateway() as g, connected(g, PATH + "?format=protobuf") as socket:
            record = make_record(g.codec, 0, value=1.5)
            g.hub.log.append(record, replace(make_record(g.codec, 1), value=b"garbage"))
            received = [await socket.receive_bytes(timeout=2) for _ in range(2)]
        first, second = [event_pb2.StreamMessage.FromString(data) for data in received]
        assert (first.cursor, first.partition, first.offset, first.stored_at) == ("0:1,1:0", 0, 0, record.timestamp_ms)
        assert first.event.value == 1.5
        assert first.event.device_id == "d1"
        assert not first.HasField("error")
        assert (second.error, second.HasField("event"), second.cursor) == ("malformed_event", False, "0:2,1:0")

    @pytest.mark.parametrize("size", [10, 1_000, 70_000])
    async def test_frames_of_every_size_are_whole(self, size):
        async with gateway() as g, connected(g) as socket:
            g.hub.log.append(*[make_record(g.codec, n, payload='{"text": "%s"}' % ("x" * size)) for n in range(3)])
            for offset in range(3):
                received = await message(socket)
                assert received["offset"] == offset
                assert received["event"]["payload"] == {"text": "x" * size}

    async def test_clients_in_step_share_what_is_rendered_and_have_each_their_own_filter(self, monkeypatch):
        async with gateway() as g, connected(g) as one, connected(g) as two, connected(g, PATH + "?key=d2") as three:
            decode = mock.Mock(wraps=g.codec.decode_event)
            monkeypatch.setattr(g.codec, "decode_event", decode)
            g.hub.log.append(make_record(g.codec, 0), make_record(g.codec, 1, device_id="d2"))
            for socket in (one, two):
                assert [(await message(socket))["offset"] for _ in range(2)] == [0, 1]
            assert (await message(three))["cursor"] == "0:2,1:0"
            assert decode.call_count == 2


class TestSlowClients:
    @asynccontextmanager
    async def stalled(self, g, path=PATH):
        """A client that read where it is, and nothing since; what is written to it stays here."""
        async with connected(g, path) as socket:
            assert socket._conn is not None
            transport = socket._conn.transport
            assert transport is not None
            transport.pause_reading()
            [watched] = g.hub._watched.values()
            offset = 0
            # Until the connection takes no more, and the hub has given up waiting.
            while not any(watcher._slow for watcher in watched.watchers):
                g.hub.log.append(
                    *[make_record(g.codec, offset + n, payload='{"t": "%s"}' % ("x" * 60_000)) for n in range(8)]
                )
                offset += 8
                await _until(lambda: watched.feed.head[0] == offset)  # noqa: B023
                assert offset < 2_000
            yield socket, transport, offset

    async def test_a_slow_client_is_told_of_the_gap_and_misses_nothing_else(self, monkeypatch):
        monkeypatch.setattr(hub_module, "_PATIENCE_S", 0.02)
        async with gateway(stream_queue_events=8) as g, self.stalled(g) as (socket, transport, written):
            transport.resume_reading()
            offset, gaps = 0, 0
            while offset < written:
                received = await message(socket)
                if received["type"] == "gap":
                    gaps += 1
                    [missing] = received["ranges"]
                    assert (missing["from"], received["from"]) == (offset, f"0:{offset},1:0")
                    assert received["missed"] == missing["to"] - offset
                    assert received["reason"] == "slow"
                    offset = missing["to"]
                else:
                    assert received["offset"] == offset
                    offset += 1
                assert received["cursor"] == f"0:{offset},1:0"
            assert gaps
            page = await (await g.client.get("/metrics")).text()
            assert f'streams_websocket_gaps_total{{reason="slow",topic="iot"}} {gaps}' in page
            assert 'streams_websocket_events_missed_total{topic="iot"}' in page

    async def test_one_that_asked_for_it_is_closed_with_1013(self, monkeypatch):
        monkeypatch.setattr(hub_module, "_PATIENCE_S", 0.02)
        async with gateway(stream_queue_events=8) as g, self.stalled(g, PATH + "?slow=close") as (socket, transport, _):
            transport.resume_reading()
            while (received := await socket.receive(timeout=2)).type is WSMsgType.TEXT:
                pass
            assert (received.data, received.extra) == (1013, "too_slow")

    async def test_a_burst_is_no_gap_for_those_who_read(self):
        async with gateway(stream_queue_events=8) as g, connected(g) as socket:
            g.hub.log.append(*[make_record(g.codec, n) for n in range(500)])
            assert [(await message(socket))["offset"] for _ in range(500)] == list(range(500))

    async def test_a_client_that_reads_nothing_is_dropped_and_its_connection_is_gone(self, monkeypatch):
        monkeypatch.setattr(hub_module, "_PATIENCE_S", 0.02)
        monkeypatch.setattr(websocket, "HEARTBEAT_S", 0.4)
        async with gateway(stream_queue_events=8) as g, self.stalled(g) as (_, transport, _):
            [outlet] = [each for live in _lives(g) for each in live._open]
            assert outlet._transport.get_write_buffer_size()
            await _until(lambda: not g.hub.watchers, 5)
            # What it has not taken is not kept for it: the connection is gone, too.
            await _until(lambda: outlet._transport.get_write_buffer_size() == 0, 5)
            transport.abort()

    async def test_one_that_sends_and_reads_nothing_is_dropped_as_well(self, monkeypatch):
        monkeypatch.setattr(hub_module, "_PATIENCE_S", 0.02)
        monkeypatch.setattr(websocket, "HEARTBEAT_S", 0.4)
        async with gateway(stream_queue_events=8) as g, connected(g) as socket:
            assert socket._conn is not None
            transport = socket._conn.transport
            assert transport is not None
            transport.pause_reading()
            g.hub.log.append(*[make_record(g.codec, n, payload='{"t": "%s"}' % ("x" * 60_000)) for n in range(400)])
            async with asyncio.timeout(5):
                while g.hub.watchers:
                    # Whatever comes from a client is a sign of life to aiohttp.
                    with suppress(ClientConnectionResetError):
                        await socket.send_str("hello")
                    await asyncio.sleep(0.02)
            transport.abort()


async def test_a_record_that_nobody_can_read_is_told():
    async with gateway() as g, connected(g) as socket:
        g.hub.log.append(replace(make_record(g.codec, 0), value=b"garbage"))
        received = await message(socket)
        assert (received["event"], received["error"]) == (None, "malformed_event")


async def test_clients_and_what_they_are_sent_are_counted():
    async with gateway() as g:
        async with connected(g) as one, connected(g):
            assert 'streams_websocket_clients{topic="iot"} 2' in await (await g.client.get("/metrics")).text()
            g.hub.log.append(make_record(g.codec, 0))
            await message(one)
        await _until(lambda: g.metrics.requests_in_flight == 0)
        page = await (await g.client.get("/metrics")).text()
        assert "streams_websocket_catch_up_reads 0" in page
        assert 'streams_websocket_clients{topic="iot"} 0' in page
        assert 'streams_websocket_events_sent_total{topic="iot"} 2' in page
        assert 'streams_websocket_sent_bytes_total{topic="iot"}' in page
        assert 'route="/api/v1/stream/{topic}",status="101"} 2' in page
        assert 'streams_http_request_duration_seconds_count{method="GET",route="/api/v1/stream/{topic}"}' not in page


async def test_what_a_client_says_is_ignored_and_its_ping_answered():
    async with gateway() as g, g.client.ws_connect(PATH, headers=g.headers(), autoping=False) as socket:
        await message(socket)
        await socket.send_str("hello")
        await socket.ping(b"x")
        assert (await socket.receive(timeout=2)).type is WSMsgType.PONG
        g.hub.log.append(make_record(g.codec, 0))
        assert (await message(socket))["offset"] == 0


class TestClosing:
    async def test_shutdown_closes_with_1001(self):
        async with gateway() as g, connected(g) as socket:
            closing = asyncio.ensure_future(close_of(socket))
            began = time.monotonic()
            await g.client.server.close()
            assert await closing == (1001, "the server is shutting down")
            assert time.monotonic() - began < 5

    async def test_shutdown_waits_a_moment_for_a_client_that_has_something_to_read_yet(self):
        async with gateway() as g, connected(g) as socket:
            assert socket._conn is not None
            transport = socket._conn.transport
            assert transport is not None
            transport.pause_reading()
            [outlet] = [each for live in _lives(g) for each in live._open]
            offset = 0
            while not outlet._transport.get_write_buffer_size():
                g.hub.log.append(make_record(g.codec, offset, payload='{"t": "%s"}' % ("x" * 60_000)))
                offset += 1
                await asyncio.sleep(0.01)
            closing = asyncio.create_task(g.client.server.close())
            await asyncio.sleep(0.2)
            transport.resume_reading()
            while (received := await socket.receive(timeout=4)).type is WSMsgType.TEXT:
                pass
            assert (received.type, received.data) == (WSMsgType.CLOSE, 1001)
            await closing

    async def test_a_hub_that_ends_closes_with_1001_after_what_is_left(self):
        async with gateway() as g, connected(g) as socket:
            [watched] = g.hub._watched.values()
            watched.feed.publish([make_record(g.codec, 0)])
            await g.hub.stop()
            assert (await message(socket))["offset"] == 0
            assert (await close_of(socket))[0] == 1001

    async def test_an_expired_token_closes_with_4401(self):
        async with gateway() as g:
            headers = {"Authorization": f"Bearer {g.token(ttl_s=1, now=time.time())}"}
            socket = await g.client.ws_connect(PATH, headers=headers)
            await message(socket)
            assert await close_of(socket) == (TOKEN_EXPIRED, "the token has expired")
            await _until(lambda: not g.hub.watchers)

    async def test_the_registry_away_closes_with_1013(self):
        async with gateway() as g, connected(g) as socket:
            g.registry.fails = RegistryUnavailableError("away")
            g.hub.log.append(replace(make_record(g.codec, 0), value=b"\x00\x00\x00\x00\x63xx"))
            assert await close_of(socket) == (1013, "registry_unavailable")

    async def test_a_topic_that_is_no_more_closes_with_4404(self, monkeypatch):
        monkeypatch.setattr(hub_module, "_REFRESH_S", 0.01)
        async with gateway() as g, connected(g) as socket:
            g.hub.log.gone = True
            assert await close_of(socket) == (TOPIC_GONE, "unknown_topic")

    async def test_a_bug_closes_with_1011_and_is_logged(self, caplog, monkeypatch):
        async with gateway() as g, connected(g) as socket:
            monkeypatch.setattr(g.codec, "decode_event", lambda data: 1 / 0)
            g.hub.log.append(make_record(g.codec, 0))
            assert await close_of(socket) == (1011, "internal")
        assert caplog.text.count("ZeroDivisionError: ") == 1

    async def test_after_a_close_frame_nothing_more_is_written(self):
        async with gateway() as g, connected(g) as socket:
            [outlet] = [each for live in _lives(g) for each in live._open]
            closing = asyncio.create_task(outlet.close(4999, "over"))
            await asyncio.sleep(0)
            with pytest.raises(ClientConnectionResetError):
                await outlet.write(b"x")
            assert await close_of(socket) == (4999, "over")
            await closing

    async def test_a_client_that_goes_is_forgotten(self):
        async with gateway() as g:
            socket = await g.client.ws_connect(PATH, headers=g.headers())
            await socket.close()
            await _until(lambda: not g.hub.watchers)

    async def test_a_client_that_vanishes_is_forgotten(self, caplog):
        async with gateway() as g, connected(g) as socket:
            assert socket._conn is not None
            transport = socket._conn.transport
            assert transport is not None
            transport.abort()
            for n in range(100):
                g.hub.log.append(make_record(g.codec, n))
                await asyncio.sleep(0)
            await _until(lambda: not g.hub.watchers)
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

    @pytest.mark.parametrize(
        ("start", "why"),
        [
            ("0:3", "partition 0 ends at 2, before 3"),
            ("7:0", "no partition 7"),
            ("0:1,0:2", "named twice"),
            ("0:99999999999999999999", "latest, earliest, or the cursor"),
            ("0:9999999999999999999", "no place in a topic"),
            ("0", "latest, earliest, or the cursor"),
            ("", "latest, earliest, or the cursor"),
            ("now", "latest, earliest, or the cursor"),
        ],
    )
    async def test_a_cursor_that_no_message_had_is_refused_before_the_upgrade(self, start, why):
        async with gateway() as g:
            g.hub.log.append(*[make_record(g.codec, n) for n in range(2)])
            response = await g.client.get(PATH, params={"from": start}, headers=g.headers(**UPGRADE))
            assert response.status == 400
            [error] = (await problem_of(response))["errors"]
            assert (error["path"], error["code"]) == ("?from", "invalid_cursor")
            assert why in error["message"]
            assert g.hub.watchers == 0

    async def test_more_clients_than_a_worker_may_have_are_told_when_to_come_back(self):
        async with gateway(stream_max_clients=1) as g:
            async with g.client.ws_connect(PATH, headers=g.headers()):
                response = await g.client.get(PATH, headers=g.headers(**UPGRADE))
                assert (response.status, (await problem_of(response))["code"]) == (503, "unavailable")
                assert response.headers["Retry-After"] == "5"
            await _until(lambda: not g.hub.watchers)
            async with g.client.ws_connect(PATH, headers=g.headers()):
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
            assert g.hub.watchers == 0

    @pytest.mark.parametrize("key", ["", "x", "AAAA", "\xff" * 24])
    async def test_a_handshake_without_a_real_key_is_none(self, key):
        async with gateway() as g:
            response = await g.client.get(PATH, headers=UPGRADE | {"Sec-WebSocket-Key": key} | g.headers())
            assert (response.status, (await problem_of(response))["code"]) == (400, "invalid_request")


def _lives(g):
    """The handlers of the stream's routes."""
    assert g.client.app is not None
    return {route.handler.__self__ for route in g.client.app.router.routes() if route.handler.__name__ == "stream"}


async def _until(condition, timeout_s=2.0):
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - of parts that know no event
            await asyncio.sleep(0.01)
