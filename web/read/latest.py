"""The log of an event topic, as questions are asked of it: its newest records, and one by its place.

It is read from Kafka itself, so every worker answers alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

from streams.domain.naming import api_topic
from streams.domain.newest_first import Found, NewestFirst, Page
from streams.domain.partitioning import partition_for
from streams.kafka.consumer import Partition, Record, Span
from streams.kafka.reader_pool import ReaderPool
from web.errors import UnknownOffsetError
from web.read.records import RecordFilter


class EventLog:
    """Reads event topics for people and programs, by a few readers that all questions share."""

    def __init__(self, readers: ReaderPool) -> None:
        self._readers = readers

    async def newest(
        self,
        topic: str,
        limit: int,
        wanted: RecordFilter,
        *,
        since_ms: int | None = None,
        before: Mapping[int, int] | None = None,
        within_s: float = float("inf"),
    ) -> Page[Record]:
        """The newest `limit` records of a Kafka topic that pass, stored at `since_ms` or later, newest first.

        `before` is where the page begins, by partition. Of a key, only the partition is read that Kafka gives it now.
        After `within_s` seconds the page ends with what was found; it comes on by one look at each partition at least.
        Raises UnknownTopicError, OverloadedError or Kafka's errors.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + within_s
        async with self._readers.reader() as reader:
            partitions = await reader.partitions([topic])
            if wanted.key is not None:
                own = partition_for(wanted.key, len(partitions))
                partitions = [each for each in partitions if each.partition == own]
            spans = await reader.spans(partitions)
            if since_ms is not None:
                spans = _since(spans, await reader.offsets_at(partitions, since_ms))
            page = NewestFirst[Record]({p.partition: (*span,) for p, span in spans.items()}, limit, before=before)
            while windows := page.windows():
                reached: dict[int, int] = {}
                asked = {Partition(topic, p): Span(*span) for p, span in windows.items()}
                async with aclosing(reader.read(asked)) as batches:
                    async for records in batches:
                        page.looked_at(len(records), sum(len(record.value or b"") for record in records))
                        page.add(
                            records[0].partition,
                            [
                                Found(record.offset, record.timestamp_ms, record)
                                for record in records
                                # A clock of a producer may have gone backwards behind the first offset of that time.
                                if (since_ms is None or record.timestamp_ms >= since_ms) and wanted.matches(record)
                            ],
                        )
                        reached[records[0].partition] = records[-1].offset + 1
                        if page.is_too_large:
                            page.interrupted(reached)
                            break
                        await asyncio.sleep(0)
                if clock() >= deadline and page.has_come_on:
                    break
            return page.page()

    async def at(self, topic: str, partition: int, offset: int) -> Record:
        """The record at a place of a Kafka topic.

        Raises UnknownOffsetError where there is none, UnknownTopicError, OverloadedError or Kafka's errors.
        """
        place = Partition(topic, partition)
        name = f"partition {partition} of {api_topic(topic)}"
        async with self._readers.reader() as reader:
            partitions = await reader.partitions([topic])
            if place not in partitions:
                raise UnknownOffsetError(f"there is no {name}; there are {len(partitions)}, counted from 0")
            span = (await reader.spans([place]))[place]
            if not span.start <= offset < span.end:
                there = f"holds offsets {span.start} to {span.end - 1}" if span.start < span.end else "is empty"
                raise UnknownOffsetError(f"{name} {there}, not {offset}")
            found = [r async for rs in reader.read({place: Span(offset, offset + 1)}) for r in rs]
        if not found:
            raise UnknownOffsetError(
                f"offset {offset} in {name} holds no event: a transaction's mark, or an aborted one's"
            )
        return found[0]


def _since(spans: Mapping[Partition, Span], first: Mapping[Partition, int | None]) -> dict[Partition, Span]:
    """What is left of the spans from these offsets on; nothing where there is none."""
    narrowed = {}
    for partition, (start, end) in spans.items():
        at = first[partition]
        narrowed[partition] = Span(end if at is None else max(start, min(at, end)), end)
    return narrowed
