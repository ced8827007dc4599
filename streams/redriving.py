"""Redriving dead letters: each that is valid today is written to its event topic, exactly once, whoever asks for it.

Why exactly once, with any number of operators, crashes and retries:

1. Every run writes under one transactional id. Starting its producer ends all runs before it: none of them can commit
   any more, and what the last had begun is committed or aborted when the start returns (KIP-98).
2. Only then the run reads `platform.redrives`, up to a record that it has just written there itself. So it reads the
   last word of every earlier run; nobody but itself can add to it.
3. The events of a transaction and the list of their letters, in `platform.redrives`, are written together or not at
   all. So a letter is in the log exactly where its event is in its topic.
4. A letter that is in the log is never written again; one that is not, and is valid, is.
5. Where the outcome of a transaction is not known, all of this begins again with 1, which decides and shows it.

Were the log read before the start, a run that was still alive could redrive letters between the two.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Protocol

import msgspec

from streams.codecs import AvroCodec, Format
from streams.dead_letters import BREATH, UNREADABLE, LetterSummary, read_letter, summarised
from streams.domain.dead_letters import DeadLetter
from streams.domain.errors import (
    KafkaAccessError,
    KafkaUnavailableError,
    PlatformError,
    RecordRejectedError,
    RedriveSupersededError,
    RegistryAccessError,
    UnknownTopicError,
    UnsupportedFormatError,
)
from streams.domain.headers import CONTENT_TYPE, TRACEPARENT, header
from streams.domain.naming import DLQ, INGRESS, REDRIVES, api_topic
from streams.domain.redrive import LetterFilter, Pace, Place, Tally, redriven_headers, refusal
from streams.domain.redrive_log import (
    Ending,
    LettersRedriven,
    LogEntry,
    RedriveLog,
    RunFinished,
    RunStarted,
    encode_entry,
)
from streams.domain.retry import RetryPolicy
from streams.intake import read_ingress
from streams.kafka.batching.transactions import AbortedError, BrokenError, FencedError
from streams.kafka.consumer import Record
from streams.kafka.exclusive import ExclusiveWriter
from streams.kafka.producer import OutgoingRecord
from streams.publishing import Publisher, TopicCatalog, now_ms
from streams.registry import SchemaLoader
from streams.retrying import retrying
from streams.settings import Settings

log = logging.getLogger(__name__)

TRANSACTIONAL_ID: Final = "platform-redrive"
"""Not named for the app: there is one `platform.dlq` for all apps of a cluster, and one redrive of it at a time."""
MAX_LETTERS: Final = 200
"""How many letters one transaction redrives at most; at a low rate, no more than a second's worth."""
MAX_BYTES: Final = 4_194_304
"""How large the events of one transaction grow before it is committed."""
RETRY_FOR_S: Final = 60.0
"""How long a run tries again, without getting on, before it fails."""
SAMPLE: Final = 20
"""How many letters a dry run shows."""


class Writer(Protocol):
    """As `streams.kafka.exclusive.ExclusiveWriter`."""

    async def start(self) -> None:
        """End every earlier writer."""
        ...

    async def stop(self) -> None:
        """Let go of connections."""
        ...

    async def commit(self, records: Sequence[OutgoingRecord]) -> int:
        """Write all or nothing. Returns the offset after the last record."""
        ...


def redrive_writer(settings: Settings) -> Writer:
    """The writer of a redrive, not started."""
    return ExclusiveWriter(settings, TRANSACTIONAL_ID)


class Store(Protocol):
    """As `streams.dead_letters.LetterStore`."""

    def letters(self, wanted: LetterFilter) -> AsyncGenerator[list[Record]]:
        """The letters that may pass, oldest first."""
        ...

    async def redrive_log(self, end: int | None = None) -> RedriveLog:
        """What was redriven, up to an offset."""
        ...


class Intake:
    """What dead letters are, and the events that they become today."""

    def __init__(self, codec: AvroCodec, loader: SchemaLoader, catalog: TopicCatalog, publisher: Publisher) -> None:
        self._codec = codec
        self._loader = loader
        self._catalog = catalog
        self._publisher = publisher

    async def letter(self, record: Record) -> DeadLetter:
        """The letter in a record of `platform.dlq`. Raises as `read_letter`."""
        return await read_letter(record, self._codec, self._loader)

    async def event(self, place: Place, letter: DeadLetter) -> OutgoingRecord:
        """The record of `events.*` that the letter's record is, by today's rules and schema.

        Raises the PlatformError that says why it is none; a retriable one where it cannot be told now.
        """
        if letter.source_topic == INGRESS:
            # What the agent would make of it, the event id included.
            found = await read_ingress(_source(place, letter), self._catalog, self._publisher, certain=False)
        else:
            found = await self._stored(letter)
        record = msgspec.structs.replace(found, headers=redriven_headers(found.headers, place, letter))
        if record.bytes > record.max_bytes:
            raise RecordRejectedError(f"{record.topic} takes records of up to {record.max_bytes} bytes")
        return record

    async def _stored(self, letter: DeadLetter) -> OutgoingRecord:
        """For a record that was an event already, in wire format, when an agent could not take it."""
        topic = await self._catalog.require(api_topic(letter.source_topic))
        await self._publisher.prepare(topic)
        event = await self._publisher.read(letter.value or b"", Format.AVRO)
        try:
            format_ = Format.of(header(letter.headers, CONTENT_TYPE) or Format.AVRO)
        except UnsupportedFormatError:
            format_ = Format.AVRO
        return self._publisher.record(topic, event, format_, header(letter.headers, TRACEPARENT))


class Outcome(StrEnum):
    """What becomes of a letter that passes the filter."""

    REDRIVEN = "redriven"
    ALREADY_REDRIVEN = "already_redriven"
    INVALID = "invalid"
    REFUSED = "refused"


class Sample(msgspec.Struct):
    """A letter that a dry run has seen, and what would become of it."""

    outcome: Outcome
    code: str | None
    """Of its error, or its refusal."""
    detail: str | None
    letter: LetterSummary | None
    """None where the letter itself cannot be read."""
    partition: int
    offset: int


class Look(msgspec.Struct):
    """What a dry run found."""

    totals: Tally
    sample: list[Sample]
    complete: bool
    """False where it ended before all letters were seen, for want of time."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for."""

    run_id: str
    who: str
    started_at: int
    """Milliseconds since the Unix epoch."""
    filter: LetterFilter
    rate: float
    """Records a second."""
    limit: int | None = None
    """How many letters are redriven at most."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    place: Place
    outcome: Outcome
    code: str | None = None
    detail: str | None = None
    letter: DeadLetter | None = None
    record: OutgoingRecord | None = None


class Redriver:
    """Judges letters, and begins runs."""

    def __init__(
        self,
        store: Store,
        open_writer: Callable[[], Writer],
        intake: Intake,
        *,
        policy: RetryPolicy,
        max_replays: int,
        clock_ms: Callable[[], int] = now_ms,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.store = store
        self.open_writer = open_writer
        self.policy = replace(policy, deadline_s=RETRY_FOR_S)
        self.max_replays = max_replays
        self.clock_ms = clock_ms
        self.clock_s = clock_s
        self.sleep = sleep
        self._intake = intake

    def begin(self, order: Order) -> Redrive:
        """A run; its `work` is to be awaited."""
        return Redrive(self, order)

    async def look(self, wanted: LetterFilter, limit: int | None = None, *, within_s: float | None = None) -> Look:
        """What a run would do; nothing is written, and no run disturbed. Raises Kafka's and the registry's errors."""
        ends_at = float("inf") if within_s is None else self.clock_s() + within_s
        found = Look(Tally(), [], complete=True)
        known = await self.store.redrive_log()
        async with aclosing(self.letters(wanted)) as letters:
            async for record in letters:
                if limit is not None and found.totals.redriven >= limit:
                    break
                if self.clock_s() >= ends_at:
                    found.complete = False
                    break
                if (verdict := await self.judge(record, wanted, known)) is not None:
                    _count(found.totals, verdict)
                    if len(found.sample) < SAMPLE:
                        found.sample.append(_sample(record, verdict))
        return found

    async def letters(self, wanted: LetterFilter) -> AsyncGenerator[Record]:
        """The letters that may pass, one by one; now and then others get their turn on the event loop."""
        seen = 0
        async with aclosing(self.store.letters(wanted)) as batches:
            async for records in batches:
                for record in records:
                    yield record
                    seen += 1
                    if seen % BREATH == 0:
                        await asyncio.sleep(0)

    async def judge(self, record: Record, wanted: LetterFilter, known: RedriveLog) -> _Verdict | None:
        """What becomes of a record of `platform.dlq`; None where it does not pass. Raises what may pass later."""
        place = Place(record.partition, record.offset)
        try:
            letter = await self._intake.letter(record)
        except UNREADABLE as exc:
            # Nobody knows what is in it: it passes a filter that asks for nothing but what its headers tell.
            if wanted.event_topic is not None or wanted.from_ms is not None or wanted.to_ms is not None:
                return None
            return _Verdict(place, Outcome.INVALID, exc.code, str(exc))
        if not wanted.matches(place, letter):
            return None
        if (by := known.redriven.get(place)) is not None:
            return _Verdict(place, Outcome.ALREADY_REDRIVEN, None, f"by {by}", letter)
        if (why := refusal(letter, wanted, self.max_replays)) is not None:
            return _Verdict(place, Outcome.REFUSED, why.value, None, letter)
        try:
            event = await self._intake.event(place, letter)
        except (KafkaAccessError, RegistryAccessError):
            raise  # no fault of the letter
        except PlatformError as exc:
            if exc.retriable:
                raise
            return _Verdict(place, Outcome.INVALID, exc.code, str(exc), letter)
        except Exception as exc:
            log.exception("the dead letter %s cannot be judged", place)
            return _Verdict(place, Outcome.INVALID, PlatformError.code, f"{type(exc).__name__}: {exc}", letter)
        return _Verdict(place, Outcome.REDRIVEN, None, event.topic, letter, event)


class Redrive:
    """One run."""

    def __init__(self, redriver: Redriver, order: Order) -> None:
        self.order = order
        self.max_replays = redriver.max_replays
        self.began = asyncio.Event()
        """Set once its first record is in `platform.redrives`."""
        self.tally = Tally()
        """So far; what was redriven is committed."""
        self._redriver = redriver
        self._stop = asyncio.Event()
        self._writer = redriver.open_writer()
        self._pace = Pace(order.rate)
        self._size = min(MAX_LETTERS, max(1, int(order.rate)))
        self._commits = 0

    def stop(self) -> None:
        """End the run when the transaction that is under way, if one is, has ended."""
        self._stop.set()

    async def work(self) -> Tally:
        """Redrive. Raises RedriveSupersededError, or the error that ended the run; both leave the log true."""
        try:
            return await self._until_done()
        except FencedError as exc:
            raise RedriveSupersededError(
                "another redrive was started, or Kafka ended a transaction for its age; what was written counts"
            ) from exc
        except RedriveSupersededError:
            raise
        except BrokenError as exc:
            raise KafkaUnavailableError(str(exc)) from exc
        except Exception as exc:
            await self._say_failed(exc)
            raise
        finally:
            await self._writer.stop()

    async def _until_done(self) -> Tally:
        """Pass after pass until one comes to its end, as long as errors may pass and runs get on."""
        clock = self._redriver.clock_s
        failures, since, commits = 0, clock(), 0
        while True:
            try:
                return await self._pass()
            except Exception as exc:
                if not isinstance(exc, BrokenError) and not (isinstance(exc, PlatformError) and exc.retriable):
                    raise
                if self._commits != commits:
                    failures, since, commits = 0, clock(), self._commits
                failures += 1
                delay = self._redriver.policy.delay_s(failures, clock() - since, random.random())
                if delay is None or self._stop.is_set():
                    raise
                log.warning("the redrive %s starts over: %s", self.order.run_id, exc)
                await self._writer.stop()
                await self._redriver.sleep(delay)

    async def _check_newest(self) -> None:
        """Starting over must not end a run that was started meanwhile: two would end each other for ever."""
        if self.began.is_set() and (await self._redriver.store.redrive_log()).was_superseded(self.order.run_id):
            raise RedriveSupersededError("another redrive was started; what was written counts")

    async def _pass(self) -> Tally:
        """Once through the letters, in the order that the module's docstring explains."""
        order, store = self.order, self._redriver.store
        await self._check_newest()
        await self._writer.start()
        end = await self._commit([self._entry(RunStarted(**self._facts(), **self._bounds()))])
        known = await store.redrive_log(end)
        self.began.set()
        tally = self.tally = Tally(redriven=known.runs[order.run_id].redriven)
        batch: list[tuple[Place, OutgoingRecord]] = []
        async with aclosing(self._redriver.letters(order.filter)) as letters:
            async for record in letters:
                if self._stop.is_set() or self._is_enough(len(batch)):
                    break
                verdict = await self._judge(record, known)
                if verdict is None or known.redriven.get(verdict.place) == order.run_id:
                    continue  # what this run has redriven before it started over is counted already
                if verdict.record is None:
                    _count(tally, verdict)
                    continue
                batch.append((verdict.place, verdict.record))
                if self._is_full(batch) or self._is_enough(len(batch)):
                    await self._redrive(batch)
                    batch = []
        if batch:
            await self._redrive(batch)
        ending = Ending.STOPPED if self._stop.is_set() else Ending.COMPLETED
        await self._commit([self._finished(ending)])
        return tally

    def _is_full(self, batch: list[tuple[Place, OutgoingRecord]]) -> bool:
        return len(batch) >= self._size or sum(record.bytes for _, record in batch) >= MAX_BYTES

    def _is_enough(self, in_hand: int) -> bool:
        return self.order.limit is not None and self.tally.redriven + in_hand >= self.order.limit

    async def _judge(self, record: Record, known: RedriveLog) -> _Verdict | None:
        return await retrying(
            lambda: self._redriver.judge(record, self.order.filter, known),
            self._redriver.policy,
            on_retry=lambda error, so_far: log.warning("attempt %d to read a dead letter failed: %s", so_far, error),
        )

    async def _redrive(self, batch: list[tuple[Place, OutgoingRecord]]) -> None:
        """Write the events and the record of their letters, when the rate allows it; not if the run is to stop."""
        delay = self._pace.delay_s(len(batch), self._redriver.clock_s())
        if delay > 0:
            await self._wait(delay)
        if not self._stop.is_set():
            await self._write(batch)

    async def _wait(self, seconds: float) -> None:
        # Whatever comes first; a slow rate must not hold up a stop.
        waiting = {asyncio.ensure_future(self._redriver.sleep(seconds)), asyncio.ensure_future(self._stop.wait())}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _write(self, batch: list[tuple[Place, OutgoingRecord]]) -> None:
        places = tuple(place for place, _ in batch)
        entry = LettersRedriven(**self._facts(), at=self._redriver.clock_ms(), letters=places)
        try:
            await self._commit([*(record for _, record in batch), self._entry(entry)])
        except (RecordRejectedError, UnknownTopicError) as exc:
            # Kafka does not say which of them it will never take: halves, down to that one.
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
            else:
                self.tally.add_invalid(exc.code)
        else:
            self.tally.redriven += len(batch)

    async def _commit(self, records: list[OutgoingRecord]) -> int:
        end = await retrying(
            lambda: self._writer.commit(records),
            self._redriver.policy,
            on_retry=lambda error, so_far: log.warning("attempt %d to redrive failed: %s", so_far, error),
        )
        self._commits += 1
        return end

    async def _say_failed(self, error: Exception) -> None:
        if not self.began.is_set():
            return
        code = error.code if isinstance(error, PlatformError) else PlatformError.code
        try:
            await self._writer.commit([self._finished(Ending.FAILED, code)])
        except (FencedError, BrokenError, AbortedError, PlatformError) as exc:
            log.warning("the end of the redrive %s could not be recorded: %s", self.order.run_id, exc)

    def _finished(self, ending: Ending, error: str | None = None) -> OutgoingRecord:
        at = self._redriver.clock_ms()
        return self._entry(RunFinished(**self._facts(), at=at, ending=ending, totals=self.tally, error=error))

    def _facts(self) -> dict[str, Any]:
        order = self.order
        return {"run_id": order.run_id, "who": order.who, "started_at": order.started_at, "filter": order.filter}

    def _bounds(self) -> Mapping[str, Any]:
        return {"rate": self.order.rate, "limit": self.order.limit, "max_replays": self.max_replays}

    def _entry(self, entry: LogEntry) -> OutgoingRecord:
        return OutgoingRecord(REDRIVES, self.order.run_id.encode(), encode_entry(entry))


def _count(tally: Tally, verdict: _Verdict) -> None:
    match verdict.outcome:
        case Outcome.REDRIVEN:
            tally.redriven += 1
        case Outcome.ALREADY_REDRIVEN:
            tally.already_redriven += 1
        case Outcome.INVALID:
            tally.add_invalid(verdict.code or PlatformError.code)
        case Outcome.REFUSED:
            tally.add_refused(verdict.code or "")


def _sample(record: Record, verdict: _Verdict) -> Sample:
    summary = None if verdict.letter is None else summarised(record, verdict.letter)
    return Sample(verdict.outcome, verdict.code, verdict.detail, summary, record.partition, record.offset)


def _source(place: Place, letter: DeadLetter) -> Record:
    """The record as it was read when it failed; one that never reached Kafka is known by its letter's place."""
    topic, partition, offset = letter.source_topic, letter.source_partition, letter.source_offset
    if partition is None or offset is None:
        topic, partition, offset = DLQ, place.partition, place.offset
    return Record(topic, partition, offset, letter.failed_at, letter.key, letter.value, letter.headers)
