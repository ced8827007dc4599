"""Whatever is posted: never our fault, and never accepted unless the one validator accepts it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import ClientResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.codecs import Format, SchemaNeededError, read_event, write_event
from streams.domain.envelope import Event
from streams.domain.errors import InvalidEventError, PlatformError, UnknownSchemaError
from streams.domain.validation import EventRules
from tests.strategies import NOW_MS, documents, events, json_values
from tests.web_gateway import SCHEMA_ID, Gateway, gateway, problem_of

ID = "00000000-0000-4000-8000-000000000000"


class Loop:
    """A gateway that lives on between examples, in a loop of its own."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        # An id that one example has used may be another's.
        self._context = gateway(idempotency_window_s=1e-9)
        self.gateway: Gateway = self.run(self._context.__aenter__())

    def run(self, coroutine: Any) -> Any:
        return self._runner.run(coroutine)

    def close(self) -> None:
        self.run(self._context.__aexit__(None, None, None))
        self._runner.close()


@pytest.fixture(scope="module")
def loop():
    loop = Loop()
    yield loop
    loop.close()


def expected(g: Gateway, body: bytes, format_: Format) -> Event | PlatformError:
    try:
        return read_event(body, format_, g.codec, rules=EventRules(), now_ms=NOW_MS, new_event_id=lambda: ID)
    except SchemaNeededError:
        return UnknownSchemaError("the registry of memory has no other")
    except PlatformError as exc:
        return exc


async def check(g: Gateway, body: bytes, format_: Format) -> int:
    """Post, compare with the validator, and return the status."""
    g.producer.sent.clear()
    wanted = expected(g, body, format_)
    response: ClientResponse = await g.post(body, content_type=format_.value)
    if response.status == 201:
        assert isinstance(wanted, Event)
        [record] = g.producer.sent
        stored = g.codec.decode_event(record.value or b"")
        if wanted.event_id == ID:
            wanted = Event(stored.event_id, *[getattr(wanted, name) for name in Event.__struct_fields__[1:]])
        assert stored == wanted
        assert (await response.json())["event_id"] == stored.event_id
        assert record.key == stored.key
    else:
        assert response.status in (400, 422)
        problem = await problem_of(response)
        assert isinstance(wanted, PlatformError)
        assert g.producer.sent == []
        assert problem["code"] == wanted.code
        if isinstance(wanted, InvalidEventError):
            assert [e["path"] for e in problem["errors"]] == [e.path for e in wanted.errors]
    return response.status


@settings(max_examples=75, deadline=None)
@given(document=documents())
def test_documents_are_accepted_if_and_only_if_they_break_no_rule(loop, document):
    status = loop.run(check(loop.gateway, document.body, Format.JSON))
    assert (status == 201) == (not document.broken)


@settings(max_examples=50, deadline=None)
@given(value=json_values, ascii_only=st.booleans())
def test_any_json_value_gets_an_answer(loop, value, ascii_only):
    loop.run(check(loop.gateway, json.dumps(value, ensure_ascii=ascii_only).encode(), Format.JSON))


SURROGATES = (
    r"""{"\ud800":1,"event_type":"\udfff","timestamp":"\ud800","device_id":"\ud800","payload":{"\ud800":"\udc00"}}"""
)


@pytest.mark.parametrize(
    "body",
    [
        SURROGATES.encode(),
        b"[" * 100_000,
        b'{"payload":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001,
        b'{"value":' + b"9" * 5_000 + b"}",
        b'{"timestamp":1e999,"value":-1e999,"event_type":null}',
        b"\x00",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
    ],
    ids=["surrogates", "deep array", "deep payload", "long number", "overflow", "nul", "BOM", "UTF-16"],
)
def test_known_traps_get_an_answer(loop, body):
    loop.run(check(loop.gateway, body, Format.JSON))


@settings(max_examples=75, deadline=None)
@given(body=st.binary(max_size=300), format_=st.sampled_from(Format), framed=st.booleans())
def test_any_bytes_in_any_format_get_an_answer(loop, body, format_, framed):
    if framed and format_ is Format.AVRO:
        body = b"\x00" + SCHEMA_ID.to_bytes(4, "big") + body
    loop.run(check(loop.gateway, body, format_))


@settings(max_examples=75, deadline=None)
@given(event=events(), data=st.data())
def test_a_damaged_event_gets_an_answer(loop, event, data):
    format_ = data.draw(st.sampled_from(Format))
    body = bytearray(write_event(event, format_, loop.gateway.codec, SCHEMA_ID))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] = data.draw(st.integers(0, 255))
    loop.run(check(loop.gateway, bytes(body), format_))
