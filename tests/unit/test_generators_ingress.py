"""Sending straight into Kafka's ingress topic."""

from __future__ import annotations

import io

import pytest

from streams.domain.errors import ConfigurationError, KafkaAccessError, KafkaUnavailableError
from streams.domain.partitioning import partition_key
from streams.generators.options import GeneratorOptions, Via
from streams.generators.plan import emissions
from streams.generators.run import run_generator
from streams.settings import Settings

SETTINGS = Settings(retry_base_s=0.01, retry_cap_s=0.02)
START_MS = 1_780_000_000_000
OPTIONS = GeneratorOptions(
    rate=100_000,
    count=400,
    via=Via.INGRESS,
    invalid_ratio=0.3,
    duplicate_ratio=0.1,
    start_ms=START_MS,
)


class FakeKafka:
    def __init__(self, errors=()):
        self.records = []
        self._errors = list(errors)

    async def send(self, topic, key, value, headers):
        if self._errors:
            raise self._errors.pop(0)
        self.records.append((topic, key, value, dict(headers)))


async def run(kafka, options=OPTIONS):
    return await run_generator(options, SETTINGS, send=kafka.send, out=io.StringIO(), err=io.StringIO())


async def test_every_emission_is_a_record_of_the_ingress_topic():
    kafka = FakeKafka()
    totals = await run(kafka)
    planned = list(emissions(OPTIONS, START_MS))
    assert sorted(kafka.records, key=repr) == sorted(
        (
            ("platform.ingress", e.key, e.body, {"event-topic": e.topic.encode(), "content-type": b"application/json"})
            for e in planned
        ),
        key=repr,
    )
    assert totals.emitted == 400


async def test_the_key_is_that_of_the_event_and_absent_where_it_has_none():
    kafka = FakeKafka()
    await run(kafka)
    by_body = {e.body: e for e in emissions(OPTIONS, START_MS)}
    keyless = 0
    for _, key, body, _ in kafka.records:
        emission = by_body[body]
        if emission.error is not None and emission.error.fault in {"no_key", "empty_key", "empty_body"}:
            keyless += 1
            assert key is None
        elif emission.user_id is not None:
            assert key == partition_key(emission.user_id, None)
        else:
            assert key.startswith(b"device-")
    assert keyless > 0


async def test_verdicts_are_what_the_worker_must_decide():
    totals = await run(FakeKafka())
    for topic in totals.as_json()["topics"].values():
        assert topic["rejected"] == topic["invalid"] > 0
        assert topic["accepted"] == topic["valid"] + topic["duplicates"]


async def test_a_record_that_may_be_written_is_tried_again_and_uncertain():
    kafka = FakeKafka([KafkaUnavailableError("no leader")])
    totals = await run(kafka)
    assert (len(kafka.records), totals.emitted, totals.retries) == (400, 400, 1)
    assert sum(t.uncertain for t in totals.topics.values()) == 1


async def test_a_refusal_ends_the_run():
    with pytest.raises(KafkaAccessError):
        await run(FakeKafka([KafkaAccessError("no")] * 1_000))


async def test_ingress_takes_a_producer():
    with pytest.raises(ConfigurationError, match="producer"):
        await run_generator(OPTIONS, SETTINGS)
