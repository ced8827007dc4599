"""Reading `platform.dlq` and `platform.redrives`: in order, newest first, and one letter in full."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import fastavro
import msgspec

from streams.codecs import AvroCodec, Format, parse, protobuf_fields, unframe
from streams.domain.dead_letters import REASON_HEADER, SOURCE_TOPIC_HEADER, DeadLetter
from streams.domain.errors import MalformedEventError, PlatformError, UnknownSchemaError, UnknownTopicError
from streams.domain.headers import CONTENT_TYPE, header
from streams.domain.naming import DLQ, INGRESS, REDRIVES
from streams.domain.newest_first import Found, NewestFirst, Page
from streams.domain.redrive import LetterFilter, Place, event_topic_of
from streams.domain.redrive_log import RedriveLog
from streams.kafka.consumer import LogReader, Partition, Record, Span
from streams.registry import SchemaLoader, SchemaRegistry

BREATH: Final = 100
"""After so many records others get their turn on the event loop."""
UNREADABLE: Final = (MalformedEventError, UnknownSchemaError)
"""What a record raises that nobody can read, now or later."""

_NULL: Final = msgspec.Raw(b"null")


class LetterStore:
    """The two topics, as they are in Kafka. Every method raises Kafka's errors of `LogReader`."""

    def __init__(self, open_reader: Callable[[], LogReader]) -> None:
        self._open_reader = open_reader

    async def letters(self, wanted: LetterFilter) -> AsyncGenerator[list[Record]]:
        """The dead letters that are there now and may pass, oldest first within each partition."""
        async with self.reader() as reader:
            spans = await reader.spans(await reader.partitions([DLQ]))
            async for records in reader.read(_narrowed(spans, wanted)):
                if passing := [r for r in records if wanted.may_match(Place(r.partition, r.offset), r.headers)]:
                    yield passing

    async def letter(self, place: Place) -> Record | None:
        """The record at a place of `platform.dlq`; None where there is none."""
        async with self.reader() as reader:
            partition = Partition(DLQ, place.partition)
            partitions = await reader.partitions([DLQ])
            span = (await reader.spans([partition]))[partition] if partition in partitions else Span(0, 0)
            if not span.start <= place.offset < span.end:
                return None
            found = [r async for rs in reader.read({partition: Span(place.offset, place.offset + 1)}) for r in rs]
            return found[0] if found else None

    async def redrive_log(self, end: int | None = None) -> RedriveLog:
        """What was redriven, up to an offset of `platform.redrives`; or to where nothing is undecided yet.

        Raises RedriveLogError where a record cannot be read.
        """
        log = RedriveLog()
        async with self.reader() as reader:
            try:
                [partition] = await reader.partitions([REDRIVES])
            except UnknownTopicError:
                if end is not None:
                    raise
                return log  # no worker of this version has started yet
            span = (await reader.spans([partition]))[partition]
            async for records in reader.read({partition: Span(span.start, span.end if end is None else end)}):
                for record in records:
                    log.add(record.value)
        return log

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[LogReader]:
        """A reader that is started; it is closed at the end."""
        reader = self._open_reader()
        await reader.start()
        try:
            yield reader
        finally:
            await reader.stop()


class Text(msgspec.Struct, omit_defaults=True):
    """Bytes, as text where they are UTF-8, else in Base64."""

    text: str | None = None
    base64: str | None = None

    @classmethod
    def of(cls, data: bytes) -> Text:
        """The view of these bytes."""
        try:
            return cls(text=data.decode())
        except UnicodeDecodeError:
            return cls(base64=_base64(data))


class LetterSummary(msgspec.Struct):
    """A dead letter, without the record that it keeps. Times are milliseconds since the Unix epoch."""

    partition: int
    offset: int
    stored_at: int
    """Kafka's timestamp of the letter."""
    reason: str | None
    detail: str | None
    source_topic: str | None
    source_partition: int | None
    source_offset: int | None
    event_topic: str | None
    attempts: int
    replays: int
    failed_at: int | None
    key: Text | None
    value_bytes: int
    error: str | None = None
    """Why the letter itself cannot be read, where it cannot; then its headers alone are told."""


class Header(msgspec.Struct):
    """One header; the same name may come again."""

    name: str
    value: Text


class Decoded(msgspec.Struct):
    """The kept value, read as what it claims to be, or looks like; it need not be a valid event."""

    format: str | None
    document: msgspec.Raw
    """As JSON; null where `error` says why it cannot be read."""
    error: str | None = None
    detail: str | None = None


class Raw(msgspec.Struct):
    """The kept record, byte for byte."""

    key: str | None
    """In Base64, as the value."""
    value: str | None
    headers: list[Header]


class LetterView(msgspec.Struct):
    """One dead letter in full."""

    letter: LetterSummary
    decoded: Decoded
    raw: Raw
    redriven_by: str | None
    """The id of the run that redrove it; None where none did."""


class LetterBrowser:
    """Looks at dead letters for a person."""

    def __init__(self, store: LetterStore, codec: AvroCodec, loader: SchemaLoader, registry: SchemaRegistry) -> None:
        self._store = store
        self._codec = codec
        self._loader = loader
        self._registry = registry

    async def page(
        self, wanted: LetterFilter, limit: int, before: Mapping[int, int] | None = None
    ) -> Page[LetterSummary]:
        """The newest letters that pass, newest first; `before` is where the page begins, by partition."""
        async with self._store.reader() as reader:
            spans = _narrowed(await reader.spans(await reader.partitions([DLQ])), wanted)
            page = NewestFirst[LetterSummary](
                {p.partition: (*span,) for p, span in spans.items()}, limit, before=before
            )
            while windows := page.windows():
                async for records in reader.read({Partition(DLQ, p): Span(*span) for p, span in windows.items()}):
                    page.looked_at(len(records), sum(len(r.value or b"") for r in records))
                    page.add(records[0].partition, await self._found(records, wanted))
                    await asyncio.sleep(0)
            return page.page()

    async def view(self, place: Place) -> LetterView | None:
        """One letter in full; None where there is none."""
        record = await self._store.letter(place)
        if record is None:
            return None
        log = await self._store.redrive_log()
        summary, letter = await self._read(record)
        if letter is None:
            decoded = Decoded(None, _NULL, summary.error, "the letter itself cannot be read: this is its own record")
            raw = _raw(record.key, record.value, record.headers)
        else:
            decoded = await self._decoded(letter)
            raw = _raw(letter.key, letter.value, letter.headers)
        return LetterView(summary, decoded, raw, log.redriven.get(place))

    async def _found(self, records: list[Record], wanted: LetterFilter) -> list[Found[LetterSummary]]:
        found = []
        for record in records:
            place = Place(record.partition, record.offset)
            if not wanted.may_match(place, record.headers):
                continue
            summary, letter = await self._read(record)
            if letter is None or wanted.matches(place, letter):
                found.append(Found(record.offset, record.timestamp_ms, summary))
        return found

    async def _read(self, record: Record) -> tuple[LetterSummary, DeadLetter | None]:
        try:
            letter = await read_letter(record, self._codec, self._loader)
        except UNREADABLE as exc:
            return _by_headers(record, exc.code), None
        return summarised(record, letter), letter

    async def _decoded(self, letter: DeadLetter) -> Decoded:
        value = letter.value or b""
        format_ = None
        try:
            format_ = _format_of(letter)
            return Decoded(format_.value, await self._document(value, format_))
        except PlatformError as exc:
            # The registry's errors too: the raw view can be had without it.
            return Decoded(format_.value if format_ is not None else None, _NULL, exc.code, str(exc))

    async def _document(self, value: bytes, format_: Format) -> msgspec.Raw:
        if format_ in {Format.JSON, Format.CLOUDEVENTS}:
            return _json(value)
        if format_ is Format.PROTOBUF:
            return msgspec.Raw(msgspec.json.encode(protobuf_fields(value)))
        schema_id, body = unframe(value)
        schema = await self._registry.schema(schema_id)
        try:
            # By its own schema, whatever that is: what an event lacks is what one wants to see.
            return msgspec.Raw(msgspec.json.encode(fastavro.schemaless_reader(io.BytesIO(body), parse(schema), None)))
        except Exception as exc:
            # On bytes of strangers fastavro raises whatever its parser stumbles over (see streams.codecs).
            raise MalformedEventError(f"not a record of schema {schema_id}: {type(exc).__name__}: {exc}") from exc


async def read_letter(record: Record, codec: AvroCodec, loader: SchemaLoader) -> DeadLetter:
    """The letter in a record of `platform.dlq`. Raises MalformedEventError, UnknownSchemaError, the registry's."""
    value = record.value or b""
    return await loader.read(lambda: codec.decode_dead_letter(value))


def summarised(record: Record, letter: DeadLetter) -> LetterSummary:
    """A letter without its record."""
    return LetterSummary(
        record.partition,
        record.offset,
        record.timestamp_ms,
        letter.reason,
        letter.detail,
        letter.source_topic,
        letter.source_partition,
        letter.source_offset,
        event_topic_of(letter),
        letter.attempts,
        letter.replays,
        letter.failed_at,
        None if letter.key is None else Text.of(letter.key),
        len(letter.value or b""),
    )


def _by_headers(record: Record, error: str) -> LetterSummary:
    return LetterSummary(
        record.partition,
        record.offset,
        record.timestamp_ms,
        header(record.headers, REASON_HEADER),
        header(record.headers, "dlq-detail"),
        header(record.headers, SOURCE_TOPIC_HEADER),
        None,
        None,
        None,
        0,
        0,
        None,
        None if record.key is None else Text.of(record.key),
        len(record.value or b""),
        error,
    )


def _narrowed(spans: Mapping[Partition, Span], wanted: LetterFilter) -> dict[Partition, Span]:
    """What must be read of these spans: where letters are named, from the first to the last of them."""
    if not wanted.letters:
        return dict(spans)
    narrowed = {}
    for partition, span in spans.items():
        offsets = [place.offset for place in wanted.letters if place.partition == partition.partition]
        inside = [offset for offset in offsets if span.start <= offset < span.end]
        if inside:
            narrowed[partition] = Span(min(inside), max(inside) + 1)
    return narrowed


def _format_of(letter: DeadLetter) -> Format:
    if letter.source_topic == INGRESS and (content_type := header(letter.headers, CONTENT_TYPE)):
        return Format.of(content_type)
    return Format.detect(letter.value or b"")


def _json(value: bytes) -> msgspec.Raw:
    try:
        # Syntax alone: numbers stay as they were written. msgspec leaves UTF-8 inside strings unchecked.
        value.decode()
        msgspec.json.decode(value, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedEventError(str(exc) or "nested too deep") from exc
    return msgspec.Raw(value)


def _raw(key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes], ...]) -> Raw:
    return Raw(
        None if key is None else _base64(key),
        None if value is None else _base64(value),
        [Header(name, Text.of(data)) for name, data in headers],
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
