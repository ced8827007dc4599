"""The records that wait for one partition, and how they are packed: pure bookkeeping, nothing is sent here.

A batch that Kafka refuses for one record that it will never take is halved until that record is alone, so that its
neighbours are written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from streams.domain.errors import KafkaUnavailableError, RecordRejectedError
from streams.kafka.sending import OutgoingRecord, Receipt, Sending

GIVEN_UP: Final = "the record was not sent: the deadline came first"


class Builder(Protocol):
    """A batch in the making, as `AIOKafkaProducer.create_batch` makes it."""

    def append(self, *, timestamp: int, key: bytes | None, value: bytes | None, headers: list[Any]) -> object | None:
        """Add a record; None where the batch is full."""


class Queued(msgspec.Struct, gc=False):
    """A record on its way."""

    record: OutgoingRecord
    size: int
    timestamp_ms: int
    sending: Sending
    index: int
    """Which of the sending's records it is."""


class Lane:
    """What waits for one partition. One batch at a time is on its way, so order is kept."""

    __slots__ = ("_most", "_suspects", "is_busy", "partition", "topic", "waiting")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.waiting: deque[Queued] = deque()
        self.is_busy = False
        """Whether somebody sends what waits here."""
        self._suspects = 0
        """So many at the front were in a batch that was refused, one of them for good."""
        self._most = 0

    def pack(self, builder: Builder) -> tuple[list[Queued], list[Queued]]:
        """Take from the front what fits into the batch; and what is not in it: nobody wants it, or it cannot be encoded."""
        packed: list[Queued] = []
        dropped: list[Queued] = []
        waiting = self.waiting
        most = self._most if self._suspects else len(waiting)
        append = builder.append
        while waiting and len(packed) < most:
            queued = waiting[0]
            if not queued.sending.is_wanted:
                dropped.append(waiting.popleft())
                self._trust(1)
                continue
            record = queued.record
            try:
                added = append(
                    timestamp=queued.timestamp_ms, key=record.key, value=record.value, headers=list(record.headers)
                )
            except (TypeError, ValueError, OverflowError) as exc:
                # Of all that is in it, the name of a header may be no UTF-8.
                queued.sending.settle(queued.index, RecordRejectedError(f"the record cannot be encoded: {exc}"))
                dropped.append(waiting.popleft())
                self._trust(1)
                continue
            if added is None:
                break
            packed.append(waiting.popleft())
        return packed, dropped

    def written(self, packed: Sequence[Queued], base_offset: int) -> None:
        """The batch is on disk, its first record at this offset."""
        self._trust(len(packed))
        topic, partition = self.topic, self.partition
        for offset, queued in enumerate(packed, base_offset):
            queued.sending.settle(queued.index, Receipt(topic, partition, offset, queued.timestamp_ms))

    def halve(self, refused: Sequence[Queued]) -> bool:
        """Put a refused batch back to the front, to be tried in halves. False for a single record: it is the one."""
        if len(refused) == 1:
            self._trust(1)
            return False
        self.put_back(refused)
        self._suspects = max(self._suspects, len(refused))
        self._most = len(refused) // 2
        return True

    def put_back(self, packed: Sequence[Queued]) -> None:
        """Return to the front what was packed and not sent."""
        self.waiting.extendleft(reversed(packed))

    def _trust(self, records: int) -> None:
        self._suspects = max(0, self._suspects - records)


def give_up(dropped: Sequence[Queued]) -> None:
    """Tell those who may ask later that nothing of these was written."""
    for queued in dropped:
        queued.sending.settle(queued.index, KafkaUnavailableError(GIVEN_UP))
