"""The fast lane answers as the ordinary way does: the same status, headers and body, and the same record in Kafka."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.domain.errors import KafkaAccessError, KafkaUnavailableError, OverloadedError, RecordRejectedError
from tests.strategies import documents
from tests.web_gateway import EVENT, Gateway, gateway
from web.publish.fast_lane import FastLane

ORDINARY = "application/json; charset=utf-8"
"""With a parameter, a request is not plain."""
VARYING = {"Date"}

bodies = st.one_of(
    documents().map(lambda document: document.body),
    st.binary(max_size=40),
    st.sampled_from([b"", b"{}", b"[]", b'{"event_type": "a"', b'\xff{"a": 1}', b"null"]),
)
faults = st.sampled_from(
    [
        None,
        None,
        None,
        KafkaUnavailableError("10.0.0.7 is away"),
        OverloadedError("too much", retry_after_s=3),
        RecordRejectedError("too large"),
        KafkaAccessError("not allowed"),
        ValueError("a bug"),
    ]
)
traces = st.sampled_from([None, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "none of these"])


@dataclass
class Seen:
    """What came of a request."""

    status: int
    headers: dict[str, str]
    body: Any
    sent: list[tuple[Any, ...]] = field(default_factory=list)


async def ask(g: Gateway, body: bytes, content_type: str, trace: str | None, fault: Exception | None) -> Seen:
    """Post a body; what differs by chance alone is left out: ids that were made, offsets."""
    headers = g.headers(**{"Content-Type": content_type})
    if trace is not None:
        headers["traceparent"] = trace
    g.producer.sent.clear()
    refusal = fault if isinstance(fault, RecordRejectedError | KafkaAccessError) else None
    g.producer.fails = None if refusal is not None else fault
    g.producer.refuses = lambda record: refusal if record.topic == "events.iot" else None
    response = await g.client.post("/api/v1/events/iot", data=body, headers=headers)
    g.producer.fails = None
    document = await response.json()
    made = response.status == 201 and document["event_id"].encode() not in body.lower()
    if made:
        document["event_id"] = "made"
    length = () if made else ("Content-Length",)
    told = {n: v for n, v in response.headers.items() if n not in VARYING and (n != "Content-Length" or n in length)}
    sent = [
        (r.topic, r.key, None if made else r.value, [h for h in r.headers if not made or h[0] != "event-id"])
        for r in g.producer.sent
        if r.topic == "events.iot"
    ]
    return Seen(response.status, told, document, sent)


async def both(body: bytes, trace: str | None, fault: Exception | None, taken: list[int]) -> tuple[Seen, Seen]:
    # Two gateways, so that neither knows the other's receipts.
    seen = []
    for content_type in ("application/json", ORDINARY):
        async with gateway(idempotency_max_ids=1_000) as g:
            # The lane takes what nothing must be learned for: after the first request of the ordinary way.
            warm = json.dumps(EVENT | {"event_id": "00000000-0000-4000-8000-000000000000"}).encode()
            assert (await ask(g, warm, ORDINARY, None, None)).status == 201
            seen.append(await ask(g, body, content_type, trace, fault))
    return seen[0], seen[1]


def lane_counts(monkeypatch: Any) -> list[int]:
    taken: list[int] = []
    take = FastLane.take

    def counted(self: FastLane, *arguments: Any) -> bool:
        if found := take(self, *arguments):
            taken.append(1)
        return found

    monkeypatch.setattr(FastLane, "take", counted)
    return taken


def test_both_ways_answer_alike(monkeypatch):
    taken = lane_counts(monkeypatch)

    @given(bodies, traces, faults)
    @settings(max_examples=80)
    def run(body: bytes, trace: str | None, fault: Exception | None) -> None:
        before = len(taken)
        fast, ordinary = asyncio.run(both(body, trace, fault, taken))
        assert fast == ordinary
        assert len(taken) == before + 1

    run()


async def test_a_repetition_gets_the_first_receipt_by_either_way():
    body = json.dumps(EVENT | {"event_id": "11111111-0000-4000-8000-000000000000"}).encode()
    async with gateway() as g:
        answers = []
        for content_type in (ORDINARY, "application/json", ORDINARY, "application/json"):
            response = await g.client.post(
                "/api/v1/events/iot", data=body, headers=g.headers(**{"Content-Type": content_type})
            )
            assert response.status == 201
            answers.append(await response.json())
        assert [answer.pop("duplicate") for answer in answers] == [False, True, True, True]
        assert all(answer == answers[0] for answer in answers)
        assert len(g.producer.sent) == 1
