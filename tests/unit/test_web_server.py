"""The server below the application: broken requests, slow clients, many clients, and the second port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import aiohttp
import pytest
from aiohttp import base_protocol, web, web_protocol, web_response
from aiohttp.http_exceptions import LineTooLong
from faust.web.drivers.aiohttp import Web as FaustWeb

import web as gateway_package
from streams.domain.errors import ConfigurationError
from streams.faust_app import create_app
from tests.web_gateway import Server, gateway, make_settings
from web.http import server
from web.http.server import MAX_FIELD_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, MAX_LINE_BYTES, Connection, Runner

GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
POST = b"POST" + GET[3:]
SECRET_TEXT = "a-text-that-must-not-come-back"


@contextlib.asynccontextmanager
async def serve(handler=None, **settings):
    """An application behind our runner; it answers everything with `handler`."""

    async def ok(_):
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler or ok)
    async with Server(app, make_settings(**settings)) as running:
        yield running


@contextlib.asynccontextmanager
async def connect(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(reader):
    """Status, headers and body of one answer."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode()
    status, *lines = head.rstrip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(status.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def ask(port, request):
    """The answer to bytes, and what comes after it."""
    async with connect(port) as (reader, writer):
        writer.write(request)
        status, headers, body = await answer(reader)
        # Where the connection stays open, this waits in vain.
        closed = status >= 400 and await asyncio.wait_for(reader.read(), 5) == b""
        return status, headers, body, closed


BROKEN = {
    "no HTTP": (b"hello " + SECRET_TEXT.encode() + b"\r\n\r\n", 400, "invalid_request"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid_request"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "invalid_request"),
    "a header without colon": (GET + SECRET_TEXT.encode() + b"\r\n\r\n", 400, "invalid_request"),
    "a NUL in a header": (GET + b"X: \x00\r\n\r\n", 400, "invalid_request"),
    "two lengths": (GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "invalid_request"),
    "length and chunks": (GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "invalid_request"),
    "a length that is none": (GET + b"Content-Length: x\r\n\r\n", 400, "invalid_request"),
    "a version that is none": (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400, "invalid_request"),
    "a space before the colon": (GET + b"X : 1\r\n\r\n", 400, "invalid_request"),
    "a long path": (b"GET /" + b"a" * MAX_LINE_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "uri_too_long"),
    "a long query": (b"GET /?" + b"a" * MAX_LINE_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "uri_too_long"),
    "a large header": (GET + b"X: " + b"a" * (MAX_FIELD_BYTES + 1) + b"\r\n\r\n", 431, "headers_too_large"),
    "a large name": (GET + b"x" * (MAX_FIELD_BYTES + 1) + b": a\r\n\r\n", 431, "headers_too_large"),
    "many headers": (GET + b"X: 1\r\n" * MAX_HEADERS + b"\r\n", 431, "headers_too_large"),
}


@pytest.mark.parametrize("loop_debug", [False, True])
@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_request_is_answered_as_a_problem_that_quotes_nothing(name, loop_debug, caplog):
    request, expected, code = BROKEN[name]
    async with serve() as running:
        running.runner.app._debug = loop_debug
        status, headers, body, closed = await ask(running.port, request)
    assert (status, headers["content-type"], closed) == (expected, "application/problem+json", True)
    document = json.loads(body)
    assert (document["code"], document["status"], document["instance"]) == (code, expected, "/")
    assert SECRET_TEXT not in body.decode()
    assert "aaaa" not in body.decode()
    assert "Traceback" not in body.decode()
    # Anyone can send such a request, as often as they like: the log is not theirs.
    assert [r for r in caplog.records if r.name.startswith(("aiohttp", "web"))] == []


async def test_what_is_just_within_the_bounds_is_taken():
    async with serve() as running:
        line = b"GET /" + b"a" * (MAX_LINE_BYTES - 1) + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        field = b"X: " + b"a" * (MAX_FIELD_BYTES - 1) + b"\r\n"
        assert (await ask(running.port, line + field + b"Y: 1\r\n" * (MAX_HEADERS - 3) + b"\r\n"))[0] == 200


async def test_headers_are_bounded_together_however_they_come():
    fields = (b"X: " + b"a" * (MAX_FIELD_BYTES - 9) + b"\r\n") * 5
    async with serve() as running:
        for request in (GET + fields + b"\r\n", POST + b"Content-Length: 9\r\n" + fields + b"\r\nabcdefghi"):
            # All at once, so that they are complete in the read that goes past the bound.
            status, _, body, closed = await ask(running.port, request)
            assert (status, json.loads(body)["code"], closed) == (431, "headers_too_large", True)


async def test_a_large_body_is_no_large_header():
    async with serve() as running:
        request = POST + b"Connection: close\r\nContent-Length: 100000\r\n\r\n" + b"a" * 100_000
        assert (await ask(running.port, request))[0] == 200


async def test_headers_are_bounded_while_they_come():
    async with serve() as running, connect(running.port) as (reader, writer):
        writer.write(GET)
        for _ in range(5):
            writer.write(b"X: " + b"a" * (MAX_FIELD_BYTES - 2) + b"\r\n")
            await asyncio.sleep(0.02)
        status, _, body = await answer(reader)
    assert (status, json.loads(body)["code"]) == (431, "headers_too_large")
    assert 5 * MAX_FIELD_BYTES > MAX_HEAD_BYTES


async def test_an_error_outside_the_handlers_tells_nothing(caplog):
    async def fails(_):
        raise ValueError(SECRET_TEXT)

    async with serve(fails) as running:
        status, headers, body, closed = await ask(running.port, GET + b"Accept: text/html\r\n\r\n")
    assert (status, headers["content-type"], closed) == (500, "application/problem+json", True)
    assert json.loads(body)["code"] == "internal"
    assert SECRET_TEXT not in body.decode()
    assert SECRET_TEXT in caplog.text


async def test_no_answer_tells_a_version():
    async with gateway() as g:
        for path in ("/health/live", "/nowhere"):
            assert (await g.client.get(path)).headers["Server"] == "event-streams"
        assert (await ask(g.client.port, b"x\r\n\r\n"))[1]["server"] == "event-streams"
        socket_ = await g.client.ws_connect("/api/v1/stream/iot", headers=g.headers())
        assert socket_._response.headers["Server"] == "event-streams"
        await socket_.close()


class TestExpectations:
    """`Expect: 100-continue`: the body is asked for by whoever reads it, not before."""

    POST = b"POST /api/v1/events/iot HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"

    async def test_a_body_is_not_asked_for_before_its_token_was_looked_at(self, monkeypatch):
        monkeypatch.setattr(server, "LINGERING_S", 0.1)
        async with gateway() as g, connect(g.client.port) as (reader, writer):
            writer.write(self.POST + b"Expect: 100-continue\r\n\r\n")
            status, headers, _ = await answer(reader)
            assert (status, headers["connection"]) == (401, "close")

    async def test_a_body_is_asked_for_when_it_is_read(self):
        async with gateway() as g, connect(g.client.port) as (reader, writer):
            token = f"Authorization: Bearer {g.token()}\r\n".encode()
            for _ in range(2):
                writer.write(self.POST + token + b"Expect: 100-Continue\r\nX: \xff\r\n\r\n")
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(b"{}")
                assert (await answer(reader))[0] == 422

    @pytest.mark.parametrize("expectation", [b"something else", b""])
    async def test_other_expectations_are_ignored(self, expectation):
        async with gateway() as g, connect(g.client.port) as (reader, writer):
            token = f"Authorization: Bearer {g.token()}\r\n".encode()
            writer.write(self.POST + token + b"Expect: " + expectation + b"\r\n\r\n{}")
            assert (await answer(reader))[0] == 422
            writer.write(self.POST + b"Expect: " + expectation + b"\r\n\r\n{}")
            assert (await answer(reader))[0] == 401

    async def test_a_client_of_http_1_0_is_asked_for_nothing(self):
        async with gateway() as g, connect(g.client.port) as (reader, writer):
            head = self.POST.replace(b"HTTP/1.1", b"HTTP/1.0") + f"Authorization: Bearer {g.token()}\r\n".encode()
            writer.write(head + b"Expect: 100-continue\r\n\r\n{")
            await asyncio.sleep(0.1)
            writer.write(b"}")
            assert (await answer(reader))[0] == 422


class TestSlowClients:
    @pytest.mark.parametrize("pieces", [[b"G", b"E"], [GET, b"X", b"-"], [b"\r\n", b"\r\n", b"GET /"]])
    async def test_headers_that_do_not_end_are_answered_408_and_closed(self, pieces):
        async with serve(header_timeout_s=0.2) as running, connect(running.port) as (reader, writer):
            began = asyncio.get_running_loop().time()
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.05)
            status, headers, body = await answer(reader)
            assert (status, headers["connection"]) == (408, "close")
            assert json.loads(body)["code"] == "request_timeout"
            assert await reader.read() == b""
            # A byte now and then does not put it off.
            assert asyncio.get_running_loop().time() - began < 0.4

    async def test_a_connection_that_says_nothing_is_closed(self):
        async with serve(header_timeout_s=0.2) as running, connect(running.port) as (reader, _):
            assert await asyncio.wait_for(reader.read(), 2) == b""

    async def test_the_next_request_of_a_connection_has_the_same_time(self):
        async with serve(header_timeout_s=0.2) as running, connect(running.port) as (reader, writer):
            for _ in range(2):
                writer.write(GET + b"\r\n")
                assert (await answer(reader))[0] == 200
                # Silence between requests is another matter.
                await asyncio.sleep(0.3)
            writer.write(GET)
            assert (await answer(reader))[0] == 408

    async def test_headers_in_pieces_that_come_in_time_are_taken(self):
        async with serve(header_timeout_s=1.0) as running, connect(running.port) as (reader, writer):
            for _ in range(3):
                for byte in GET + b"\r\n":
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0)
                assert (await answer(reader))[0] == 200

    async def test_a_handler_and_a_body_may_take_longer_than_headers(self):
        async def slow(request):
            body = await request.read()
            await asyncio.sleep(0.3)
            return web.Response(body=body)

        async with serve(slow, header_timeout_s=0.1) as running, connect(running.port) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1")
            await asyncio.sleep(0.3)
            writer.write(b"2")
            status, _, body = await answer(reader)
            assert (status, body) == (200, b"12")

    async def test_an_idle_connection_is_closed_after_its_time(self):
        async with serve(keepalive_timeout_s=0.2) as running, connect(running.port) as (reader, writer):
            writer.write(GET + b"\r\n")
            assert (await answer(reader))[0] == 200
            assert await asyncio.wait_for(reader.read(), 2) == b""

    async def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(self, monkeypatch):
        monkeypatch.setattr(server, "_STALL_INTERVAL_S", 0.2)

        async def large(_):
            return web.Response(body=b"x" * 20_000_000)

        async with serve(large) as running, connect(running.port) as (reader, writer):
            writer.transport.pause_reading()
            writer.write(GET + b"\r\n")
            async with asyncio.timeout(5):
                await _until(lambda: running.runner._door.open == 1)
                await _until(lambda: running.runner._door.open == 0)
            writer.transport.resume_reading()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await answer(reader)

    @pytest.mark.parametrize("behind", [b"", GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"])
    async def test_no_client_stays_for_a_small_answer_that_it_does_not_take(self, monkeypatch, behind):
        """Nor does one that has asked for a WebSocket after it."""
        monkeypatch.setattr(server, "_STALL_INTERVAL_S", 0.2)

        async def small(request):
            request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
            return web.Response(body=b"x" * 50_000)

        async with serve(small, keepalive_timeout_s=0.2) as running:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", running.port))
                await asyncio.get_running_loop().sock_sendall(client, GET + b"\r\n" + behind)
                await _until(lambda: running.runner._door.open == 1)
                await _until(lambda: running.runner._door.open == 0)

    async def test_a_client_that_takes_its_answer_slowly_gets_it_whole(self, monkeypatch):
        monkeypatch.setattr(server, "_STALL_INTERVAL_S", 0.1)

        async def large(_):
            return web.Response(body=b"x" * 20_000_000)

        async with serve(large) as running, connect(running.port) as (reader, writer):
            writer.write(GET + b"\r\n")
            await reader.readuntil(b"\r\n\r\n")
            left = 20_000_000
            while left:
                left -= len(await reader.read(500_000))
                await asyncio.sleep(0.01)

    async def test_what_is_left_of_a_refused_body_is_not_taken_for_long(self, monkeypatch):
        monkeypatch.setattr(server, "LINGERING_S", 0.2)
        async with gateway() as g, connect(g.client.port) as (reader, writer):
            writer.write(b"POST /api/v1/events/iot HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            assert (await answer(reader))[0] == 401
            writer.write(b"x" * 1_000)
            assert await asyncio.wait_for(reader.read(), 2) == b""


class TestManyClients:
    async def test_past_the_bound_a_connection_is_refused_and_others_go_on(self):
        async with serve(max_connections=2) as running:
            async with connect(running.port) as (first, writer), connect(running.port):
                await _until(lambda: running.runner._door.open == 2)
                async with connect(running.port) as (reader, _):
                    status, headers, body = await answer(reader)
                    assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
                    assert json.loads(body)["code"] == "unavailable"
                writer.write(GET + b"\r\n")
                assert (await answer(first))[0] == 200
            await _until(lambda: running.runner._door.open == 0)
            assert (await ask(running.port, GET + b"Connection: close\r\n\r\n"))[0] == 200

    async def test_connections_are_counted_down_however_they_end(self):
        async with serve(header_timeout_s=0.1) as running:
            for request in (b"", b"x", b"x\r\n\r\n", GET + b"\r\n", GET + b"Connection: close\r\n\r\n"):
                async with connect(running.port) as (_, writer):
                    writer.write(request)
                    await asyncio.sleep(0.15)
            await _until(lambda: running.runner._door.open == 0)


class TestSecondPort:
    async def test_metrics_move_and_health_is_on_both(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        async with gateway(metrics_port=port) as g, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as second:
            for path in ("/metrics", "/api/v1/metrics"):
                assert (await g.client.get(path)).status == 401
                assert (await g.client.get(path, headers=g.headers())).status == 404
            assert (await g.client.get("/health/live")).status == 200
            response = await second.get("/metrics")
            assert response.status == 200
            # One worker, one set of numbers: those of the main port are there.
            assert 'route="/health/live"' in await response.text()
            for path in ("/health", "/health/live", "/health/ready"):
                assert (await second.get(path)).status == 200
            for path in ("/", "/api/v1/events/iot/latest", "/api/v1/tables", "/table/", "/docs"):
                assert (await second.get(path)).status == 401
                assert (await second.get(path, headers=g.headers())).status == 404
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection("127.0.0.1", port)

    async def test_a_port_that_is_taken_stops_the_start(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConfigurationError, match=f"STREAMS_METRICS_PORT: cannot listen on 127.0.0.1:{port}"):
                async with gateway(metrics_port=port):
                    pass

    def test_it_is_another_than_the_main_one(self):
        with pytest.raises(ValueError, match="STREAMS_METRICS_PORT must differ"):
            make_settings(metrics_port=6066)


class TestWhatWeStandOn:
    """Names of aiohttp and Faust that are not public. Where one is gone, look at `web.http.server` before all else."""

    def test_aiohttp_has_the_names_that_are_used(self):
        assert {"_waiter", "_keepalive_handle", "_payload_parser"} <= set(web_protocol.RequestHandler.__slots__)
        assert {"_loop", "_upgraded"} <= set(base_protocol.BaseProtocol.__slots__)
        assert isinstance(vars(web_response)["SERVER_SOFTWARE"], str)
        assert callable(web.AppRunner._make_server)
        assert LineTooLong(b"", 7).args[1] == 7

    def test_faust_s_driver_serves_with_our_runner(self):
        app = create_app(make_settings(kafka_bootstrap_servers="127.0.0.1:26999"))
        driver = app.web
        assert isinstance(driver, FaustWeb)
        assert type(driver._runner) is web.AppRunner
        gateway_package.install(app)
        assert isinstance(driver._runner, Runner)
        assert driver._runner.app is driver.web_app

    async def test_connections_are_ours(self):
        async with serve() as running, connect(running.port):
            await _until(lambda: running.runner._door.open == 1)
            assert [type(c) for c in running.runner.server.connections] == [Connection]


async def _until(condition, seconds=5.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - sockets tell nothing
            await asyncio.sleep(0.01)
