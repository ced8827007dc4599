"""Reads the topics for the ledger: each once, in batches, up to where it was when the reading began.

A platform that runs must not look as if it did not balance, so the ends of the topics are taken in this order:

1. The end of `platform.ingress`, and how far results prove that event time had come in Flink.
2. What the worker's group and Flink's have committed.
3. The ends of all other topics, with what is written but not committed yet; then we wait until it is. What was
   committed in step 2 has written all that belongs to it before, but a transaction commits one partition after
   another, and each partition shows no more than lies before its oldest open transaction.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import fastavro
import msgspec

from streams.codecs import AvroCodec, Schema, SchemaNeededError, parse, unframe
from streams.domain.dead_letters import DeadLetter
from streams.domain.errors import KafkaUnavailableError, MalformedEventError, UnavailableError, UnknownSchemaError
from streams.domain.headers import DLQ_ORIGIN, EVENT_ID, EVENT_TOPIC, INGRESS_ORIGIN, header
from streams.domain.ledger import (
    UNKNOWN,
    Duplicates,
    Ends,
    Identified,
    Ledger,
    Limits,
    Minute,
    Rules,
    TimeRange,
    Verdict,
    count_duplicates,
    event_id_bytes,
    minute_of,
    parse_origin,
)
from streams.domain.naming import AGGREGATES, DLQ, EVENTS_PREFIX, INGRESS, INVALID, LATE, api_topic
from streams.domain.windows import MINUTE_MS, TUMBLING_1M
from streams.kafka.consumer import LogReader, Partition, Record, Span, open_reader
from streams.kafka.offsets import Offsets, open_offsets
from streams.registry import SchemaLoader, SchemaRegistry
from streams.settings import Settings

T = TypeVar("T")

HOUR_MS: Final = 3_600_000
CLOCKS_MS: Final = 600_000
"""How far clocks may be apart, and how long the reading may take while records are deleted by age."""
POLL_S: Final = 0.1
STALLED_S: Final = 60.0
MAX_IDS: Final = 250_000
"""Different events that are held in memory at once when duplicates are counted: some 60 MB."""
BUCKET_BITS: Final = 6
BUCKETS: Final = 1 << BUCKET_BITS
MAX_LEVEL: Final = 64 // BUCKET_BITS - 1
"""Hashes have 64 bits."""
FLUSH_BYTES: Final = 65_536
READ_RECORDS: Final = 4_096


@dataclass(frozen=True, slots=True)
class Report:
    """The ledger of a range, and the verdict."""

    period: TimeRange
    rules: Rules
    ledger: Ledger
    verdict: Verdict
    records: int
    """How many were read."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the reading is."""

    doing: str
    done: int
    """Records."""
    whole: int
    """The offsets to read, 0 where that is not known yet: more than there are records, for offsets have holes."""


Notify = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    spans: Mapping[str, Mapping[Partition, Span]]
    """What to read, by topic; all event topics are one."""
    proven: Mapping[Partition, int]
    """Before these offsets, results prove how far event time had come."""
    confirmed: Mapping[Partition, int]
    """What Flink had committed in each partition of events."""
    limits: Limits
    ends_expired_until: int | None
    """The ends of records of ingress up to this time in Kafka may have been deleted by age; None: none was."""


async def audit(
    settings: Settings, topics: Iterable[str], period: TimeRange, rules: Rules, notify: Notify, *, patience_s: float
) -> Report:
    """The ledger of these topics `events.*` (Kafka names), read from Kafka.

    Waits so many seconds for open transactions. Raises what LogReader and SchemaLoader raise.
    """
    began = time.monotonic()
    names = sorted(topics)
    with tempfile.TemporaryDirectory(prefix="streams-audit-") as directory:
        async with open_reader(settings, "audit") as reader, open_offsets(settings, "audit") as offsets:
            snapshot = await _snapshot(
                settings, names, period, reader=reader, offsets=offsets, notify=notify, patience_s=patience_s
            )
            reading = _Reading(settings, names, period, snapshot, notify=notify, spill=Spill(Path(directory)))
            await reading.read_all(reader)
        await reading.count_duplicates()
    verdict = reading.ledger.judge(rules, snapshot.limits)
    return Report(period, rules, reading.ledger, verdict, reading.records, time.monotonic() - began)


async def _snapshot(
    settings: Settings,
    topics: Sequence[str],
    period: TimeRange,
    *,
    reader: LogReader,
    offsets: Offsets,
    notify: Notify,
    patience_s: float,
) -> _Snapshot:
    """How far everything is, in the order that the module says."""
    ingress = await reader.partitions([INGRESS])
    results = await reader.partitions([AGGREGATES, LATE, INVALID])
    events = await reader.partitions(topics)
    stored = [*events, *await reader.partitions([DLQ])]

    spans = await reader.spans(ingress)
    proven = {partition: span.end for partition, span in (await reader.spans(results)).items()}
    committed = await offsets.committed(settings.app_id, ingress)
    confirmed = await offsets.committed(f"{settings.app_id}-flink", events)
    # Results before events: each event that is late or in a window is then among the events.
    written = await offsets.written(results)
    written |= await offsets.written(stored)
    settled, held_back = await _settled(reader, written, notify, patience_s)
    begins = {partition: span.start for partition, span in settled.items()}
    spans |= settled

    if period.start_ms is not None:
        # An event may be stored before its time, as far ahead as clients may be; records of ingress, as far as Kafka
        # takes them (an hour), so the ends of the first one in the range may look older than the range.
        ahead = max(settings.event_max_future_s * 1_000, HOUR_MS) + CLOCKS_MS
        first = await offsets.at([*stored, *results], period.start_ms - ahead) | await offsets.at(
            ingress, period.start_ms
        )
        spans = {p: Span(_within(span, first[p]), span.end) for p, span in spans.items()}
    if period.end_ms is not None:
        last = await offsets.at(ingress, period.end_ms)
        spans |= {p: Span(spans[p].start, max(spans[p].start, _within(spans[p], last[p]))) for p in ingress}

    oldest = int(time.time() * 1_000) - settings.event_retention_hours * HOUR_MS + CLOCKS_MS
    shortened = {partition.topic for partition, start in begins.items() if start > 0}
    ahead = settings.event_max_future_s * 1_000
    return _Snapshot(
        spans={
            name: {p: span for p, span in spans.items() if p.topic.startswith(name)}
            for name in (INGRESS, DLQ, EVENTS_PREFIX, AGGREGATES, LATE, INVALID)
        },
        proven=proven,
        confirmed=confirmed,
        limits=Limits(
            committed={p.partition: offset for p, offset in committed.items()},
            expired_until={api_topic(name): oldest + ahead for name in topics if shortened & {name, LATE}},
            held_back=held_back,
        ),
        ends_expired_until=oldest if shortened & {DLQ, *topics} else None,
    )


def _within(span: Span, offset: int | None) -> int:
    return span.end if offset is None else min(max(offset, span.start), span.end)


async def _settled(
    reader: LogReader, written: Mapping[Partition, int], notify: Notify, patience_s: float
) -> tuple[dict[Partition, Span], tuple[str, ...]]:
    """The spans up to what was written, once it is committed or aborted; and where that took too long."""
    deadline = time.monotonic() + patience_s
    while True:
        spans = await reader.spans(written)
        behind = [partition for partition, end in written.items() if spans[partition].end < end]
        if not behind or time.monotonic() > deadline:
            break
        notify(Progress(f"open transactions in {len(behind)} partitions", 0, 0))
        await asyncio.sleep(POLL_S)
    held_back = tuple(f"{p.topic}[{p.partition}]@{spans[p].end}" for p in sorted(behind))
    return {p: Span(span.start, max(span.start, min(span.end, written[p]))) for p, span in spans.items()}, held_back


async def _batches(reader: LogReader, topic: str, spans: Mapping[Partition, Span]) -> AsyncIterator[list[Record]]:
    """What the reader reads. Raises KafkaUnavailableError where nothing comes any more: it would wait without end."""
    batches = reader.read(spans)
    while True:
        try:
            async with asyncio.timeout(STALLED_S):
                records = await anext(batches)
        except StopAsyncIteration:
            return
        except TimeoutError as exc:
            raise KafkaUnavailableError(f"cannot read {topic}: nothing has come for {STALLED_S:g} s") from exc
        yield records


class Spill:
    """Occurrences of event ids, kept in files by their hash until duplicates are counted, file by file.

    Memory is bounded: a file with too many different events is distributed anew, by other bits of the hash.
    """

    def __init__(self, directory: Path, *, most: int = MAX_IDS, level: int = 0) -> None:
        self.added = 0
        self._directory = directory
        self._most = most
        self._level = level
        self._unwritten = [bytearray() for _ in range(BUCKETS)]

    def add(self, occurrence: bytes) -> None:
        """Keep an occurrence, as `Identified` packs it."""
        # A hash with a secret key, which nobody can choose ids for that fall into one file.
        bucket = hash(occurrence[: Identified.key_size]) >> self._level * BUCKET_BITS & BUCKETS - 1
        unwritten = self._unwritten[bucket]
        unwritten += occurrence
        self.added += 1
        if len(unwritten) >= FLUSH_BYTES:
            self._write(bucket)

    async def count(self) -> AsyncIterator[Duplicates]:
        """The duplicates, in parts. Nothing is left in the files afterwards."""
        last_level = self._level == MAX_LEVEL
        for bucket in range(BUCKETS):
            self._write(bucket)
            found = count_duplicates(self._occurrences(bucket), sys.maxsize if last_level else self._most)
            if found is not None:
                yield found
            else:
                deeper = Spill(self._path(bucket).with_suffix(".d"), most=self._most, level=self._level + 1)
                for occurrence in self._occurrences(bucket):
                    deeper.add(occurrence)
                async for part in deeper.count():
                    yield part
            self._path(bucket).unlink(missing_ok=True)
            await asyncio.sleep(0)

    def _write(self, bucket: int) -> None:
        unwritten = self._unwritten[bucket]
        if not unwritten:
            return
        try:
            self._directory.mkdir(exist_ok=True)
            with self._path(bucket).open("ab") as file:
                file.write(unwritten)
        except OSError as exc:
            raise UnavailableError(f"cannot keep event ids in {self._directory}: {exc}") from exc
        unwritten.clear()

    def _occurrences(self, bucket: int) -> Iterator[bytes]:
        size = Identified.size
        if not self._path(bucket).exists():
            return
        with self._path(bucket).open("rb") as file:
            while block := file.read(READ_RECORDS * size):
                for at in range(0, len(block), size):
                    yield block[at : at + size]

    def _path(self, bucket: int) -> Path:
        return self._directory / f"{bucket}"


class _Reading:
    """One pass over all topics."""

    def __init__(
        self,
        settings: Settings,
        topics: Sequence[str],
        period: TimeRange,
        snapshot: _Snapshot,
        *,
        notify: Notify,
        spill: Spill,
    ) -> None:
        self.ledger = Ledger()
        self.records = 0
        self._topics = {api_topic(name): number for number, name in enumerate(topics)}
        self._period = period
        self._snapshot = snapshot
        self._notify = notify
        self._spill = spill
        self._codec = AvroCodec()
        self._registry = SchemaRegistry(settings)
        self._loader = SchemaLoader(self._registry, self._codec)
        self._late_schemas: dict[int, Schema] = {}

    async def read_all(self, reader: LogReader) -> None:
        """Read every topic. Ingress first, so that each end finds its record."""
        spans = self._snapshot.spans
        self.ledger.ends = {p.partition: Ends(span.start, span.end) for p, span in spans[INGRESS].items()}
        whole = sum(span.end - span.start for topic in spans.values() for span in topic.values())
        for name, take in (
            (INGRESS, self._ingress),
            (DLQ, self._dead_letters),
            (EVENTS_PREFIX, self._events),
            (AGGREGATES, self._results),
            (LATE, self._late),
            (INVALID, self._invalid),
        ):
            async for records in _batches(reader, name, spans[name]):
                await take(records)
                self.records += len(records)
                self._notify(Progress(records[0].topic, self.records, whole))

    async def count_duplicates(self) -> None:
        """Count the duplicates among the events that were read."""
        names = list(self._topics)
        async for found in self._spill.count():
            for (number, minute, unconfirmed), count in found.items():
                row = self.ledger.at(names[number], minute)
                row.duplicates += count
                row.unconfirmed_duplicates += count if unconfirmed else 0
            self._notify(Progress("event ids", self.records, self.records))

    async def _ingress(self, records: Sequence[Record]) -> None:
        ends = self.ledger.ends[records[0].partition]
        expired_until = self._snapshot.ends_expired_until
        for record in records:
            ends.accept(
                record.offset, may_be_expired=expired_until is not None and record.timestamp_ms <= expired_until
            )
            topic = self._known(header(record.headers, EVENT_TOPIC))
            self.ledger.at(topic, minute_of(record.timestamp_ms)).accepted_ingress += 1

    async def _dead_letters(self, records: Sequence[Record]) -> None:
        for record in records:
            source = header(record.headers, "dlq-source-topic")
            if source == INGRESS:
                partition, offset = (
                    header(record.headers, name) for name in ("dlq-source-partition", "dlq-source-offset")
                )
                if (place := parse_origin(f"{partition}@{offset}".encode())) is None:
                    self.ledger.cannot_read(DLQ, _place(record))
                else:
                    self.ledger.ended(*place)
            if record.timestamp_ms in self._period:
                letter = await self._read(record, DLQ, self._codec.decode_dead_letter)
                if letter is not None:
                    row = self.ledger.at(self._topic_of(letter), minute_of(record.timestamp_ms))
                    row.dead[letter.reason] += 1

    async def _events(self, records: Sequence[Record]) -> None:
        # Nearly all records of a platform come by here: what can be looked up once a batch is.
        first = records[0]
        topic = api_topic(first.topic)
        number = self._topics[topic]
        confirmed = self._snapshot.confirmed.get(Partition(first.topic, first.partition), 0)
        ledger, period, decode, pack, keep = (
            self.ledger,
            self._period,
            self._codec.decode_event,
            Identified.pack,
            self._spill.add,
        )
        rows = _Rows(ledger, topic)
        for record in records:
            headers = dict(record.headers)
            origin = headers.get(INGRESS_ORIGIN)
            redriven = DLQ_ORIGIN in headers
            if origin is not None:
                if (place := parse_origin(origin)) is None:
                    ledger.cannot_read(topic, _place(record))
                else:
                    ledger.ended(*place)
            elif not redriven and record.timestamp_ms in period:
                rows[record.timestamp_ms // MINUTE_MS].accepted_http += 1
            try:
                event = decode(record.value or b"")
            except (SchemaNeededError, MalformedEventError):
                if (found := await self._read(record, topic, decode)) is None:
                    continue
                event = found
            timestamp = event.timestamp
            if timestamp not in period:
                continue
            minute = timestamp // MINUTE_MS
            unconfirmed = record.offset >= confirmed
            row = rows[minute]
            row.events += 1
            if redriven:
                row.redriven += 1
            if unconfirmed:
                row.unconfirmed_events += 1
            event_id = event_id_bytes(headers.get(EVENT_ID) or event.event_id.encode())
            keep(pack(event_id, number, unconfirmed, max(record.timestamp_ms, 0), minute * MINUTE_MS))

    async def _results(self, records: Sequence[Record]) -> None:
        proven = self._snapshot.proven[Partition(AGGREGATES, records[0].partition)]
        for record in records:
            # The topic is compacted: a tombstone says nothing about a window that has closed.
            result = (
                None if record.value is None else await self._read(record, AGGREGATES, self._codec.decode_aggregate)
            )
            if result is None:
                continue
            if record.offset < proven:
                self.ledger.reached(result.window_end - 1)
            if result.window == TUMBLING_1M.name and result.window_start in self._period:
                self.ledger.window(
                    result.topic,
                    result.event_type,
                    result.window_start,
                    result.count,
                    revision=result.revision,
                    emitted_at=result.emitted_at,
                )

    async def _late(self, records: Sequence[Record]) -> None:
        proven = self._snapshot.proven[Partition(LATE, records[0].partition)]
        for record in records:
            late = await self._late_event(record)
            if late is None:
                continue
            if record.offset < proven:
                self.ledger.reached(late.watermark)
            if TUMBLING_1M.name in late.windows and late.timestamp in self._period:
                source = Partition(EVENTS_PREFIX + late.topic, late.partition)
                row = self.ledger.at(late.topic, minute_of(late.timestamp))
                row.late += 1
                row.unconfirmed_late += late.offset >= self._snapshot.confirmed.get(source, 0)

    async def _invalid(self, records: Sequence[Record]) -> None:
        for record in records:
            # Flink could not read them, so they have no time and belong to no minute; their topic, if they name it.
            source = header(record.headers, "source-topic") or ""
            topic = self._known(source.removeprefix(EVENTS_PREFIX))
            self.ledger.invalid[topic] += 1

    async def _late_event(self, record: Record) -> _LateEvent | None:
        try:
            schema_id, body = unframe(record.value or b"")
            if schema_id not in self._late_schemas:
                self._late_schemas[schema_id] = parse(await self._registry.schema(schema_id))
            return _late_event(body, self._late_schemas[schema_id])
        except (MalformedEventError, UnknownSchemaError):
            self.ledger.cannot_read(LATE, _place(record))
            return None

    async def _read(self, record: Record, topic: str, decode: Callable[[bytes], T]) -> T | None:
        """What a record holds; None, and noted, where it cannot be read."""
        value = record.value or b""
        try:
            return await self._loader.read(lambda: decode(value))
        except (MalformedEventError, UnknownSchemaError):
            self.ledger.cannot_read(topic, _place(record))
            return None

    def _topic_of(self, letter: DeadLetter) -> str:
        if letter.source_topic == INGRESS:
            return self._known(header(letter.headers, EVENT_TOPIC))
        return self._known(letter.source_topic.removeprefix(EVENTS_PREFIX))

    def _known(self, topic: str | None) -> str:
        """A topic that a client has named, if it exists: any other text would be a row of its own."""
        return topic if topic in self._topics else UNKNOWN


class _Rows(dict[int, Minute]):
    """The rows of one topic by number of the minute, looked up once."""

    def __init__(self, ledger: Ledger, topic: str) -> None:
        super().__init__()
        self._ledger = ledger
        self._topic = topic

    def __missing__(self, minute: int) -> Minute:
        row = self[minute] = self._ledger.at(self._topic, minute * MINUTE_MS)
        return row


class _LateEvent(msgspec.Struct, frozen=True, gc=False):
    """What is looked at of a record of `platform.late`."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    watermark: int
    windows: tuple[str, ...]


def _late_event(body: bytes, schema: Schema) -> _LateEvent:
    """Read by the schema that it was written with: that is the job's, and not known here. Raises MalformedEventError."""
    try:
        return msgspec.convert(fastavro.schemaless_reader(io.BytesIO(body), schema, None), _LateEvent)
    # On bytes that do not fit, fastavro raises whatever its parser stumbles over; as in streams.codecs.
    except Exception as exc:
        raise MalformedEventError(f"no late event: {type(exc).__name__}: {exc}") from exc


def _place(record: Record) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset}"
