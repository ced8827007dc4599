"""How far the group has come in each of its input partitions, asked again and again from outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.chaos.threads import in_thread

_INTERVAL_S: Final = 0.5
_TIMEOUT_S: Final = 5.0


class Standing(NamedTuple):
    """Where a partition stands."""

    topic: str
    partition: int
    committed: int
    """Where nothing is committed: its beginning."""
    end: int

    @property
    def lag(self) -> int:
        """Offsets that are not worked on yet."""
        return self.end - self.committed


@dataclass
class Stillness:
    """The longest time in which there was something to do, and nothing was committed."""

    longest_s: float = 0.0
    began: float | None = None

    def note(self, now: float, *, has_moved: bool, has_work: bool) -> None:
        """Note what was seen at some moment."""
        if has_moved or not has_work or self.began is None:
            self.began = now
        self.longest_s = max(self.longest_s, now - self.began)


class Progress:
    """Watches a group. While the broker is away, it knows what it knew."""

    def __init__(self, bootstrap_servers: str, group_id: str) -> None:
        self.standings: list[Standing] = []
        self.stillness = Stillness()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": group_id,
                "enable.auto.commit": False,
                # Otherwise it would wait until no transaction has offsets that are not committed yet.
                "isolation.level": "read_uncommitted",
                "log_level": 0,
            }
        )

    @property
    def committed(self) -> int:
        """All committed offsets together."""
        return sum(s.committed for s in self.standings)

    @property
    def lag(self) -> int:
        """All that is not worked on yet."""
        return sum(s.lag for s in self.standings)

    def of(self, topic: str) -> tuple[int, int]:
        """Committed and end of all partitions of a topic together."""
        mine = [s for s in self.standings if s.topic == topic]
        return sum(s.committed for s in mine), sum(s.end for s in mine)

    async def watch(self, tell: Callable[[], None]) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            tell()
            await asyncio.sleep(_INTERVAL_S)

    async def look(self) -> None:
        """Look once."""
        before = self.committed
        with suppress(KafkaException):
            self.standings = await in_thread(self._ask)
        self.stillness.note(time.monotonic(), has_moved=self.committed != before, has_work=self.lag > 0)

    async def until(self, is_reached: Callable[[], bool], within_s: float) -> bool:
        """Whether it is reached in time."""
        deadline = time.monotonic() + within_s
        while not is_reached():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.1)
        return True

    def close(self) -> None:
        """Let go."""
        self._consumer.close()

    def picture(self) -> str:
        """Where each partition stands that has something to do."""
        return "\n".join(
            f"{s.topic}[{s.partition}]: committed {s.committed}, end {s.end}, {s.lag} behind"
            for s in self.standings
            if s.lag
        )

    def _ask(self) -> list[Standing]:
        topics = self._consumer.list_topics(timeout=_TIMEOUT_S).topics
        partitions = [
            TopicPartition(name, number)
            for name, topic in sorted(topics.items())
            if name in {"platform.ingress", "platform.dlq", "platform.aggregates"} or name.startswith("events.")
            for number in sorted(topic.partitions)
        ]
        # The ends first: what is committed later may be beyond them, and never looks like too little.
        marks = [self._consumer.get_watermark_offsets(tp, timeout=_TIMEOUT_S) for tp in partitions]
        committed = self._consumer.committed(partitions, timeout=_TIMEOUT_S)
        found = []
        for tp, (low, high) in zip(committed, marks, strict=True):
            at = tp.offset if tp.offset >= 0 else low
            found.append(Standing(tp.topic, tp.partition, at, max(high, at)))
        return found


async def quietly(work: Awaitable[object]) -> None:
    """End a task that was cancelled."""
    await asyncio.gather(work, return_exceptions=True)
