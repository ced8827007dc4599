"""Redriving without Kafka: what letters become, what is refused, how a run stops, fails and starts over."""

from __future__ import annotations

import asyncio

import pytest

from streams.codecs import Format, event_to_protobuf
from streams.domain.errors import (
    KafkaAccessError,
    KafkaUnavailableError,
    RecordRejectedError,
    RedriveSupersededError,
    RegistryUnavailableError,
    UnknownTopicError,
)
from streams.domain.headers import EVENT_ID, header
from streams.domain.redrive import LetterFilter, Place, Tally
from streams.domain.redrive_log import Ending, RunFinished, RunState, decode_entry
from streams.intake import ingress_event_id, read_ingress
from streams.kafka.consumer import Record
from streams.kafka.producer import MAX_RECORD_BYTES
from streams.redriving import MAX_LETTERS, SAMPLE
from tests.dead_letters import BODY, Desk, make_letter
from tests.strategies import NOW_MS
from tests.web_gateway import make_record

HERE = Place(1, 7)


@pytest.fixture
def desk():
    return Desk()


async def test_a_letter_of_ingress_becomes_what_the_agent_would_have_made_of_it(desk):
    letter = make_letter(
        headers=(("event-topic", b"iot"), ("traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"))
    )
    record = await desk.intake.event(HERE, letter)
    source = Record("platform.ingress", 3, 14, 0, b"k", letter.value, letter.headers)
    agents = await read_ingress(source, desk.services.catalog, desk.services.publisher)
    assert (record.topic, record.key, record.value) == (agents.topic, agents.key, agents.value)
    assert tuple(record.headers) == (*agents.headers, ("dlq-origin", b"1@7"), ("dlq-replays", b"1"))
    assert header(record.headers, EVENT_ID) == ingress_event_id(source)


@pytest.mark.parametrize("content_type", [None, b"application/x-protobuf", b""])
async def test_the_format_is_the_header_s_or_what_the_bytes_look_like(desk, content_type):
    event = desk.services.codec.decode_event(make_record(desk.services.codec, 1).value or b"")
    headers = (("event-topic", b"iot"),) + ((("content-type", content_type),) if content_type is not None else ())
    record = await desk.intake.event(HERE, make_letter(event_to_protobuf(event), headers=headers))
    assert desk.services.codec.decode_event(record.value or b"") == event
    assert header(record.headers, "content-type") == Format.PROTOBUF


async def test_a_record_that_never_reached_kafka_has_the_id_of_its_letter_s_place(desk):
    record = await desk.intake.event(HERE, make_letter(source_partition=None, source_offset=None))
    assert header(record.headers, EVENT_ID) == ingress_event_id(Record("platform.dlq", 1, 7, 0, None, None, ()))


@pytest.mark.parametrize("content_type", [b"application/json", b"text/plain", None])
async def test_a_letter_of_an_event_topic_is_read_in_wire_format_and_validated_again(desk, content_type):
    stored = make_record(desk.services.codec, 5)
    headers = () if content_type is None else (("content-type", content_type),)
    record = await desk.intake.event(
        HERE, make_letter(stored.value or b"", source_topic="events.iot", headers=headers, replays=1)
    )
    assert (record.topic, record.value, record.key) == ("events.iot", stored.value, stored.key)
    assert header(record.headers, "dlq-replays") == "2"
    expected = Format.JSON if content_type == b"application/json" else Format.AVRO
    assert header(record.headers, "content-type") == expected


@pytest.mark.parametrize(
    ("letter", "code"),
    [
        (make_letter(b"[]"), "invalid_event"),
        (make_letter(b"{"), "malformed_event"),
        (make_letter(headers=()), "unknown_topic"),
        (make_letter(headers=(("event-topic", b"nowhere"),)), "unknown_topic"),
        (make_letter(headers=(("event-topic", b"iot"), ("content-type", b"text/plain"))), "unsupported_format"),
        (make_letter(b"\x00\x00\x00\x00\x63body"), "unknown_schema"),
        (make_letter(source_topic="events.nowhere"), "unknown_topic"),
        (make_letter(b"garbage", source_topic="events.iot"), "malformed_event"),
        (make_letter(None, source_topic="events.iot"), "malformed_event"),
    ],
)
async def test_what_is_still_invalid_stays_and_is_counted_by_its_code(desk, letter, code):
    desk.bury(letter, make_letter())
    tally = await desk.redriver.begin(desk.order()).work()
    assert (tally.redriven, tally.invalid) == (1, {code: 1})
    assert [header(r.headers, "dlq-origin") for r in desk.log.events()] == ["0@1"]


async def test_an_event_that_no_topic_takes_is_not_sent(desk):
    body = BODY[:-1] + b', "payload": {"a": "%s"}}' % (b"x" * (MAX_RECORD_BYTES - 150))
    desk.bury(make_letter(body))
    look = await desk.redriver.look(LetterFilter())
    assert look.totals.invalid == {"record_rejected": 1}


async def test_letters_that_nobody_can_read_are_told_and_pass_no_filter_on_what_is_in_them(desk):
    desk.bury(make_letter())
    desk.log.records["platform.dlq", 0].append(Record("platform.dlq", 0, 1, NOW_MS, None, b"garbage", ()))
    look = await desk.redriver.look(LetterFilter())
    assert (look.totals.redriven, look.totals.invalid) == (1, {"malformed_event": 1})
    assert (await desk.redriver.look(LetterFilter(event_topic="iot"))).totals.letters == 1
    assert (await desk.redriver.look(LetterFilter(from_ms=0))).totals.letters == 1


async def test_a_dry_run_counts_what_a_run_then_does_and_writes_nothing(desk):
    desk.bury(*[make_letter() for _ in range(30)], make_letter(b"{"), make_letter(replays=5), partition=0)
    desk.bury(make_letter(reason="duplicate_event"), make_letter(source_topic="platform.aggregates"), partition=1)
    look = await desk.redriver.look(LetterFilter())
    assert look.complete
    assert len(look.sample) == SAMPLE
    assert {(one.outcome.value, one.partition) for one in look.sample} == {("redriven", 0)}
    assert desk.log.writer == 0
    assert not desk.log.events()
    assert await desk.redriver.begin(desk.order()).work() == look.totals
    assert look.totals == Tally(30, 0, {"malformed_event": 1}, {"loop_guard": 1, "duplicate_event": 1, "source": 1})
    again = await desk.redriver.look(LetterFilter())
    assert (again.totals.redriven, again.totals.already_redriven) == (0, 30)
    assert desk.log.open_readers == 0


async def test_a_look_ends_when_its_time_is_over_and_says_so(desk):
    desk.bury(*[make_letter() for _ in range(10)])

    async def slow(record):
        desk.now_s += 1
        return make_letter()

    desk.intake.letter = slow
    look = await desk.redriver.look(LetterFilter(), within_s=4)
    assert (look.totals.letters, look.complete) == (4, False)
    assert desk.log.open_readers == 0


async def test_no_more_than_the_limit_is_redriven(desk):
    desk.bury(make_letter(b"{"), *[make_letter() for _ in range(10)])
    assert (await desk.redriver.look(LetterFilter(), 3)).totals.redriven == 3
    assert (await desk.redriver.begin(desk.order(limit=3)).work()).redriven == 3
    tally = await desk.redriver.begin(desk.order(run_id="r2", limit=4)).work()
    assert (tally.redriven, tally.already_redriven) == (4, 3)
    assert [header(r.headers, "dlq-origin") for r in desk.log.events()] == [f"0@{n}" for n in range(1, 8)]


async def test_the_rate_is_kept_and_a_transaction_has_no_more_than_a_second_of_it(desk):
    desk.bury(*[make_letter() for _ in range(35)])
    await desk.redriver.begin(desk.order(rate=10.0)).work()
    assert desk.log.commits == [1, 11, 11, 11, 6, 1]
    assert desk.slept == pytest.approx([1.0, 1.0, 1.0])


async def test_a_transaction_has_a_bound_however_high_the_rate(desk):
    desk.bury(*[make_letter() for _ in range(MAX_LETTERS + 1)])
    await desk.redriver.begin(desk.order()).work()
    assert desk.log.commits == [1, MAX_LETTERS + 1, 2, 1]


async def test_large_events_make_small_transactions(desk):
    body = BODY[:-1] + b', "payload": {"a": "%s"}}' % (b"x" * 900_000)
    desk.bury(*[make_letter(body) for _ in range(7)])
    assert (await desk.redriver.begin(desk.order()).work()).redriven == 7
    assert desk.log.commits == [1, 6, 3, 1]


async def test_a_run_that_is_told_to_stop_leaves_the_rest_and_says_so(desk):
    desk.bury(*[make_letter() for _ in range(35)])
    runs = []

    async def sleep(seconds):
        runs[0].stop()
        await asyncio.Event().wait()

    run = desk.make_redriver(sleep=sleep).begin(desk.order(rate=10.0))
    runs.append(run)
    async with asyncio.timeout(5):
        tally = await run.work()
    assert tally.redriven == len(desk.log.events()) == 10
    last = decode_entry(desk.log.records["platform.redrives", 0][-1].value)
    assert isinstance(last, RunFinished)
    assert (last.ending, last.totals) == (Ending.STOPPED, tally)


async def test_the_one_event_that_kafka_refuses_holds_up_no_other(desk):
    desk.bury(*[make_letter() for _ in range(5)], make_letter(BODY.replace(b"1.5", b"2.5")), *[make_letter()] * 3)
    letter = await desk.intake.letter(desk.log.records["platform.dlq", 0][5])
    refused = (await desk.intake.event(Place(0, 5), letter)).value
    run = desk.redriver.begin(desk.order())
    write = run._writer.commit

    async def commit(records):
        if refused in [record.value for record in records]:
            raise RecordRejectedError("too large")
        return await write(records)

    run._writer.commit = commit
    tally = await run.work()
    assert (tally.redriven, tally.invalid) == (8, {"record_rejected": 1})
    assert "0@5" not in {header(r.headers, "dlq-origin") for r in desk.log.events()}


def failing(run, errors):
    """Let the calls of the writer's commit fail so, one after the other; None is none."""
    write, left = run._writer.commit, list(errors)

    async def commit(records):
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return await write(records)

    run._writer.commit = commit
    return left


async def test_a_transaction_that_was_aborted_for_what_may_pass_is_tried_again(desk):
    desk.bury(make_letter(), make_letter())
    run = desk.redriver.begin(desk.order())
    failing(run, [None, KafkaUnavailableError("a leader moves"), KafkaUnavailableError("still")])
    assert (await run.work()).redriven == 2
    assert desk.log.writer == 1


async def test_a_run_that_cannot_get_on_fails_and_says_so_in_the_log(desk):
    desk.bury(make_letter())
    run = desk.redriver.begin(desk.order())
    failing(run, [None, KafkaAccessError("not allowed to write to events.iot")])
    with pytest.raises(KafkaAccessError):
        await run.work()
    log = await desk.redriver.store.redrive_log()
    assert (log.runs["r1"].state, log.runs["r1"].error) == (RunState.FAILED, "kafka_access")


async def test_a_bug_fails_the_run_and_says_so_in_the_log(desk):
    desk.bury(make_letter())
    run = desk.redriver.begin(desk.order())
    failing(run, [None, ZeroDivisionError()])
    with pytest.raises(ZeroDivisionError):
        await run.work()
    assert (await desk.redriver.store.redrive_log()).runs["r1"].error == "internal"


async def test_a_letter_that_meets_a_bug_is_left_and_the_others_go_on(desk, caplog):
    desk.bury(make_letter(), make_letter(b"bug"))
    event = desk.intake.event

    async def judge(place, letter):
        if letter.value == b"bug":
            raise ZeroDivisionError
        return await event(place, letter)

    desk.intake.event = judge
    tally = await desk.redriver.begin(desk.order()).work()
    assert (tally.redriven, tally.invalid) == (1, {"internal": 1})
    assert "0@1 cannot be judged" in caplog.text


async def test_a_registry_that_is_away_is_waited_for(desk):
    desk.bury(make_letter(), make_letter())
    event, failures = desk.intake.event, [RegistryUnavailableError("away"), RegistryUnavailableError("away")]

    async def judge(place, letter):
        if failures:
            raise failures.pop()
        return await event(place, letter)

    desk.intake.event = judge
    assert (await desk.redriver.begin(desk.order()).work()).redriven == 2


async def test_kafka_that_stays_away_ends_a_run_in_time(desk):
    desk.log.fails = KafkaUnavailableError("away")

    async def sleep(seconds):
        desk.now_s += 20.0

    redriver = desk.make_redriver(sleep=sleep)
    with pytest.raises(KafkaUnavailableError):
        await redriver.begin(desk.order()).work()
    assert desk.now_s == pytest.approx(60.0)


async def test_a_second_run_ends_the_first_and_goes_on_from_there(desk):
    desk.bury(*[make_letter() for _ in range(30)])
    order = desk.order(rate=10.0)
    halfway = asyncio.Event()

    async def sleep(seconds):
        halfway.set()
        await asyncio.sleep(0.01)

    first = asyncio.create_task(desk.make_redriver(sleep=sleep).begin(order).work())
    await halfway.wait()
    tally = await desk.redriver.begin(desk.order(run_id="r2")).work()
    with pytest.raises(RedriveSupersededError):
        await first
    assert (tally.redriven, tally.already_redriven) == (20, 10)
    log = await desk.redriver.store.redrive_log()
    assert (log.runs["r1"].state, log.runs["r2"].state) == (RunState.SUPERSEDED, RunState.COMPLETED)


async def test_a_topic_that_is_deleted_meanwhile_costs_its_own_letters_alone(desk):
    desk.bury(make_letter(), make_letter(BODY.replace(b"d1", b"d2")))
    run = desk.redriver.begin(desk.order())
    failing(run, [None, UnknownTopicError("iot"), None, UnknownTopicError("iot")])
    tally = await run.work()
    assert (tally.redriven, tally.invalid) == (1, {"unknown_topic": 1})
