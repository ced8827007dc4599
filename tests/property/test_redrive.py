"""Redriving: several operators at once, crashes at every step, transactions whose outcome nobody knows.

The real runs (`streams.redriving`) work on a broker of memory that keeps what Kafka promises of transactions: whoever
starts a writer ends the earlier ones, a transaction is visible as a whole or not at all, and one whose commit was asked
for may be committed until the next start, unknown to who asked.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streams.domain.dead_letters import DeadLetter
from streams.domain.errors import InvalidEventError, KafkaUnavailableError, RedriveSupersededError
from streams.domain.headers import DLQ_ORIGIN, header
from streams.domain.naming import DLQ, INGRESS, REDRIVES
from streams.domain.redrive import LetterFilter, Place, Tally
from streams.domain.redrive_log import LettersRedriven, RedriveLog, RunFinished, RunState, decode_entry
from streams.domain.retry import RetryPolicy
from streams.kafka.batching.transactions import BrokenError, FencedError
from streams.kafka.consumer import Record
from streams.kafka.producer import OutgoingRecord
from streams.redriving import Intake, Order, Redriver

AT_ONCE = RetryPolicy(1e-6, 1e-6)
MAX_REPLAYS = 2
VALID, INVALID, LOOPING = "valid", "invalid", "looping"
PARTITIONS = 2


@dataclass
class Gate:
    """Where an operator waits for the machine to say what happens to its call."""

    call: str
    outcome: asyncio.Future[str]


@dataclass
class Transaction:
    epoch: int
    records: Sequence[OutgoingRecord]


@dataclass
class Broker:
    """Kafka, as far as a redrive knows it."""

    letters: dict[Place, str] = field(default_factory=dict)
    events: list[Place] = field(default_factory=list)
    """The letters that the visible events came from."""
    log: list[tuple[int, bytes]] = field(default_factory=list)
    end: int = 0
    epoch: int = 0
    in_doubt: Transaction | None = None
    """A commit that is still on its way to the coordinator."""

    def start(self) -> int:
        self.in_doubt = None
        self.epoch += 1
        return self.epoch

    def commit(self, transaction: Transaction) -> int:
        if transaction.epoch != self.epoch:
            raise FencedError("another writer was started")
        for record in transaction.records:
            if record.topic == REDRIVES:
                self.log.append((self.end, record.value or b""))
                self.end += 1
            else:
                self.events.append(Place.parse(header(record.headers, DLQ_ORIGIN) or ""))
        end = self.end
        self.end += 1  # the marker
        return end


class ModelIntake(Intake):
    """A letter's reason says what it is."""

    def __init__(self) -> None:
        pass

    async def letter(self, record: Record) -> DeadLetter:
        kind = (record.value or b"").decode()
        replays = MAX_REPLAYS if kind == LOOPING else 0
        return DeadLetter(kind, "", INGRESS, 0, record.offset, 1, replays, 0, b"k", b"v", ())

    async def event(self, place: Place, letter: DeadLetter) -> OutgoingRecord:
        if letter.reason == INVALID:
            raise InvalidEventError([])
        return OutgoingRecord("events.iot", b"k", b"event", ((DLQ_ORIGIN, str(place).encode()),))


class Operator:
    """One run, its writer and its view of the topics: each call waits at the gate."""

    def __init__(self, broker: Broker, number: int, rate: float, limit: int | None) -> None:
        self.broker = broker
        self.epoch = 0
        self.gate: Gate | None = None
        self.seen: dict[Place, str] = {}
        redriver = Redriver(
            self, lambda: self, ModelIntake(), policy=AT_ONCE, max_replays=MAX_REPLAYS,
            clock_ms=lambda: 0, clock_s=lambda: 0.0, sleep=lambda _: asyncio.sleep(0),
        )  # fmt: skip
        self.run = redriver.begin(Order(f"run-{number}", "me", 0, LetterFilter(), rate, limit))
        self.task = asyncio.get_running_loop().create_task(self.run.work())

    async def _at_gate(self, call: str) -> str:
        self.gate = Gate(call, asyncio.get_running_loop().create_future())
        try:
            outcome = await self.gate.outcome
        finally:
            self.gate = None
        if outcome == "unavailable":
            raise KafkaUnavailableError("away")
        return outcome

    async def start(self) -> None:
        await self._at_gate("start")
        self.epoch = self.broker.start()

    async def stop(self) -> None:
        self.epoch = 0

    async def commit(self, records: Sequence[OutgoingRecord]) -> int:
        transaction = Transaction(self.epoch, list(records))
        match await self._at_gate("redrive" if len(records) > 1 else "commit"):
            case "never arrives":
                raise BrokenError("no answer")
            case "answer is lost":
                self.broker.commit(transaction)
                raise BrokenError("no answer")
            case "arrives late":
                self.broker.in_doubt = transaction if transaction.epoch == self.broker.epoch else None
                raise BrokenError("no answer")
            case _:
                return self.broker.commit(transaction)

    async def redrive_log(self, end: int | None = None) -> RedriveLog:
        log = RedriveLog()
        await self._at_gate("log")
        for offset, value in self.broker.log:
            if end is None or offset < end:
                log.add(value)
        return log

    async def letters(self, wanted: LetterFilter) -> AsyncGenerator[list[Record]]:
        await self._at_gate("letters")
        self.seen = dict(self.broker.letters)
        for place, kind in sorted(self.seen.items()):
            yield [Record(DLQ, *place, 0, b"k", kind.encode(), ())]


DOUBTFUL = ("never arrives", "answer is lost", "arrives late")
OUTCOMES = {
    "start": ("ok", "unavailable"),
    "commit": ("ok", "unavailable", *DOUBTFUL),
    "redrive": ("ok", "unavailable", *DOUBTFUL),
    "log": ("ok", "unavailable"),
    "letters": ("ok", "unavailable"),
}


class Redriving(RuleBasedStateMachine):
    """Any number of operators, in any order, and whatever may happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.broker = Broker()
        self.operators: list[Operator] = []
        self.started = 0

    @initialize(kinds=st.lists(st.sampled_from([VALID, VALID, VALID, INVALID, LOOPING]), min_size=3, max_size=8))
    def fill(self, kinds):
        for kind in kinds:
            self.add_letter(kind)

    @rule(kind=st.sampled_from([VALID, INVALID, LOOPING]))
    def add_letter(self, kind):
        number = len(self.broker.letters)
        self.broker.letters[Place(number % PARTITIONS, number // PARTITIONS)] = kind

    @precondition(lambda self: len(self.operators) < 3)
    @rule(rate=st.sampled_from([1.0, 2.0, 3.0, 1_000.0]), limit=st.sampled_from([None, None, 1, 3]))
    def begin(self, rate, limit):
        self.started += 1
        self._settle(self._begin(rate, limit))

    @precondition(lambda self: self.operators)
    @rule(data=st.data())
    def let_one_go_on(self, data):
        operator = data.draw(st.sampled_from(self.operators), label="operator")
        assert operator.gate is not None
        self._release(operator, data.draw(st.sampled_from(OUTCOMES[operator.gate.call]), label=operator.gate.call))

    @precondition(lambda self: self.operators)
    @rule(data=st.data(), steps=st.integers(2, 12))
    def let_one_go_on_for_long(self, data, steps):
        operator = data.draw(st.sampled_from(self.operators), label="operator")
        for _ in range(steps):
            if operator in self.operators:
                self._release(operator, "ok")

    @rule(data=st.data(), redrives=st.integers(0, 2), then=st.sampled_from(["killed", "nothing", "undisturbed"]))
    def disturb_a_redrive(self, data, redrives, then):
        """All is well up to a transaction that redrives letters; and then something happens to it."""
        if not self.operators:
            self.begin(1.0, None)
        operator = data.draw(st.sampled_from(self.operators), label="operator")
        while operator in self.operators:
            assert operator.gate is not None
            if operator.gate.call == "redrive":
                if redrives == 0:
                    outcome = data.draw(st.sampled_from(("unavailable", *DOUBTFUL)), label="outcome")
                    (self._kill if then == "killed" else self._release)(operator, outcome)
                    break
                redrives -= 1
            self._release(operator, "ok")
        while then == "undisturbed" and operator in self.operators:
            self._release(operator, "ok")

    @precondition(lambda self: self.operators)
    @rule(data=st.data())
    def kill(self, data):
        """A process dies before its call, after it, or while it is on its way."""
        operator = data.draw(st.sampled_from(self.operators), label="operator")
        assert operator.gate is not None
        outcome = data.draw(st.sampled_from(OUTCOMES[operator.gate.call]), label=operator.gate.call)
        self._kill(operator, outcome)

    @precondition(lambda self: self.broker.in_doubt is not None)
    @rule()
    def the_late_commit_arrives(self):
        transaction, self.broker.in_doubt = self.broker.in_doubt, None
        assert transaction is not None
        self.broker.commit(transaction)

    @precondition(lambda self: self.operators)
    @rule(data=st.data())
    def ask_one_to_stop(self, data):
        data.draw(st.sampled_from(self.operators), label="operator").run.stop()

    @invariant()
    def no_letter_is_redriven_twice_and_the_log_says_which(self):
        assert max(Counter(self.broker.events).values(), default=0) <= 1
        entries = [decode_entry(value) for _, value in self.broker.log]
        told = [place for entry in entries if isinstance(entry, LettersRedriven) for place in entry.letters]
        assert sorted(told) == sorted(self.broker.events)
        assert all(self.broker.letters[place] == VALID for place in self.broker.events)
        log = RedriveLog()
        for _, value in self.broker.log:
            log.add(value)
        for run in log.runs.values():
            assert run.totals is None or run.totals.redriven == run.redriven

    def teardown(self):
        """However it has come to this: one more operator, undisturbed, and all is done."""
        try:
            for operator in self.operators:
                operator.task.cancel()
            self._settle()
            self._settle(self._begin(1_000.0, None))
            [last] = self.operators
            while self.operators:
                self._release(last, "ok")
            self.no_letter_is_redriven_twice_and_the_log_says_which()
            kinds = Counter(self.broker.letters.values())
            assert len(self.broker.events) == kinds[VALID]
            tally = last.task.result()
            assert tally.redriven + tally.already_redriven == kinds[VALID]
            assert (sum(tally.invalid.values()), sum(tally.refused.values())) == (kinds[INVALID], kinds[LOOPING])
            finished = decode_entry(self.broker.log[-1][1])
            assert isinstance(finished, RunFinished)
            assert finished.totals == tally
        finally:
            self.loop.close()

    async def _begin(self, rate: float, limit: int | None) -> None:
        self.operators.append(Operator(self.broker, self.started, rate, limit))

    def _kill(self, operator: Operator, outcome: str) -> None:
        assert operator.gate is not None
        operator.gate.outcome.set_result(outcome)
        self.loop.run_until_complete(asyncio.sleep(0))  # the call has its effect, and nobody learns of it
        operator.task.cancel()
        self._settle()

    def _release(self, operator: Operator, outcome: str) -> None:
        assert operator.gate is not None
        operator.gate.outcome.set_result(outcome)
        self._settle()

    def _settle(self, first=None) -> None:
        """Let every operator run until it waits at its gate, or has ended."""

        async def settle() -> None:
            if first is not None:
                await first
            for _ in range(10_000):
                if all(o.task.done() or (o.gate is not None and not o.gate.outcome.done()) for o in self.operators):
                    return
                await asyncio.sleep(0)
            raise AssertionError("an operator neither waits nor ends")

        self.loop.run_until_complete(settle())
        for operator in [o for o in self.operators if o.task.done()]:
            self.operators.remove(operator)
            self._check_end(operator)

    def _check_end(self, operator: Operator) -> None:
        if operator.task.cancelled():
            return
        error = operator.task.exception()
        if error is not None:
            assert isinstance(error, RedriveSupersededError | KafkaUnavailableError), error
            return
        order, tally = operator.run.order, operator.task.result()
        log = RedriveLog()
        for _, value in self.broker.log:
            log.add(value)
        run = log.runs[order.run_id]
        assert run.totals == tally
        assert order.limit is None or tally.redriven <= order.limit
        if run.state is RunState.COMPLETED and (order.limit is None or tally.redriven < order.limit):
            # It has come to the end of what there was when it began.
            valid = {place for place, kind in operator.seen.items() if kind == VALID}
            assert valid <= set(self.broker.events)


TestRedriving = pytest.mark.timeout(300)(Redriving.TestCase)
TestRedriving.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_tally_counts_every_letter_once():
    tally = Tally(2, 3, {"invalid_event": 4}, {"source": 5})
    assert tally.letters == 14
