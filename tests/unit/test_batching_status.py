"""How the work stands, as health and metrics tell it."""

from __future__ import annotations

import asyncio

import pytest

from streams.kafka.batching import PartitionStatus, Phase, Source, complaint
from tests.batching_kafka import Folding, Kafka, TransientError, Worker, away, run, until, use

SOURCE, OTHER = Source("in", 0), Source("in", 1)
STALL_S = 60.0


def status(phase: Phase, still_s: float = 0, committed: int | None = 5, end: int | None = 5) -> PartitionStatus:
    return PartitionStatus(SOURCE, "folding", phase, committed, end, end, still_s, None, "why")


def test_what_an_open_transaction_of_others_holds_back_is_no_stall():
    it = PartitionStatus(SOURCE, "folding", Phase.RUNNING, 5, 50, 5, 1_000, None, None)
    assert it.lag == 45
    assert complaint(it, STALL_S) is None


@pytest.mark.parametrize(
    ("it", "says"),
    [
        (status(Phase.RUNNING), None),
        (status(Phase.RUNNING, 1_000), None),
        (status(Phase.RUNNING, 1_000, end=None), None),
        (status(Phase.RUNNING, 1_000, committed=7), None),
        (status(Phase.RUNNING, 59, end=9), None),
        (status(Phase.RUNNING, 60, end=9), "in[0] stands still for 60 s, 4 offsets behind"),
        (status(Phase.RETRYING, 59), None),
        (status(Phase.RETRYING, 61), "in[0] is retrying for 61 s: why"),
        (status(Phase.RESTORING, 61), "in[0] is restoring for 61 s: why"),
        (status(Phase.PARKED, 61), "in[0] is parked for 61 s: why"),
        (status(Phase.FENCED), "in[0] is fenced: why"),
        (status(Phase.HELD), "in[0] is held: why"),
    ],
)
def test_complaints_are_of_what_does_not_go_on(it, says):
    assert complaint(it, STALL_S) == says


@pytest.mark.parametrize(
    ("committed", "end", "lag"), [(None, 5, None), (5, None, None), (5, 9, 4), (9, 5, 0), (5, 5, 0)]
)
def test_the_lag_is_never_negative_and_unknown_while_its_ends_are(committed, end, lag):
    assert status(Phase.RUNNING, 0, committed, end).lag == lag


pytestmark = pytest.mark.usefixtures("_memory")


@pytest.fixture
def _memory(monkeypatch):
    use(monkeypatch)


def test_a_worker_is_ready_once_all_of_its_parts_are_complete_and_not_before():
    async def go() -> None:
        kafka = Kafka()
        worker = Worker(kafka)
        assert worker.engine.unready() == "no partitions are assigned yet"
        await worker.assign(SOURCE, OTHER)
        assert worker.engine.unready() == "in[0] is opening, and 1 more partitions are not open"
        assert not worker.rows.parts
        await until(lambda: worker.engine.unready() is None)
        assert set(worker.rows.parts) == {SOURCE, OTHER}
        await worker.revoke()
        assert "parked" in str(worker.engine.unready())
        await worker.assign(OTHER)
        await until(lambda: worker.engine.unready() is None)
        assert set(worker.rows.parts) == {OTHER}
        await worker.stop()
        assert not worker.rows.parts

    run(go())


def test_a_partition_with_nothing_to_do_is_never_complained_of_and_one_that_is_stuck_is():
    async def go() -> None:
        kafka = Kafka()
        pipeline = Folding()
        worker = Worker(kafka, pipeline)
        await worker.assign(SOURCE)
        await asyncio.sleep(1_000)
        assert worker.engine.complaints(STALL_S) == []
        pipeline.errors = [TransientError("away")] * 1_000
        kafka.put(SOURCE, b"k", b"1")
        await asyncio.sleep(50)
        assert worker.engine.complaints(STALL_S) == []
        await asyncio.sleep(15)
        [complaint_] = worker.engine.complaints(STALL_S)
        assert complaint_.endswith("s: away")
        [it] = worker.engine.status()
        assert (it.phase, it.lag, it.pipeline) == (Phase.RETRYING, 1, "folding")
        pipeline.errors.clear()
        await until(lambda: worker.engine.complaints(STALL_S) == [])
        await asyncio.sleep(1_000)
        assert worker.engine.complaints(STALL_S) == []
        assert worker.engine.counts() == {SOURCE: (1, 1)}
        await worker.stop()

    run(go())


def test_a_partition_that_is_always_behind_but_moves_is_not_complained_of():
    async def go() -> None:
        kafka = Kafka()
        worker = Worker(kafka)
        await worker.assign(SOURCE)
        for number in range(700):
            kafka.put(SOURCE, b"k", b"%d" % number)
            await asyncio.sleep(0.03)
            if number > 20:
                [it] = worker.engine.status()
                assert it.lag
                assert worker.engine.complaints(5) == []
        await worker.stop()

    run(go())


def test_more_records_behind_one_that_is_stuck_do_not_make_it_look_alive():
    async def go() -> None:
        kafka = Kafka()
        pipeline = Folding()
        worker = Worker(kafka, pipeline)
        await worker.assign(SOURCE)
        await until(lambda: worker.engine.unready() is None)
        pipeline.errors = [TransientError("away")] * 1_000
        for _ in range(9):
            kafka.put(SOURCE, b"k", b"1")
            await asyncio.sleep(10)
        assert worker.engine.complaints(STALL_S) != []
        await worker.stop()

    run(go())


def test_a_restore_that_does_not_end_is_seen_with_what_is_left_of_it():
    async def go() -> None:
        kafka = Kafka()
        log = kafka.logs["group-rows-changelog", 0]
        log.add(("group-rows-changelog", 0), key=b"in|k", value=b"x", status="open")
        worker = Worker(kafka)
        await worker.assign(SOURCE)
        await asyncio.sleep(61)
        [it] = worker.engine.status()
        assert (it.phase, it.restoring) == (Phase.RESTORING, 1)
        assert worker.engine.complaints(STALL_S) != []
        await worker.stop()

    run(go())


@pytest.mark.parametrize("ends", ["stop", "revoke"])
def test_stopping_waits_for_a_commit_under_way_and_never_hangs_on_kafka(ends):
    async def go() -> None:
        kafka = Kafka()
        for number in range(5):
            kafka.put(SOURCE, b"k", b"%d" % number)
        worker = Worker(kafka)
        await worker.assign(SOURCE)
        await until(lambda: "begin" in kafka.steps)
        began = asyncio.get_running_loop().time()
        await (worker.engine.stop() if ends == "stop" else worker.revoke())
        assert kafka.offsets[SOURCE] == 5
        assert asyncio.get_running_loop().time() - began < 0.5
        kafka.put(SOURCE, b"k", b"9")
        kafka.fail("start", *[away()] * 1_000)
        again = Worker(kafka)
        await again.assign(SOURCE)
        await asyncio.sleep(30)
        began = asyncio.get_running_loop().time()
        await again.stop()
        assert asyncio.get_running_loop().time() - began < 0.5
        await worker.kill()

    run(go())


@pytest.mark.parametrize("step", ["commit", "offsets", "start"])
def test_a_partition_that_opens_again_and_again_and_gets_nothing_done_is_complained_of(step):
    async def go() -> None:
        kafka = Kafka()
        worker = Worker(kafka)
        await worker.assign(SOURCE)
        await until(lambda: worker.engine.unready() is None)
        kafka.put(SOURCE, b"k", b"1")
        kafka.fail(step, *[away()] * 10_000)
        if step == "start":
            kafka.fail("commit", away())
        await asyncio.sleep(STALL_S + 10)
        assert worker.engine.complaints(STALL_S) != []
        kafka.faults.clear()
        await until(lambda: worker.engine.complaints(STALL_S) == [])
        await worker.stop()

    run(go())
