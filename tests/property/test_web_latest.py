"""Reading backwards finds what sorting the whole log would."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.kafka.consumer import Partition, Record, Span
from web.latest import BackwardScan


def make_log(seed: int) -> dict[Partition, tuple[Span, list[Record]]]:
    """Partitions whose timestamps run forward, with offsets that markers have taken, and a beginning that retention cut.

    From a seed, not drawn record by record: what counts is many long logs, not the shortest one that fails.
    """
    rng = random.Random(seed)
    partitions = {}
    for number in range(rng.randint(1, 3)):
        start = rng.randint(0, 5)
        offset, timestamp, records = start, rng.randint(0, 20), []
        # A partition may be quiet while another is busy.
        quiet = rng.choice([1, 3, 10])
        for _ in range(rng.randint(0, 80)):
            offset, timestamp = offset + rng.randint(0, 1), timestamp + rng.randint(0, quiet)
            records.append(Record("events.x", number, offset, timestamp, rng.choice([b"a", b"a", b"b"]), b"v", ()))
            offset += 1
        partitions[Partition("events.x", number)] = (Span(start, offset + rng.randint(0, 2)), records)
    return partitions


logs = st.integers(0, 2**32).map(make_log)


@settings(max_examples=300)
@given(log=logs, limit=st.integers(1, 12), key=st.none() | st.sampled_from([b"a", b"b", b"c"]))
def test_the_newest_are_found(log, limit, key):
    spans = {partition: span for partition, (span, _) in log.items()}
    scan = BackwardScan(spans, limit, lambda r: key is None or r.key == key)
    read = set()
    while windows := scan.next_windows():
        for partition, window in windows.items():
            offsets = {(partition, offset) for offset in range(*window)}
            assert offsets
            assert not offsets & read, "nothing is read twice"
            read |= offsets
            scan.add([r for r in log[partition][1] if window.start <= r.offset < window.end])
    everything = [r for _, records in log.values() for r in records if key is None or r.key == key]
    everything.sort(key=lambda r: (-r.timestamp_ms, -r.offset, r.partition))
    assert scan.result().records == everything[:limit]
    assert not scan.result().truncated or len(scan.result().records) == limit


@given(log=logs, limit=st.integers(1, 40), budget=st.integers(1, 50))
def test_no_more_is_read_than_allowed_and_less_is_told(log, limit, budget):
    spans = {partition: span for partition, (span, _) in log.items()}
    scan = BackwardScan(spans, limit, lambda r: True, max_scanned=budget)
    read = 0
    while windows := scan.next_windows():
        read += sum(window.end - window.start for window in windows.values())
        for partition, window in windows.items():
            scan.add([r for r in log[partition][1] if window.start <= r.offset < window.end])
    assert read <= budget
    total = sum(len(records) for _, records in log.values())
    if len(scan.result().records) < min(limit, total):
        assert scan.result().truncated
