"""The work on one partition, with a fault at every step: each record once, and the state as of the committed offset."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka.errors import UnknownMemberIdError

from streams.domain.state import KeyState
from streams.kafka.batching import Limits, MemoryStore, Phase, Source
from streams.kafka.batching.partition import PartitionWork
from tests.batching_kafka import (
    PACE,
    FakeProducer,
    Folding,
    Kafka,
    TransientError,
    Worker,
    away,
    changelog_rows,
    check,
    folded,
    outputs,
    run,
    until,
    use,
)

SOURCE = Source("in", 0)
pytestmark = pytest.mark.usefixtures("_memory")


@pytest.fixture
def _memory(monkeypatch):
    use(monkeypatch)


def filled(*values: bytes) -> Kafka:
    kafka = Kafka()
    for number, value in enumerate(values):
        kafka.put(SOURCE, b"k%d" % (number % 3), value)
    return kafka


def plain(number: int) -> list[bytes]:
    return [b"%d" % n for n in range(number)]


async def started(kafka: Kafka, pipeline: Folding | None = None, **more: Any) -> tuple[Worker, PartitionWork]:
    worker = Worker(kafka, pipeline, **more)
    await worker.assign(SOURCE)
    return worker, worker.works[SOURCE]


async def all_done(kafka: Kafka, worker: Worker) -> None:
    end = len(kafka.logs[SOURCE])
    await until(lambda: kafka.offsets.get(SOURCE) == end == worker.works[SOURCE].committed)
    await until(lambda: worker.works[SOURCE].phase is Phase.RUNNING)
    check(kafka, [SOURCE], [worker])
    assert worker.snapshot(SOURCE) == folded(kafka.logs[SOURCE], len(kafka.logs[SOURCE]))


def test_every_record_comes_out_once_in_order_and_is_folded():
    async def go() -> None:
        kafka = filled(*plain(30))
        kafka.holes(SOURCE, 3)
        kafka.abort_foreign(SOURCE, b"never")
        worker, work = await started(kafka)
        await all_done(kafka, worker)
        assert outputs(kafka)[SOURCE] != []
        assert work.records == 30
        for number in range(100):
            kafka.put(SOURCE, b"k", b"%d" % number)
        await all_done(kafka, worker)
        assert worker.consumer.seeks == [(SOURCE, 0)], "nothing is read twice"
        assert worker.engine.gates.in_hand(SOURCE) == (0, 0)
        await worker.stop()

    run(go())


def test_markers_alone_move_the_committed_offset():
    async def go() -> None:
        kafka = filled(b"1")
        worker, _ = await started(kafka)
        await all_done(kafka, worker)
        kafka.abort_foreign(SOURCE, b"never")
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


def test_the_record_at_fault_is_found_by_halves_and_it_alone_is_buried():
    async def go() -> None:
        kafka = filled(*plain(7), b"poison", *plain(5))
        pipeline = Folding()
        worker, work = await started(kafka, pipeline, most=20)
        await all_done(kafka, worker)
        buried = [entry for entry in kafka.logs["dlq", 0] if entry.status == "committed"]
        assert [dict(entry.headers)["origin"] for entry in buried] == [b"in/0/7"]
        assert max(map(len, pipeline.attempts)) == 13
        assert len(pipeline.attempts) <= 1 + 2 * 4
        assert work.phase is Phase.RUNNING
        await worker.stop()

    run(go())


def test_a_record_whose_output_kafka_refuses_is_buried_too():
    async def go() -> None:
        kafka = filled(*plain(4), b"refused", *plain(4))
        worker, _ = await started(kafka)
        await all_done(kafka, worker)
        assert [e.value for e in kafka.logs["dlq", 0] if e.status == "committed"] == [b"buried"]
        await worker.stop()

    run(go())


def test_what_may_pass_is_tried_again_and_nothing_is_buried():
    async def go() -> None:
        kafka = filled(*plain(9))
        pipeline = Folding()
        pipeline.errors = [TransientError()] * 3
        worker, work = await started(kafka, pipeline)
        await until(lambda: work.phase is Phase.RETRYING)
        assert work.error == "TransientError"
        await all_done(kafka, worker)
        [status] = worker.engine.status()
        assert (status.phase, status.error) == (Phase.RUNNING, None)
        assert kafka.logs["dlq", 0] == []
        await worker.stop()

    run(go())


def test_a_partition_is_no_longer_retrying_once_the_record_at_fault_is_buried():
    """First an error that may pass, then one that does not: what follows goes on, so it must not look stuck."""

    async def go() -> None:
        kafka = filled(*plain(3), b"poison")
        pipeline = Folding()
        handle = pipeline.handle
        failures = iter([TransientError()])

        async def failing(transaction: Any, records: Any) -> None:
            if len(records) == 1 and records[0].value == b"poison":
                for failure in failures:
                    raise failure
            await handle(transaction, records)

        pipeline.handle = failing  # type: ignore[method-assign]
        worker, work = await started(kafka, pipeline, most=20)
        await until(lambda: kafka.offsets.get(SOURCE) == 4)
        await asyncio.sleep(100)
        assert (work.phase, work.error) == (Phase.RUNNING, None)
        assert worker.engine.complaints(60) == []
        await worker.stop()

    run(go())


def test_a_record_that_cannot_even_be_buried_holds_its_partition_and_nothing_is_dropped():
    async def go() -> None:
        kafka = filled(*plain(3), b"cursed", *plain(3))
        pipeline = Folding()
        worker, work = await started(kafka, pipeline)
        await until(lambda: work.phase is Phase.HELD)
        await asyncio.sleep(60)
        assert kafka.offsets[SOURCE] == 3
        assert "no grave" in str(work.error)
        held = await status_over(worker, 10)
        assert set(held) == {Phase.HELD}, "also while it is tried again"
        check(kafka, [SOURCE], [worker])
        pipeline.cursed = False
        await all_done(kafka, worker)
        assert outputs(kafka)[SOURCE].count(3) == 1
        await worker.stop()

    run(go())


async def status_over(worker: Worker, seconds: float) -> list[Phase]:
    found = []
    for _ in range(int(seconds * 10)):
        await asyncio.sleep(0.1)
        found.append(worker.works[SOURCE].phase)
    return found


def test_a_held_partition_is_tried_more_and_more_seldom():
    async def go() -> None:
        kafka = filled(b"cursed")
        worker, work = await started(kafka)
        await until(lambda: work.phase is Phase.HELD)
        await asyncio.sleep(20)
        before = kafka.steps.count("start")
        await asyncio.sleep(60)
        assert kafka.steps.count("start") - before <= 30  # the longest delay is 2 s
        await worker.stop()

    run(go())


@pytest.mark.parametrize("step", ["start", "begin", "send", "offsets", "commit", "committed", "abort", "read", "seek"])
@pytest.mark.parametrize("when", ["opening", "later"])
def test_a_fault_at_any_step_costs_time_alone(step, when):
    async def go() -> None:
        kafka = filled(*plain(9), b"poison")
        if when == "opening":
            kafka.fail(step, away(), away())
        worker, _ = await started(kafka)
        if when == "later":
            await asyncio.sleep(0.3)
            kafka.fail(step, away(), away())
            if step in ("start", "abort", "read", "seek"):
                kafka.fail("commit", away())
        for number in range(20):
            await asyncio.sleep(0.1)
            kafka.put(SOURCE, b"k%d" % (number % 3), b"%d" % number)
            check(kafka, [SOURCE], [worker])
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


@pytest.mark.parametrize("step", ["commit", "committed"])
def test_after_a_commit_of_unknown_outcome_the_offset_tells(step):
    async def go() -> None:
        kafka = filled(*plain(5))
        worker, work = await started(kafka)
        kafka.fail(step, away())
        await until(lambda: work.phase is Phase.RETRYING)
        assert kafka.offsets.get(SOURCE) == (5 if step == "committed" else None)
        restored = kafka.steps.count("ensure")
        await all_done(kafka, worker)
        assert kafka.steps.count("ensure") == restored, "its own state is good: nothing is restored"
        await worker.stop()

    run(go())


class Stubborn(MemoryStore[KeyState]):
    """Fails to take changes as often as it is told, as a full disk would."""

    failures = 0

    def apply(self, changes: Mapping[str, KeyState | None], position: int | None) -> None:
        if changes and Stubborn.failures:
            Stubborn.failures -= 1
            raise ValueError("the disk is full")
        super().apply(changes, position)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_changes_that_were_committed_but_not_stored_are_not_forgotten(failures):
    async def go() -> None:
        kafka = filled(*plain(5))
        worker, _ = await started(kafka, new_store=lambda _table, _source: Stubborn())
        Stubborn.failures = failures
        await until(lambda: kafka.offsets.get(SOURCE) == 5)
        await asyncio.sleep(30)
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


def test_a_fenced_producer_writes_nothing_and_what_others_have_done_is_restored():
    async def go() -> None:
        kafka = filled(*plain(10))
        worker, work = await started(kafka)
        await all_done(kafka, worker)
        other, _ = await started(kafka)
        for number in range(10):
            kafka.put(SOURCE, b"k", b"%d" % number)
        await until(lambda: work.phase is Phase.FENCED or other.works[SOURCE].phase is Phase.FENCED)
        await other.stop()
        await until(lambda: work.phase is Phase.RUNNING)
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


@pytest.mark.parametrize("step", ["start", "read", "ensure"])
def test_when_others_were_here_and_looking_again_fails_the_old_state_is_not_believed(step):
    """Parked, worked on by another, assigned again; then the first attempt to open it fails halfway."""

    async def go() -> None:
        kafka = filled(*plain(10))
        worker, work = await started(kafka)
        await all_done(kafka, worker)
        await work.park()
        other, _ = await started(kafka)
        kafka.put(SOURCE, b"k0", b"100")
        await all_done(kafka, other)
        await other.stop()
        reads = kafka.steps.count("read")
        work.start()
        if step == "read":
            await until(lambda: kafka.steps.count("read") > reads, 5)
        kafka.fail(step, away())
        await asyncio.sleep(20)
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


def test_a_rebalance_waits_for_a_commit_under_way_and_keeps_the_state():
    async def go() -> None:
        kafka = filled(*plain(5))
        worker, work = await started(kafka)
        await until(lambda: "commit" in kafka.steps)
        await worker.revoke()
        assert work.phase is Phase.PARKED
        assert kafka.offsets[SOURCE] == work.committed == 5
        starts = kafka.steps.count("start")
        await worker.assign(SOURCE)
        await all_done(kafka, worker)
        assert kafka.steps.count("start") == starts, "the same producer goes on"
        await worker.stop()

    run(go())


@pytest.mark.parametrize("frozen_s", [1.0, 5.0])
def test_a_rebalance_waits_only_so_long_for_a_commit(frozen_s):
    async def go() -> None:
        kafka = filled(*plain(5))
        worker, _ = await started(kafka)
        await until(lambda: "offsets" in kafka.steps)
        worker.freeze()
        loop = asyncio.get_running_loop()
        loop.call_later(frozen_s, worker.wake)
        began = loop.time()
        await worker.revoke()
        assert loop.time() - began <= 2.1
        await worker.assign(SOURCE)
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


@pytest.mark.parametrize("delay_ms", range(0, 120, 3))
def test_wherever_a_rebalance_cuts_in_nothing_is_lost_or_doubled(delay_ms):
    async def go() -> None:
        kafka = filled(*plain(12), b"poison", *plain(5))
        worker, _ = await started(kafka)
        for _ in range(4):
            await asyncio.sleep(delay_ms / 1000)
            await worker.revoke()
            check(kafka, [SOURCE], [worker])
            await worker.assign(SOURCE)
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


def test_a_restore_that_fails_is_tried_until_it_succeeds_and_no_half_table_is_shown():
    async def go() -> None:
        kafka = filled(*plain(40))
        first, _ = await started(kafka)
        await all_done(kafka, first)
        await first.stop()
        worker, work = await started(kafka)
        await until(lambda: work.phase is Phase.RESTORING)
        kafka.fail("read", away(), away(), away(), away())
        while worker.engine.unready() is not None:
            assert SOURCE not in worker.rows.parts or worker.snapshot(SOURCE) == folded(kafka.logs[SOURCE], 40)
            await asyncio.sleep(0.01)
        assert work.phase is Phase.RUNNING
        assert worker.engine.unready() is None
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


def test_a_platform_error_that_may_pass_while_opening_is_waited_out_and_not_held():
    async def go() -> None:
        kafka = filled(b"1")
        kafka.fail("ensure", TransientError("Kafka is away"))
        worker, work = await started(kafka)
        phases = {work.phase async for _ in ticks(2)}
        assert Phase.HELD not in phases
        assert Phase.RETRYING in phases
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


async def ticks(seconds: float):
    for _ in range(int(seconds * 100)):
        await asyncio.sleep(0.01)
        yield


def test_the_committed_state_survives_a_kill_at_any_moment():
    async def go() -> None:
        kafka = filled(*plain(30))
        for delay_ms in range(60, 460, 7):
            worker, _ = await started(kafka)
            await asyncio.sleep(delay_ms / 1000)
            await worker.kill()
            check(kafka, [SOURCE])
            kafka.put(SOURCE, b"k", b"%d" % delay_ms)
        committed = kafka.offsets[SOURCE]
        worker, _ = await started(kafka)
        await all_done(kafka, worker)
        assert worker.consumer.seeks == [(SOURCE, committed)]
        assert changelog_rows(kafka, SOURCE) == worker.snapshot(SOURCE)
        await worker.stop()

    run(go())


def test_offsets_that_were_reset_fold_nothing_twice():
    """Somebody sets the group back: what was done is done again, as asked, but the tables know it."""

    async def go() -> None:
        kafka = filled(*plain(10))
        worker, _ = await started(kafka)
        await all_done(kafka, worker)
        before = worker.snapshot(SOURCE)
        await worker.stop()
        kafka.offsets[SOURCE] = 2
        again, _ = await started(kafka)
        await until(lambda: kafka.offsets[SOURCE] == 10)
        await asyncio.sleep(1)
        assert again.snapshot(SOURCE) == before
        await again.stop()

    run(go())


def test_a_gap_that_retention_has_cut_is_stepped_over_and_said(caplog):
    async def go() -> None:
        kafka = filled(*plain(10))
        kafka.offsets[SOURCE] = 2
        kafka.logs[SOURCE].start = 6
        worker, _ = await started(kafka)
        await until(lambda: kafka.offsets[SOURCE] == 10)
        assert worker.consumer.seeks == [(SOURCE, 6)]
        await worker.stop()

    run(go())
    assert "retention has removed offsets 2 to 5" in caplog.text


def test_a_partition_that_is_no_longer_ours_is_left_until_the_rebalance_says_so():
    async def go() -> None:
        kafka = filled(*plain(5))
        worker = Worker(kafka)
        await worker.engine.on_assigned({SOURCE})
        await asyncio.sleep(5)
        assert kafka.offsets == {}
        assert worker.works[SOURCE].phase is Phase.OPENING
        await worker.assign(SOURCE)
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


def test_a_revoked_generations_commit_is_no_news():
    """Errors of the group are the consumer's; the work goes on from what is committed."""

    async def go() -> None:
        kafka = filled(*plain(5))
        kafka.fail("offsets", UnknownMemberIdError())
        worker, _ = await started(kafka)
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


@pytest.mark.parametrize(
    "losses", [[True], [False, True], [False, True, True], [False, False, False, True], [True] * 4]
)
def test_a_batch_that_is_lost_on_its_way_is_read_again(losses):
    async def go() -> None:
        kafka = filled(*plain(20))
        worker = Worker(kafka)
        worker.losses = losses
        await worker.assign(SOURCE)
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


def test_partitions_that_are_assigned_again_without_being_revoked_are_worked_on_by_one_task():
    async def go() -> None:
        kafka = filled(*plain(20))
        worker, work = await started(kafka)
        first = work._task
        await asyncio.sleep(0.05)
        await worker.assign(SOURCE)
        assert first is not None
        assert first.done()
        assert work._task is not first
        with pytest.raises(RuntimeError, match="being worked on"):
            work.start()
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


def test_a_topic_made_anew_begins_with_empty_tables():
    async def go() -> None:
        kafka = filled(*plain(30))
        worker, _ = await started(kafka)
        await all_done(kafka, worker)
        await worker.revoke()
        # Kafka removes a group's offsets with the topic.
        kafka.logs[SOURCE].clear()
        kafka.logs["out", 0].clear()
        kafka.logs["out", 1].clear()
        del kafka.offsets[SOURCE]
        for number in range(4):
            kafka.put(SOURCE, b"k%d" % (number % 3), b"1")
        await worker.assign(SOURCE)
        await until(lambda: kafka.offsets.get(SOURCE) == 4)
        assert worker.snapshot(SOURCE) == folded(kafka.logs[SOURCE], 4)
        assert changelog_rows(kafka, SOURCE) == folded(kafka.logs[SOURCE], 4)
        await worker.stop()

    run(go())


def test_an_offset_beyond_the_end_of_the_log_holds_the_partition_until_somebody_sets_it():
    async def go() -> None:
        kafka = filled(*plain(6))
        kafka.offsets[SOURCE] = 9
        worker, work = await started(kafka)
        await until(lambda: work.phase is Phase.HELD)
        assert "beyond the end of the log, 6" in (work.error or "")
        for number in range(8):
            kafka.put(SOURCE, b"k", b"%d" % number)
        kafka.offsets[SOURCE] = 0
        await all_done(kafka, worker)
        await worker.stop()

    run(go())


def test_a_transaction_takes_no_more_than_it_may_however_much_is_in_hand():
    async def go() -> None:
        kafka = filled(*plain(400))
        pipeline = Folding()
        worker, _ = await started(kafka, pipeline, most=30, limits=Limits(batches=20, bytes=100_000))
        await all_done(kafka, worker)
        # A batch that begins within the bound is taken whole.
        assert max(map(len, pipeline.attempts)) <= PACE.records + 30
        await worker.stop()

    run(go())


def test_a_producer_that_cannot_even_be_stopped_ends_nothing(monkeypatch):
    async def go() -> None:
        kafka = filled(*plain(3))
        worker, _ = await started(kafka)
        await all_done(kafka, worker)

        async def fail(_: object) -> None:
            raise RuntimeError("a sender that was cancelled")

        with monkeypatch.context() as patch:
            patch.setattr(FakeProducer, "stop", fail)
            kafka.fail("commit", away())
            kafka.put(SOURCE, b"k", b"1")
            await all_done(kafka, worker)
        await worker.stop()

    run(go())


def test_a_cancellation_that_the_client_swallows_is_said_again(monkeypatch):
    async def go() -> None:
        kafka = filled(*plain(3))
        worker, work = await started(kafka)
        await all_done(kafka, worker)
        swallowed: list[bool] = []

        async def swallow(_: object) -> None:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                swallowed.append(True)

        monkeypatch.setattr(work, "_open", lambda: swallow(None))
        work.read_again("a batch was lost")
        await asyncio.sleep(0.5)
        async with asyncio.timeout(2):
            await work.park()
        assert swallowed
        await worker.stop()

    run(go())
