"""The fast lane on the wire: what it takes, what it leaves, and what becomes of a connection in it."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp.web_protocol import RequestHandler

from streams.domain.errors import RecordRejectedError
from streams.kafka.sending import Receipt, Sending
from tests.web_gateway import EVENT, gateway
from web.publish.fast_lane import FastLane

PATH = "/api/v1/events/iot"


@pytest.fixture
def taken(monkeypatch):
    """For each look that the lane had at a request, whether it took it."""
    looks: list[bool] = []
    take = FastLane.take

    def counted(self, *arguments):
        looks.append(False)
        looks[-1] = take(self, *arguments)
        return looks[-1]

    monkeypatch.setattr(FastLane, "take", counted)
    return looks


def event(number=0):
    return json.dumps(EVENT | {"event_id": f"00000000-0000-4000-8000-{number:012d}"}).encode()


def post(g, body, path=PATH, **headers):
    """A request as it goes over the wire."""
    fields = g.headers(**{"Content-Type": "application/json", "Content-Length": str(len(body)), "Host": "x"}) | headers
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def answer(reader):
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode()
    status, *lines = head.rstrip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(status.split()[1]), json.loads(await reader.readexactly(int(headers["Content-Length"])))


@asynccontextmanager
async def connected(**settings):
    """A gateway that needs to learn nothing any more, and a connection to it."""
    async with gateway(**settings) as g:
        assert (await g.post(event(999))).status == 201
        g.producer.sent.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", g.client.port)
        # Before the first request, aiohttp's task must have begun to wait.
        await asyncio.sleep(0.05)
        try:
            yield g, reader, writer
        finally:
            writer.close()


async def test_a_plain_request_is_taken(taken):
    async with connected() as (g, reader, writer):
        writer.write(post(g, event()))
        status, body = await answer(reader)
        assert (status, body["offset"], body["duplicate"]) == (201, 0, False)
        assert taken[-1] is True


@pytest.mark.parametrize(
    "change",
    [
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Encoding": "identity"},
        {"Origin": "https://elsewhere.example"},
        {"Idempotency-Key": "k"},
        {"Connection": "close"},
        {"Authorization": "Bearer none"},
        {"Authorization": None},
        {"ce-specversion": "1.0"},
        {"Expect": "100-continue"},
    ],
    ids=str,
)
async def test_what_is_not_plain_goes_the_ordinary_way(taken, change):
    async with connected() as (g, reader, writer):
        taken.clear()
        writer.write(post(g, event(), **change))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 ")
        assert taken == [False]


@pytest.mark.parametrize("path", [PATH + "?a=1", "/api/v1/events/none", "/api/v1/events/%69ot", PATH + "/validate"])
async def test_other_paths_go_the_ordinary_way(taken, path):
    async with connected() as (g, reader, writer):
        writer.write(post(g, event(), path))
        status, _ = await answer(reader)
        assert status == {PATH + "?a=1": 201, "/api/v1/events/none": 404}.get(path, status)
        assert taken[-1] is False


async def test_a_token_without_the_scope_is_refused(taken):
    async with connected() as (g, reader, writer):
        writer.write(post(g, event(), Authorization=f"Bearer {g.token('events:read:*')}"))
        status, body = await answer(reader)
        assert (status, body["code"], taken[-1]) == (403, "forbidden", False)


async def test_many_requests_at_once_are_answered_in_their_order(taken):
    async with connected() as (g, reader, writer):
        kinds = [{}, {"Idempotency-Key": "k"}, {}, {}, {"Content-Type": "application/json; a=b"}, {}, {}]
        writer.write(b"".join(post(g, event(number), **kind) for number, kind in enumerate(kinds)))
        for number, _ in enumerate(kinds):
            status, body = await answer(reader)
            assert (status, body["event_id"][-2:]) == (201, f"{number:02d}")
        assert True in taken
        assert len(g.producer.sent) == len(kinds)


async def test_hundreds_in_one_piece_are_all_answered(taken):
    async with connected() as (g, reader, writer):
        writer.write(b"".join(post(g, event(number)) for number in range(400)))
        for number in range(400):
            assert (await answer(reader))[1]["event_id"].endswith(f"{number:03d}")
        assert sum(taken) >= 400


async def test_a_request_that_comes_byte_by_byte(taken):
    async with connected() as (g, reader, writer):
        for byte in post(g, event()):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await answer(reader))[0] == 201


async def test_kafka_that_never_answers_ends_at_the_deadline(taken):
    async with connected(request_deadline_s=0.3) as (g, reader, writer):
        g.producer.hangs = True
        writer.write(post(g, event()))
        status, body = await answer(reader)
        assert (status, body["code"], taken[-1]) == (503, "kafka_unavailable", True)
        # The connection goes on.
        g.producer.hangs = False
        writer.write(post(g, event(1)))
        assert (await answer(reader))[0] == 201


async def test_shares_are_kept(taken):
    async with connected(subject_requests_per_s=1) as (g, reader, writer):
        # The gateway's first request has taken what there is.
        writer.write(post(g, event()))
        status, body = await answer(reader)
        assert (status, body["code"], taken[-1]) == (429, "rate_limited", True)


async def test_a_request_beyond_its_share_is_no_event(taken):
    pages = []
    for kind in ("application/json", "application/json; charset=utf-8"):
        async with connected(subject_requests_per_s=0.001) as (g, _, _):
            assert (await g.post(event(), content_type=kind)).status == 429
            page = await (await g.client.get("/metrics")).text()
            pages.append([line for line in page.splitlines() if line.startswith("streams_events_total")])
    assert taken == [False, True, False, False, False, False]
    assert pages[0] == pages[1]


@pytest.mark.parametrize("origins", [["*"], ["https://app.example.com"]], ids=str)
@pytest.mark.parametrize("body", [event(), b"{}"], ids=["good", "bad"])
async def test_what_caches_must_know_is_told_either_way(taken, origins, body):
    found = []
    for kind in ("application/json", "application/json; charset=utf-8"):
        async with connected(cors_origins=origins) as (g, _, _):
            response = await g.post(body, content_type=kind)
            found.append((response.status, response.headers.getall("Vary", [])))
    assert taken == [False, True, False, False]
    assert found[0] == found[1]


async def test_a_client_that_goes_leaves_nothing(taken):
    async with connected() as (g, _, writer):
        g.producer.hangs = True
        writer.write(post(g, event()))
        await asyncio.sleep(0.05)
        writer.close()
        await asyncio.sleep(0.05)
        assert taken[-1] is True
    # Closing the gateway waits for no connection that is gone.


async def test_a_gateway_that_stops_answers_what_it_has_taken(taken):
    async with gateway(request_deadline_s=1) as g:
        assert (await g.post(event(999))).status == 201
        reader, writer = await asyncio.open_connection("127.0.0.1", g.client.port)
        await asyncio.sleep(0.05)
        g.producer.hangs = True
        writer.write(post(g, event()))
        await asyncio.sleep(0.05)
        assert taken[-1] is True
        stopping = asyncio.ensure_future(g.client.server.close())
        status, body = await answer(reader)
        assert (status, body["code"]) == (503, "kafka_unavailable")
        await stopping
        assert await reader.read() == b""
        writer.close()


async def test_an_idle_connection_is_closed_after_its_time(taken):
    async with connected(keepalive_timeout_s=1) as (g, reader, writer):
        writer.write(post(g, event()))
        assert (await answer(reader))[0] == 201
        assert taken[-1] is True
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_a_connection_is_not_idle_while_its_request_waits_for_kafka(taken):
    async with connected(keepalive_timeout_s=0.4, request_deadline_s=0.8) as (g, reader, writer):
        writer.write(post(g, event()))
        assert (await answer(reader))[0] == 201
        await asyncio.sleep(0.2)
        g.producer.hangs = True
        writer.write(post(g, event(1)))
        status, body = await answer(reader)
        assert (status, body["code"], taken[-1]) == (503, "kafka_unavailable", True)
        # And then it is again.
        assert await asyncio.wait_for(reader.read(), 5) == b""


@pytest.mark.parametrize("is_known", [False, True])
async def test_an_event_of_a_batch_that_is_half_stored_is_answered_in_time(taken, monkeypatch, is_known):
    async with connected(request_deadline_s=0.6) as (g, reader, writer):
        sendings = []

        def submit(records):
            sendings.append(Sending(len(records)))
            return sendings[-1]

        def half():
            sendings[0].settle(0, Receipt("events.iot", 1, 0, 0))

        monkeypatch.setattr(g.producer, "submit", submit)
        batch = asyncio.create_task(g.post(event(1) + b"\n" + event(2), "iot/batch", "application/x-ndjson"))
        await asyncio.sleep(0.2)
        if is_known:
            half()
        began = asyncio.get_running_loop().time()
        writer.write(post(g, event(1)))
        await asyncio.sleep(0.1)
        if not is_known:
            half()
        # The batch is given up first, and what is known of it kept.
        assert (await batch).status == 207
        status, body = await answer(reader)
        assert (status, body["duplicate"], taken[-1]) == (201, True, True)
        assert asyncio.get_running_loop().time() - began < 0.8


async def test_what_kafka_never_takes_is_told_to_be_kept(taken):
    async with connected() as (g, reader, writer):
        g.producer.refuses = lambda record: RecordRejectedError("too large") if record.topic != "platform.dlq" else None
        writer.write(post(g, event()))
        status, body = await answer(reader)
        assert (status, body["code"], taken[-1]) == (422, "record_rejected", True)
        assert body["dead_letter"] == {"partition": 1, "offset": 0}
        [letter] = g.producer.sent
        assert letter.topic == "platform.dlq"


def test_aiohttp_is_the_one_that_the_lane_was_made_for():
    """The lane takes messages from aiohttp's queue as its own loop does: read what has changed before this is."""
    parts = (
        RequestHandler.start,
        RequestHandler.data_received,
        RequestHandler.shutdown,
        RequestHandler._process_keepalive,
        RequestHandler._resume_reading_if_drained,
    )
    digest = hashlib.sha256("".join(inspect.getsource(part) for part in parts).encode()).hexdigest()[:16]
    assert digest == "cfe0c797a61972c1"
    assert {"_messages", "_next_keepalive_close_time"} <= set(RequestHandler.__slots__)
