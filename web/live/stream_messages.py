"""The messages of a live stream, as the bytes of whole WebSocket frames.

An event is rendered once for everybody who watches; only its cursor, which is put before the rest, may be a client's
own. Those who are in step share whole frames too, and one write for all that came at once: with two hundred clients,
what is done for each of them and each event is a look into a dictionary.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import fastavro
import msgspec

from streams import schemas
from streams.codecs import AvroCodec, event_to_protobuf, parse
from streams.domain import cursor as cursors
from streams.domain.errors import PlatformError
from streams.domain.headers import TRACEPARENT, header
from streams.feed import Entry
from streams.kafka.consumer import Record
from streams.registry import SchemaLoader
from streams.schemas import event_pb2
from web.read.records import RecordFilter, read_event, stored_event

_TEXT: Final = 0x81
_BINARY: Final = 0x82
"""The first byte of a frame (RFC 6455, section 5.2): the last of its message, and what it holds."""
_MEDIUM: Final = struct.Struct(">BBH")
_LARGE: Final = struct.Struct(">BBQ")

_SHARED: Final = 64
"""How many writes are remembered: one a topic and format would do."""
_AVRO: Final = parse(schemas.STREAM_MESSAGE)


class StreamFormat(StrEnum):
    """What events are sent as. All other messages are JSON, in text frames."""

    JSON = "json"
    AVRO = "avro"
    PROTOBUF = "protobuf"


class Missing(msgspec.Struct):
    """Offsets of one partition, from <= offset < to."""

    partition: int
    start: int = msgspec.field(name="from")
    end: int = msgspec.field(name="to")


class Gap(msgspec.Struct, tag="gap", tag_field="type"):
    """Events are missing: the client was too slow, or the log has them no more."""

    cursor: str
    """Where the stream goes on."""
    before: str = msgspec.field(name="from")
    """Where a stream that has them begins, as long as the log does."""
    missed: int
    """How many at most, those that a filter would have left out among them."""
    reason: str
    """`slow` or `expired`."""
    ranges: list[Missing]


class Position(msgspec.Struct, tag="position", tag_field="type"):
    """How far the stream has come: at its beginning, and where it came on without an event for this client."""

    cursor: str


def frame(first: int, *parts: bytes) -> bytes:
    """One unmasked frame, as a server sends it."""
    size = sum(map(len, parts))
    if size < 126:
        head = bytes((first, size))
    elif size < 65_536:
        head = _MEDIUM.pack(first, 126, size)
    else:
        head = _LARGE.pack(first, 127, size)
    return b"".join((head, *parts))


def gap_frame(gap: cursors.Gap) -> bytes:
    """The frame that tells of a gap."""
    ranges = [Missing(*range_) for range_ in gap.ranges]
    return frame(_TEXT, msgspec.json.encode(Gap(gap.after, gap.before, gap.missed, gap.reason, ranges)))


def position_frame(cursor: str) -> bytes:
    """The frame that tells how far a stream has come."""
    return frame(_TEXT, msgspec.json.encode(Position(cursor)))


class StreamMessages:
    """Renders events for all clients of a worker."""

    def __init__(self, codec: AvroCodec, loader: SchemaLoader) -> None:
        self._codec = codec
        self._loader = loader
        self._shared: dict[tuple[str, StreamFormat], tuple[Entry, Entry, bytes]] = {}

    async def frames(
        self, entries: Sequence[Entry], format_: StreamFormat, wanted: RecordFilter
    ) -> tuple[bytes, Sequence[Entry]]:
        """The frames of those entries that are wanted, in one piece, and which they are.

        Raises RegistryUnavailableError or RegistryAccessError where a schema must be looked up and cannot be.
        """
        if wanted.all:
            return await self._for_all(entries, format_), entries
        chosen = [entry for entry in entries if wanted.matches(entry.record)]
        return b"".join([await self._frame(entry, format_) for entry in chosen]), chosen

    async def _for_all(self, entries: Sequence[Entry], format_: StreamFormat) -> bytes:
        if not entries:
            return b""
        first, last = entries[0], entries[-1]
        key = (first.record.topic, format_)
        shared = self._shared.get(key)
        if shared is not None and shared[0] is first and shared[1] is last:
            return shared[2]
        data = b"".join([await self._frame(entry, format_) for entry in entries])
        self._shared[key] = (first, last, data)
        if len(self._shared) > _SHARED:
            del self._shared[next(iter(self._shared))]
        return data

    async def _frame(self, entry: Entry, format_: StreamFormat) -> bytes:
        body = entry.bodies.get(format_)
        if body is None:
            body = entry.bodies[format_] = await self._body(entry.record, format_)
        cursor = entry.cursor.encode()
        match format_:
            case StreamFormat.JSON:
                return frame(_TEXT, b'{"type":"event","cursor":"', cursor, b'",', body)
            case StreamFormat.AVRO:
                # A string is its length, in zigzag, and its bytes.
                return frame(_BINARY, _varint(len(cursor) << 1), cursor, body)
            case StreamFormat.PROTOBUF:
                # Field 1, of wire type 2: its length and its bytes.
                return frame(_BINARY, b"\x0a", _varint(len(cursor)), cursor, body)

    async def _body(self, record: Record, format_: StreamFormat) -> bytes:
        """The message without its cursor, which is the first field in every format."""
        match format_:
            case StreamFormat.JSON:
                return msgspec.json.encode(await stored_event(record, self._codec, self._loader))[1:]
            case StreamFormat.AVRO:
                return _avro_body(record)
            case StreamFormat.PROTOBUF:
                return await self._protobuf_body(record)

    async def _protobuf_body(self, record: Record) -> bytes:
        message = event_pb2.StreamMessage(
            partition=record.partition,
            offset=record.offset,
            stored_at=record.timestamp_ms,
            traceparent=header(record.headers, TRACEPARENT),
        )
        event = await read_event(record, self._codec, self._loader)
        if isinstance(event, PlatformError):
            message.error = event.code
        else:
            message.event.ParseFromString(event_to_protobuf(event))
        return message.SerializeToString()


def _avro_body(record: Record) -> bytes:
    out = io.BytesIO()
    message = {
        "cursor": "",
        "partition": record.partition,
        "offset": record.offset,
        "stored_at": record.timestamp_ms,
        "traceparent": header(record.headers, TRACEPARENT),
        "event": record.value or b"",
    }
    fastavro.schemaless_writer(out, _AVRO, message)
    # The empty cursor is one byte, its length.
    return out.getvalue()[1:]


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
