"""Reading a topic backwards, page by page, finds what sorting the whole log would."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any, TypeVar
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.domain.newest_first import NewestFirst, parse_cursor
from streams.domain.partitioning import partition_for
from streams.kafka.consumer import Partition, Record, Span
from streams.kafka.reader_pool import ReaderPool
from tests.web_gateway import MemoryReader
from web.read.latest import EventLog
from web.read.records import RecordFilter

TOPIC = "events.iot"
KEYS = [b"a", b"b", b"c", b"d", b"e"]


class Log(MemoryReader):
    """A log whose partitions begin anywhere, and have offsets without a record."""

    def __init__(self, spans, records):
        super().__init__(records)
        self._spans = spans

    async def partitions(self, topics):
        return list(self._spans)

    async def spans(self, partitions):
        return {partition: self._spans[partition] for partition in partitions}


def make_log(seed: int) -> Log:
    """Keys are where Kafka puts them, timestamps run forward, markers have taken offsets, retention has cut the beginning.

    From a seed, not drawn record by record: what counts is many long logs, not the shortest one that fails.
    """
    rng = random.Random(seed)
    count = rng.randint(1, 4)
    by_partition = {n: [key for key in KEYS if partition_for(key, count) == n] for n in range(count)}
    spans, all_records = {}, []
    for number, keys in by_partition.items():
        start = rng.randint(0, 5)
        offset, timestamp = start, rng.randint(0, 20)
        # A partition may be quiet while another is busy.
        quiet = rng.choice([1, 3, 10])
        for _ in range(rng.randint(0, 80) if keys else 0):
            offset, timestamp = offset + rng.randint(0, 1), timestamp + rng.randint(0, quiet)
            all_records.append(Record(TOPIC, number, offset, timestamp, rng.choice(keys), b"v", ()))
            offset += 1
        spans[Partition(TOPIC, number)] = Span(start, offset + rng.randint(0, 2))
    return Log(spans, all_records)


logs = st.integers(0, 2**32).map(make_log)
SMALL = 300
T = TypeVar("T")


class LargeLog(Log):
    """Events of all sizes, in batches of their own, as Kafka gives them; it counts what one question gets."""

    def __init__(self, log: Log) -> None:
        super().__init__(log._spans, [replace(r, value=b"v" * (hash((r.partition, r.offset)) % 97)) for r in log.log])
        self.largest = max((len(r.value or b"") for r in self.log), default=0)
        self.read_bytes = 0

    async def read(self, spans):
        async for records in super().read(spans):
            for record in records:
                self.read_bytes += len(record.value or b"")
                yield [record]


class SmallPages(NewestFirst[T]):
    """Pages that are too large soon."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, max_bytes=SMALL)


async def pages(log, limit, wanted, since_ms):
    events = EventLog(ReaderPool(lambda: log, 1))
    found, before = [], None
    while True:
        page = await events.newest(TOPIC, limit, wanted, since_ms=since_ms, before=before)
        assert len(page.items) == limit or page.truncated or page.before is None
        found.append(page.items)
        if page.before is None:
            return found
        before = parse_cursor(page.before)


@settings(max_examples=300, deadline=None)
@given(
    log=logs,
    limit=st.integers(1, 12),
    key=st.none() | st.sampled_from(KEYS),
    since_ms=st.none() | st.integers(0, 200),
)
def test_pages_hold_every_record_that_is_wanted_once_newest_first(log, limit, key, since_ms):
    wanted = RecordFilter(key, None)
    found = [record for page in asyncio.run(pages(log, limit, wanted, since_ms)) for record in page]
    expected = [
        r for r in log.log if (key is None or r.key == key) and (since_ms is None or r.timestamp_ms >= since_ms)
    ]
    assert sorted(found, key=lambda r: (r.partition, r.offset)) == sorted(
        expected, key=lambda r: (r.partition, r.offset)
    )
    assert [r.timestamp_ms for r in found] == sorted((r.timestamp_ms for r in found), reverse=True)


@settings(max_examples=300, deadline=None)
@given(log=logs.map(LargeLog), limit=st.integers(1, 50), key=st.none() | st.sampled_from(KEYS), slow=st.booleans())
def test_a_page_is_bounded_in_bytes_whatever_is_older_and_comes_on_all_the_same(log, limit, key, slow):
    async def run() -> list[Record]:
        events = EventLog(ReaderPool(lambda: log, 1))
        found: list[Record] = []
        before = None
        while True:
            log.read_bytes = 0
            within_s = 0.0 if slow else float("inf")
            page = await events.newest(TOPIC, limit, RecordFilter(key, None), before=before, within_s=within_s)
            assert log.read_bytes <= SMALL + (1 + len(log._spans)) * log.largest
            found += page.items
            if page.before is None:
                return found
            assert parse_cursor(page.before) != before
            before = parse_cursor(page.before)

    with mock.patch("web.read.latest.NewestFirst", SmallPages):
        found = asyncio.run(run())
    wanted = [r for r in log.log if key is None or r.key == key]
    assert sorted((r.partition, r.offset) for r in found) == sorted((r.partition, r.offset) for r in wanted)
    assert [r.timestamp_ms for r in found] == sorted((r.timestamp_ms for r in found), reverse=True)


@settings(max_examples=100, deadline=None)
@given(log=logs, key=st.sampled_from(KEYS))
def test_of_a_key_no_other_partition_is_read(log, key):
    read = []
    inner = log.read

    def watched(spans):
        read.extend(spans)
        return inner(spans)

    log.read = watched
    asyncio.run(pages(log, 5, RecordFilter(key, None), None))
    assert {partition.partition for partition in read} <= {partition_for(key, len(log._spans))}
