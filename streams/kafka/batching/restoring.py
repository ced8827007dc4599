"""Bringing the parts of tables up to date from their changelogs, in raw batches.

Parts that are restored at the same time are read together, and each changelog partition once for all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.kafka.batching import internals
from streams.kafka.batching.batch import Source
from streams.kafka.batching.tables import Store, Table, parse_changelog_key

log = logging.getLogger(__name__)

_GATHER_S: Final = 0.05
"""How long parts wait for others to be restored with."""
_RECORDS: Final = 2_000
"""As many are applied without giving way to others of the event loop: some 10 ms."""
_FETCH_BYTES: Final = 4_194_304
_POLL_MS: Final = 200
_SETTLE_S: Final = 0.05


@dataclass(eq=False, slots=True)
class Part:
    """A part that is being restored."""

    table: Table[Any]
    source: Source
    store: Store[Any]
    changelog: str
    remaining: int | None = None
    """Offsets of the changelog still to be read; None before that is known."""
    records: int = 0
    """Applied so far."""
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Restorer:
    """Restores parts; `options` are keyword arguments of every aiokafka client."""

    def __init__(self, options: Mapping[str, Any], *, client_id: str) -> None:
        self._options = dict(options)
        self._client_id = client_id
        self._waiting: list[Part] = []
        self._passes: set[asyncio.Task[None]] = set()

    async def restore(self, parts: Sequence[Part]) -> None:
        """Bring the stores up to what is committed at the time of the call. Raises aiokafka's KafkaError.

        The caller has fenced former writers of the parts: all that they have committed is before the end.
        """
        if not parts:
            return
        if not self._waiting:
            task = asyncio.get_running_loop().create_task(self._pass())
            self._passes.add(task)
            task.add_done_callback(self._passes.discard)
        self._waiting.extend(parts)
        await asyncio.gather(*(part.done for part in parts))

    async def stop(self) -> None:
        """End what runs."""
        for task in self._passes:
            task.cancel()
        await asyncio.gather(*self._passes, return_exceptions=True)

    async def _pass(self) -> None:
        await asyncio.sleep(_GATHER_S)
        # Without those that nobody waits for any more: their stores may be closed, and opened by somebody else.
        parts, self._waiting = [part for part in self._waiting if not part.done.done()], []
        try:
            if parts:
                await self._read(parts)
        except BaseException as exc:
            for part in parts:
                if not part.done.done():
                    part.done.set_exception(exc) if isinstance(exc, Exception) else part.done.cancel()
            if not isinstance(exc, Exception):
                raise

    async def _read(self, parts: Sequence[Part]) -> None:
        by_log: dict[TopicPartition, list[Part]] = defaultdict(list)
        for part in parts:
            by_log[TopicPartition(part.changelog, part.source.partition)].append(part)
        consumer = self._consumer("read_committed", max_poll_records=_RECORDS)
        try:
            await consumer.start()
            ends = await self._ends(list(by_log))
            consumer.assign(list(by_log))
            for tp, wanted in by_log.items():
                for part in wanted:
                    if (part.store.position or 0) > ends[tp] and not part.done.done():
                        log.warning("%s is shorter than what is stored of it: reading it from the beginning", tp)
                        part.store.reset()
                start = min(part.store.position or 0 for part in wanted)
                consumer.seek(tp, start) if start else await consumer.seek_to_beginning(tp)
            await self._apply_all(consumer, by_log, ends)
        finally:
            # aiokafka's stop() may hang right after a change of assignment.
            await asyncio.sleep(_SETTLE_S)
            await internals.stop(consumer)

    async def _ends(self, logs: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        # High watermarks, not stable offsets: where another part's transaction is open, wait until it has ended.
        consumer = self._consumer("read_uncommitted")
        try:
            await consumer.start()
            ends: Mapping[TopicPartition, int] = await consumer.end_offsets(logs)
            return ends
        finally:
            await internals.stop(consumer)

    async def _apply_all(
        self,
        consumer: AIOKafkaConsumer,
        by_log: dict[TopicPartition, list[Part]],
        ends: Mapping[TopicPartition, int],
    ) -> None:
        while by_log:
            for tp in list(by_log):
                position = await consumer.position(tp)
                by_log[tp] = [part for part in by_log[tp] if not part.done.done()]
                for part in by_log[tp]:
                    part.remaining = max(0, ends[tp] - position)
                if position >= ends[tp] or not by_log[tp]:
                    for part in by_log.pop(tp):
                        part.store.apply({}, max(position, part.store.position or 0))
                        part.done.set_result(None)
                    consumer.pause(tp)
            if by_log:
                for tp, records in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
                    if records and tp in by_log:
                        _apply(by_log[tp], records)

    def _consumer(self, isolation_level: str, **more: Any) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self._options,
            client_id=self._client_id,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=isolation_level,
            fetch_max_wait_ms=_POLL_MS,
            max_partition_fetch_bytes=_FETCH_BYTES,
            request_timeout_ms=10_000,
            **more,
        )


def _apply(parts: Sequence[Part], records: Sequence[Any]) -> None:
    by_topic = {part.source.topic: part for part in parts if not part.done.done()}
    changes: dict[str, dict[str, Any]] = {topic: {} for topic in by_topic}
    skip: dict[str, int] = {topic: part.store.position or 0 for topic, part in by_topic.items()}
    for record in records:
        topic, key = parse_changelog_key(record.key)
        part = by_topic.get(topic)
        if part is not None and record.offset >= skip[topic]:
            changes[topic][key] = None if record.value is None else part.table.decode(record.value)
            part.records += 1
    position = records[-1].offset + 1
    for topic, part in by_topic.items():
        part.store.apply(changes[topic], max(position, skip[topic]))
