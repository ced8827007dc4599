"""Storing valid events: each once, with the outcome of each, and a dead letter for what Kafka will never take."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TypeGuard

import msgspec

from streams.codecs import HEADER_BYTES, AvroCodec
from streams.domain.dead_letters import bury
from streams.domain.errors import (
    IdempotencyConflictError,
    KafkaAccessError,
    KafkaUnavailableError,
    PlatformError,
    RecordRejectedError,
    UnavailableError,
)
from streams.domain.naming import DLQ
from streams.domain.receipts import Receipts, Taken, fingerprint
from streams.kafka.producer import EventProducer
from streams.kafka.sending import MAX_DEAD_LETTER_BYTES, OutgoingRecord, Receipt, Sending, all_settled
from streams.settings import Settings


class Offer(msgspec.Struct, gc=False):
    """An event to be stored."""

    record: OutgoingRecord
    identities: Sequence[Hashable] = ()
    """What a repetition would be known by: its topic and the id that the client gave it, or a key; none: never."""
    content: bytes | None = None
    """What a repetition must be equal in; None: the record's value."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """All in-sync replicas have the event."""

    receipt: Receipt
    duplicate: bool
    """Whether it had been stored before, under this receipt."""


class Buried(msgspec.Struct, frozen=True, gc=False):
    """Kafka will never take the event; its bytes are in `platform.dlq`."""

    error: PlatformError
    letter: Receipt


Outcome = Stored | Buried | PlatformError


class _Promise(msgspec.Struct, gc=False):
    """The outcome of one record of a sending. There are very many, for long: the collector of cycles must not walk them."""

    sending: Sending | None = None
    """None until the record is submitted, which is in the same turn; and when the outcome is known."""
    index: int = 0
    receipt: Receipt | None = None
    failed: bool = False
    """Whether it could not be submitted, or nothing came of it."""

    @property
    def outcome(self) -> Receipt | PlatformError | None:
        """What became of it; None while it is not known."""
        return self.receipt if self.sending is None else self.sending.outcomes[self.index]

    @property
    def pending(self) -> Sending | None:
        """What is to be waited for; None once the outcome is known, whatever becomes of the sending's other records."""
        return self.sending if self.outcome is None else None

    @property
    def is_void(self) -> bool:
        """Whether nothing came of it: the same event, or another one, is then a new one."""
        return self.failed or isinstance(self.outcome, PlatformError)

    def keep(self) -> None:
        """Keep of a known outcome what is asked for later."""
        outcome = self.outcome
        if isinstance(outcome, Receipt):
            self.receipt, self.sending = outcome, None
        elif outcome is not None:
            self.failed, self.sending = True, None


class Submission:
    """Events that were handed over together, and what stands for the outcome of each."""

    __slots__ = ("_conflicts", "_new", "_promises", "offers")

    def __init__(
        self,
        offers: Sequence[Offer],
        promises: Sequence[_Promise],
        new: Collection[int],
        conflicts: Mapping[int, IdempotencyConflictError],
    ) -> None:
        self.offers = offers
        self._promises = promises
        self._new = new
        self._conflicts = conflicts

    def sendings(self) -> Collection[Sending]:
        """What is to be waited for: ours, and those of others that have the same events."""
        return {id(pending): pending for promise in self._promises if (pending := promise.pending) is not None}.values()

    @property
    def sending(self) -> Sending | None:
        """What is to be waited for, of one event."""
        return self._promises[0].pending

    def outcomes(self) -> list[Outcome]:
        """What became of each, as far as is known now. Ask once."""
        found = [
            self._conflicts[place]
            if place in self._conflicts
            else _outcome(promise, is_duplicate=place not in self._new)
            for place, promise in enumerate(self._promises)
        ]
        for promise in self._promises:
            promise.keep()
        return found


class EventStore:
    """Writes events to `events.*`. What it remembers of them is this worker's own."""

    def __init__(
        self,
        settings: Settings,
        producer: EventProducer,
        codec: AvroCodec,
        dead_letter_schema: Callable[[], int | None],
    ) -> None:
        self._producer = producer
        self._codec = codec
        self._dead_letter_schema = dead_letter_schema
        self._receipts: Receipts[_Promise] = Receipts(settings.idempotency_window_s, settings.idempotency_max_ids)

    async def store(self, offers: Sequence[Offer], deadline: float) -> list[Outcome]:
        """Store events of one topic, and say what became of each, in order; by the deadline (the loop's time).

        An event that is on its way already is waited for, and not sent again. Raises OverloadedError,
        KafkaUnavailableError or UnknownTopicError where nothing was done.
        """
        if not offers:
            return []
        await self._producer.prepare({offer.record.topic for offer in offers}, deadline)
        submission = self.submit(offers)
        await all_settled(submission.sendings(), deadline)
        return await self.buried(submission, submission.outcomes(), deadline)

    def submit(self, offers: Sequence[Offer]) -> Submission:
        """Hand the events over; their topics are prepared. Wait at once for the sendings of what is returned.

        Raises OverloadedError or KafkaUnavailableError where nothing was done.
        """
        # In one turn of the event loop, so that what is not found here is not sent by anybody else either.
        promises, new, conflicts = self._claim(offers)
        try:
            sending = self._producer.submit([offer.record for offer in new.values()])
        except BaseException:
            for place in new:
                promises[place].failed = True
            raise
        for index, place in enumerate(new):
            promise = promises[place]
            promise.sending, promise.index = sending, index
        return Submission(offers, promises, new.keys(), conflicts)

    def _claim(
        self, offers: Sequence[Offer]
    ) -> tuple[list[_Promise], dict[int, Offer], dict[int, IdempotencyConflictError]]:
        """For each offer what stands for its outcome; those that are new; and those whose id means something else."""
        now = time.monotonic()
        promises: list[_Promise] = []
        new: dict[int, Offer] = {}
        conflicts: dict[int, IdempotencyConflictError] = {}
        for place, offer in enumerate(offers):
            promise: _Promise | None = None
            content = b""
            if offer.identities:
                content = fingerprint(_content(offer))
                try:
                    promise = self._find(offer.identities, content, now)
                except IdempotencyConflictError as exc:
                    conflicts[place] = exc
                    promises.append(_Promise())
                    continue
            is_new = promise is None
            if promise is None:
                promise = _Promise()
                new[place] = offer
            for identity in offer.identities:
                # A key that comes with an event that was stored before stands for it from now on.
                if is_new or self._taken(identity, now) is None:
                    self._receipts.remember(identity, content, promise, now)
            promises.append(promise)
        return promises, new, conflicts

    def _find(self, identities: Sequence[Hashable], content: bytes, now: float) -> _Promise | None:
        """The promise of the same event, None for a new one. Raises IdempotencyConflictError.

        All identities are looked at: one of them may mean another event.
        """
        found: _Promise | None = None
        for identity in identities:
            if (taken := self._taken(identity, now)) is not None:
                if taken.fingerprint != content:
                    raise IdempotencyConflictError
                found = taken.promise
        return found

    def _taken(self, identity: Hashable, now: float) -> Taken[_Promise] | None:
        """The event that an identity stands for; what was not stored binds none."""
        taken = self._receipts.find(identity, now)
        return None if taken is None or taken.promise.is_void else taken

    async def buried(self, submission: Submission, outcomes: list[Outcome], deadline: float) -> list[Outcome]:
        """The outcomes, once it is kept what Kafka will never take: too large, or to a topic that we may not write to."""
        refused = [(place, outcome) for place, outcome in enumerate(outcomes) if is_for_ever(outcome)]
        if refused:
            letters = [self._letter(submission.offers[place].record, error) for place, error in refused]
            kept = await self._keep(letters, deadline)
            for (place, error), letter in zip(refused, kept, strict=True):
                outcomes[place] = Buried(error, letter) if isinstance(letter, Receipt) else letter
        return outcomes

    def _letter(self, record: OutgoingRecord, error: PlatformError) -> OutgoingRecord:
        schema_id = self._dead_letter_schema()
        if schema_id is None:
            raise UnavailableError("the schema of dead letters is not registered yet")
        letter = bury(
            error,
            topic=record.topic,
            partition=None,
            offset=None,
            key=record.key,
            value=record.value,
            headers=record.headers,
            attempts=1,
            now_ms=time.time_ns() // 1_000_000,
        )
        value = self._codec.encode_dead_letter(letter, schema_id)
        return OutgoingRecord(DLQ, record.key, value, letter.kafka_headers(), MAX_DEAD_LETTER_BYTES)

    async def _keep(self, letters: Sequence[OutgoingRecord], deadline: float) -> list[Receipt | PlatformError]:
        try:
            await self._producer.prepare({DLQ}, deadline)
            sending = self._producer.submit(letters)
        except PlatformError as exc:
            return [_not_kept(exc)] * len(letters)
        await sending.settled(deadline)
        return [outcome if isinstance(outcome, Receipt) else _not_kept(outcome) for outcome in sending.outcomes]


def is_for_ever(outcome: Outcome) -> TypeGuard[RecordRejectedError | KafkaAccessError]:
    """Whether Kafka will never take the record."""
    return isinstance(outcome, RecordRejectedError | KafkaAccessError)


def _content(offer: Offer) -> bytes:
    # Without the schema's id: the topic may be given a new schema meanwhile.
    return (offer.record.value or b"")[HEADER_BYTES:] if offer.content is None else offer.content


def _outcome(promise: _Promise, *, is_duplicate: bool) -> Outcome:
    if promise.failed:
        return KafkaUnavailableError("the same event, sent at the same time, was not stored")
    outcome = promise.outcome
    if outcome is None:
        return KafkaUnavailableError("no acknowledgement in time")
    return Stored(outcome, is_duplicate) if isinstance(outcome, Receipt) else outcome


def _not_kept(error: PlatformError | None) -> KafkaUnavailableError:
    reason = "no acknowledgement in time" if error is None else str(error)
    return KafkaUnavailableError(f"Kafka refused the record, and it could not be kept as a dead letter: {reason}")
