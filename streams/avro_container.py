"""Avro object container files: a schema, then blocks of records, each of which may be compressed.

Read a block at a time by hand: whoever reads strangers' files must stop before a block becomes too large, and fastavro
inflates it whole. Source: Avro 1.12 specification, "Object Container Files".
"""

from __future__ import annotations

import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import cramjam
import fastavro
from backports import zstd

from streams import schemas
from streams.codecs import Schema, parse, text_payload, under_name_of
from streams.domain.avro_bounds import UnsafeSchemaError, check_bounded
from streams.domain.errors import MalformedEventError, TooManyRecordsError

_MAGIC: Final = b"Obj\x01"
_SYNC_BYTES: Final = 16
_METADATA: Final = fastavro.parse_schema({"type": "map", "values": "bytes"})
_LONG: Final = fastavro.parse_schema("long")
_EVENT: Final = parse(schemas.EVENT)

_MAX_SCHEMA_BYTES: Final = 65_536
_MAX_SCHEMA_DEPTH: Final = 32
_CRC_BYTES: Final = 4
# Where the payload is a record of the sender's, fastavro makes objects of it: many times as large as it was.
_MAX_TYPED_BLOCK: Final = 1_048_576
# 8 MiB, which RFC 8878, section 3.1.1.1.2, recommends: a frame may ask for a window of gigabytes.
_MAX_WINDOW_LOG: Final = 23


class _Head(NamedTuple):
    """What a file says before its blocks."""

    writer: Schema
    reader: Schema
    inflate: Callable[[bytes, int], bytes]
    """What a block becomes: all of it, or its first so many bytes."""
    sync: bytes
    """What stands after each block."""
    max_block: int
    """Bytes that a block may become."""


class _Block(NamedTuple):
    """Records, as they are in the file."""

    records: int
    data: bytes


class _BrokenError(Exception):
    """A part of the file cannot be read, nor what comes after it."""


def read_events(
    data: bytes, *, max_records: int, max_bytes: int
) -> Iterator[Mapping[str, object] | MalformedEventError]:
    """The envelopes of a file's records, in order, whatever schema they were written with; not validated.

    A file that breaks in the middle ends with an error, which stands for all the rest; so does one whose blocks are
    more than `max_bytes` when they are inflated. Raises MalformedEventError where the file cannot be read at all, and
    TooManyRecordsError.
    """
    source = io.BytesIO(data)
    head = _head(source)
    blocks, broken = _split(source, head.sync, max_records)
    return _told(_records(head, blocks, broken, max_bytes))


def _head(source: io.BytesIO) -> _Head:
    if source.read(len(_MAGIC)) != _MAGIC:
        raise MalformedEventError("not an Avro object container file: it does not begin with Obj and 1")
    try:
        metadata: Any = fastavro.schemaless_reader(source, _METADATA, None)
    # On bytes of strangers fastavro raises whatever its parser stumbles over.
    except Exception as exc:
        raise MalformedEventError(f"the header of the Avro file is broken: {type(exc).__name__}: {exc}") from exc
    sync = source.read(_SYNC_BYTES)
    if len(sync) < _SYNC_BYTES or "avro.schema" not in metadata:
        raise MalformedEventError("the header of the Avro file is cut off, or without a schema")
    codec = metadata.get("avro.codec", b"null").decode("ascii", "replace")
    if codec not in _CODECS:
        raise MalformedEventError(f"the Avro codec {codec[:20]!r} is not one of {', '.join(_CODECS)}")
    writer, reader = _schemas(metadata["avro.schema"])
    typed = any(field["name"] == "payload" and field["type"] != "string" for field in reader["fields"])
    return _Head(writer, reader, _CODECS[codec], sync, _MAX_TYPED_BLOCK if typed else sys.maxsize)


@lru_cache(maxsize=32)
def _schemas(text: bytes) -> tuple[Schema, Schema]:
    """The writer's schema, and the reader's that fits it. Raises MalformedEventError."""
    if len(text) > _MAX_SCHEMA_BYTES:
        raise MalformedEventError(f"the schema of the Avro file is larger than {_MAX_SCHEMA_BYTES} bytes")
    try:
        document = json.loads(text)
        check_bounded(document, _MAX_SCHEMA_DEPTH)
        writer = parse(json.dumps(document))
        return writer, under_name_of(writer, _EVENT)
    except UnsafeSchemaError as exc:
        raise MalformedEventError(f"the schema of the Avro file cannot be read safely: {exc}") from exc
    # fastavro raises KeyError, TypeError, ValueError and its own for what is no schema.
    except Exception as exc:
        raise MalformedEventError(f"the schema of the Avro file is none: {type(exc).__name__}: {exc}") from exc


def _split(source: io.BytesIO, sync: bytes, max_records: int) -> tuple[list[_Block], str | None]:
    """The blocks, and what is wrong with the file after the last of them. Raises TooManyRecordsError."""
    blocks: list[_Block] = []
    total = 0
    end = len(source.getbuffer())
    while source.tell() < end:
        try:
            records: Any = fastavro.schemaless_reader(source, _LONG, None)
            size: Any = fastavro.schemaless_reader(source, _LONG, None)
        # As above.
        except Exception as exc:  # noqa: BLE001
            return blocks, f"a block's size cannot be read: {type(exc).__name__}"
        if records < 0 or not 0 <= size <= end - source.tell() - _SYNC_BYTES:
            return blocks, "a block is cut off"
        # One without records is a block to be inflated too.
        total += max(1, records)
        if total > max_records:
            raise TooManyRecordsError(max_records)
        data = source.read(size)
        if source.read(_SYNC_BYTES) != sync:
            return blocks, "a block does not end with the file's mark"
        blocks.append(_Block(records, data))
    return blocks, None


def _told(records: Iterator[Mapping[str, object]]) -> Iterator[Mapping[str, object] | MalformedEventError]:
    try:
        yield from records
    except _BrokenError as exc:
        yield MalformedEventError(f"{exc}; this record of the Avro file and all after it were not read")


def _records(
    head: _Head, blocks: Iterable[_Block], broken: str | None, max_bytes: int
) -> Iterator[Mapping[str, object]]:
    """Raises _BrokenError where the file breaks."""
    left = max_bytes
    for block in blocks:
        room = min(left, head.max_block)
        data = _inflated(block.data, head.inflate, room)
        if len(data) > room:
            what = f"the blocks are more than {max_bytes}" if room == left else f"a block is more than {room}"
            raise _BrokenError(f"{what} bytes when they are inflated")
        left -= len(data)
        source = io.BytesIO(data)
        for _ in range(block.records):
            yield _record(source, head)
        if source.read(1):
            raise _BrokenError("a block has more bytes than records")
    if broken is not None:
        raise _BrokenError(broken)


def _inflated(data: bytes, inflate: Callable[[bytes, int], bytes], left: int) -> bytes:
    try:
        return inflate(data, left + 1)
    except _BrokenError:
        raise
    # zlib.error, ZstdError, cramjam's and ours: each codec has its own.
    except Exception as exc:
        raise _BrokenError(f"a block is not compressed as the file says: {type(exc).__name__}") from exc


def _record(source: io.BytesIO, head: _Head) -> Mapping[str, object]:
    try:
        record = fastavro.schemaless_reader(source, head.writer, head.reader)
        if isinstance(record, dict):
            return text_payload(record)
    # As above; and a payload that is a record may be none in JSON.
    except Exception as exc:
        raise _BrokenError(f"not a record of the file's schema: {type(exc).__name__}: {exc}") from exc
    raise _BrokenError("the file's schema is no record")


def _stored(data: bytes, _limit: int) -> bytes:
    return data


def _inflate(data: bytes, limit: int) -> bytes:
    # Without zlib's header, as the specification has it.
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = decompressor.decompress(data, limit)
    if not decompressor.eof and len(inflated) < limit:
        raise EOFError
    return inflated


def _unsnap(data: bytes, limit: int) -> bytes:
    packed, crc = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
    # What it says of itself is how much the library makes room for, and it holds it to that.
    if cramjam.snappy.decompress_raw_len(packed) >= limit:
        raise _BrokenError("a block is larger than it may be when it is inflated")
    inflated = bytes(cramjam.snappy.decompress_raw(packed))
    if zlib.crc32(inflated).to_bytes(_CRC_BYTES, "big") != crc:
        raise ValueError("checksum")
    return inflated


def _unzstd(data: bytes, limit: int) -> bytes:
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG})
    inflated = decompressor.decompress(data, limit)
    if not decompressor.eof and len(inflated) < limit:
        raise EOFError
    return inflated


_CODECS: Final[Mapping[str, Callable[[bytes, int], bytes]]] = {
    "null": _stored,
    "deflate": _inflate,
    "snappy": _unsnap,
    "zstandard": _unzstd,
}
