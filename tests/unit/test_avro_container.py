"""Avro object container files of strangers: read by schema resolution, bounded, and never beyond what is broken."""

from __future__ import annotations

import io
import json
import tracemalloc
import zlib
from typing import Any

import cramjam
import fastavro
import msgspec
import pytest
from backports import zstd

from streams import schemas
from streams.batches import BatchFormat, read_batch
from streams.codecs import events_to_avro_container
from streams.domain.envelope import Event
from streams.domain.errors import InvalidEventError, MalformedEventError, TooManyRecordsError
from streams.domain.validation import EventRules
from tests.strategies import NOW_MS

EVENTS = [
    Event(f"00000000-0000-4000-8000-{number:012d}", "a", number, "u", None, number / 2, "s", '{"n": [1]}')
    for number in range(50)
]
SCHEMA = json.loads(schemas.EVENT)
CODECS = ["null", "deflate", "snappy", "zstandard"]
SYNC = bytes(range(16))


def read(body: bytes, max_records: int = 100, max_bytes: int = 1_000_000) -> list[Event | InvalidEventError]:
    return list(
        read_batch(
            body,
            BatchFormat.AVRO,
            rules=EventRules(),
            now_ms=NOW_MS,
            new_event_id=lambda _: "made",
            max_records=max_records,
            max_inflated_bytes=max_bytes,
        )
    )


def written(
    events: list[Event], codec: str = "null", schema: Any = SCHEMA, *, block: int = 16_000, **more: Any
) -> bytes:
    out = io.BytesIO()
    records = [msgspec.structs.asdict(event) | more for event in events]
    fastavro.writer(out, fastavro.parse_schema(schema), records, codec=codec, sync_interval=block, sync_marker=SYNC)
    return out.getvalue()


def by_hand(schema: Any, codec: str, *blocks: tuple[int, bytes]) -> bytes:
    """A file whose blocks say and hold what the test wants."""
    out = io.BytesIO(b"")
    out.write(b"Obj\x01")
    metadata = {"avro.schema": json.dumps(schema, separators=(",", ":")).encode(), "avro.codec": codec.encode()}
    fastavro.schemaless_writer(out, {"type": "map", "values": "bytes"}, metadata)
    out.write(SYNC)
    for count, data in blocks:
        for number in (count, len(data)):
            fastavro.schemaless_writer(out, "long", number)
        out.write(data + SYNC)
    return out.getvalue()


def told(results: list[Event | InvalidEventError]) -> MalformedEventError:
    """The one error, at the end, that stands for the rest."""
    *before, last = results
    assert all(isinstance(result, Event) for result in before)
    assert isinstance(last, MalformedEventError)
    assert "all after it were not read" in str(last)
    return last


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("block", [1, 16_000])
def test_a_file_of_every_codec_is_read(codec, block):
    assert read(written(EVENTS, codec, block=block)) == EVENTS


def test_what_we_write_we_read_and_so_does_fastavro():
    body = events_to_avro_container(EVENTS)
    assert read(body) == EVENTS
    assert len(list(fastavro.reader(io.BytesIO(body)))) == len(EVENTS)


def test_a_schema_of_the_senders_own_is_read_by_its_envelope():
    fields = [field for field in SCHEMA["fields"] if field["name"] != "source"]
    own = {**SCHEMA, "name": "Reading", "namespace": "customer", "fields": [*reversed(fields)]}
    own["fields"].insert(3, {"name": "tags", "type": {"type": "array", "items": ["null", "string"]}})
    [event] = read(written(EVENTS[:1], schema=own, tags=["x", None]))
    assert event == msgspec.structs.replace(EVENTS[0], source=None)


def test_a_payload_that_is_a_record_becomes_json_and_a_block_of_it_is_small():
    payload = {"type": "record", "name": "P", "fields": [{"name": "n", "type": {"type": "array", "items": "int"}}]}
    typed = {**SCHEMA, "fields": [*SCHEMA["fields"][:-1], {"name": "payload", "type": payload}]}
    assert read(written(EVENTS[:1], schema=typed, payload={"n": [1, 2]})) == [
        msgspec.structs.replace(EVENTS[0], payload='{"n":[1,2]}')
    ]
    large = written(EVENTS[:1], schema=typed, payload={"n": [1] * 1_100_000})
    tracemalloc.start()
    try:
        assert "a block is more than 1048576 bytes" in str(told(read(large, max_bytes=10_000_000)))
        assert tracemalloc.get_traced_memory()[1] < 4 * len(large)
    finally:
        tracemalloc.stop()


def test_a_record_that_breaks_a_rule_spoils_no_other():
    bad = msgspec.structs.replace(EVENTS[1], event_type="1")
    first, second, third = read(written([EVENTS[0], bad, EVENTS[2]]))
    assert (first, third) == (EVENTS[0], EVENTS[2])
    assert isinstance(second, InvalidEventError)
    assert [error.path for error in second.errors] == ["/event_type"]


@pytest.mark.parametrize("codec", CODECS)
def test_of_a_file_that_breaks_in_the_middle_what_is_before_is_read(codec):
    body = written(EVENTS, codec, block=1)
    cut = read(body[: len(body) * 2 // 3])
    assert 20 < len(cut) < 40
    told(cut)
    assert cut[:-1] == EVENTS[: len(cut) - 1]


@pytest.mark.parametrize("codec", ["snappy", "zstandard"])
def test_a_damaged_block_ends_what_is_read(codec):
    whole = written(EVENTS, codec, block=1)
    starts = [at for at in range(len(whole)) if whole.startswith(SYNC, at)]
    body = bytearray(whole)
    # The last byte of the eleventh block.
    body[starts[11] - 1] ^= 0xFF
    results = read(bytes(body))
    assert "not compressed as the file says" in str(told(results))
    assert results[:-1] == EVENTS[:10]


@pytest.mark.parametrize("codec", ["deflate", "zstandard"])
def test_a_compressed_block_that_is_cut_off_ends_what_is_read(codec):
    data = {"deflate": deflated, "zstandard": zstd.compress}[codec](bytes(range(200)))
    assert "not compressed as the file says: EOFError" in str(told(read(by_hand(SCHEMA, codec, (1, data[:-3])))))


def test_a_wrong_mark_after_a_block_ends_what_is_read():
    body = written(EVENTS, block=1)
    assert "mark" in str(told(read(body[:-1] + b"x")))
    assert len(read(body[:-1] + b"x")) == len(EVENTS)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "does not begin with Obj"),
        (b"Obj\x02", "does not begin with Obj"),
        (b"Obj\x01", "header"),
        (b"Obj\x01\x00" + SYNC, "without a schema"),
        (written(EVENTS)[:600], "header|cut off"),
        (by_hand("{", "null"), "schema of the Avro file"),
        (by_hand({"type": "nonsense"}, "null"), "schema of the Avro file"),
        (by_hand(SCHEMA, "xz"), "'xz' is not one of null, deflate, snappy, zstandard"),
        (by_hand(SCHEMA | {"doc": "x" * 70_000}, "null"), "larger than 65536"),
        (by_hand(SCHEMA, "null"), "no record"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_malformed(body, says):
    with pytest.raises(MalformedEventError, match=says):
        read(body)


def test_there_may_be_so_many_records_and_no_more():
    assert len(read(written(EVENTS), 50)) == 50
    with pytest.raises(TooManyRecordsError):
        read(written(EVENTS, block=1), 49)
    with pytest.raises(TooManyRecordsError):
        read(by_hand(SCHEMA, "null", (2**62, b"")))


ZEROS = bytes(50_000_000)
CRC = zlib.crc32(ZEROS).to_bytes(4, "big")


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        ("deflate", deflated(ZEROS)),
        ("snappy", bytes(cramjam.snappy.compress_raw(ZEROS)) + CRC),
        # It says that it is 2 GiB, and has nothing: room for that must not be made.
        ("snappy", b"\xff\xff\xff\xff\x07" + bytes(10)),
        ("zstandard", zstd.compress(ZEROS)),
    ],
    ids=["deflate", "snappy", "snappy that lies", "zstandard"],
)
def test_a_block_is_inflated_no_further_than_it_may_be(codec, data):
    body = by_hand(SCHEMA, codec, (1, data))
    tracemalloc.start()
    try:
        assert "inflated" in str(told(read(body)))
        assert tracemalloc.get_traced_memory()[1] < 3 * len(body) + 3_000_000
    finally:
        tracemalloc.stop()


def test_what_is_not_compressed_may_be_as_large_as_the_body_may():
    assert len(read(written(EVENTS), max_bytes=10)) == len(EVENTS)


def test_blocks_together_are_inflated_no_further_than_they_may_be():
    large = [msgspec.structs.replace(event, payload=f'{{"a": "{"x" * 10_000}"}}') for event in EVENTS]
    results = read(written(large, "deflate", block=1), max_bytes=100_000)
    assert "the blocks are more than 100000 bytes" in str(told(results))
    assert results[:-1] == large[:9]


@pytest.mark.parametrize("codec", CODECS)
def test_blocks_without_records_are_counted_too(codec):
    """Each is inflated by a decompressor of its own: an 8 MiB file has 300,000 of them, and seconds of work."""
    nothing = {"null": b"", "deflate": b"\x03\x00", "snappy": bytes(5), "zstandard": zstd.compress(b"")}[codec]
    with pytest.raises(TooManyRecordsError):
        read(by_hand(SCHEMA, codec, *[(0, nothing)] * 101))
    with pytest.raises(MalformedEventError, match="no record"):
        read(by_hand(SCHEMA, codec, *[(0, nothing)] * 100))


@pytest.mark.parametrize(
    "type_",
    [
        "null",
        {"type": "null"},
        {"type": "array", "items": "null"},
        {"type": "map", "values": "null"},
        {"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}},
        {"type": "array", "items": {"type": "record", "name": "R", "fields": []}},
        {"type": "record", "name": "R", "fields": [{"name": "r", "type": "R"}]},
        {"type": "record", "name": "R", "fields": [{"name": "r", "type": ["null", "R"]}]},
        {"type": "record", "name": "R", "namespace": "n", "fields": [{"name": "r", "type": {"type": "array", "items": "n.R"}}]},
        ["null", "Event"],
    ],
)  # fmt: skip
def test_a_schema_by_which_few_bytes_could_be_much_work_is_refused(type_):
    hostile = SCHEMA | {"fields": [{"name": "bomb", "type": type_}, *SCHEMA["fields"]]}
    with pytest.raises(MalformedEventError, match="schema of the Avro file"):
        read(by_hand(hostile, "null", (1, b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" + b"\x02" * 100)))


def test_a_schema_that_nests_deep_is_refused_however_it_does_so():
    nested: Any = "int"
    for _ in range(40):
        nested = {"type": "array", "items": nested}
    with pytest.raises(MalformedEventError, match="deeper"):
        read(by_hand(SCHEMA | {"fields": [{"name": "deep", "type": nested}]}, "null"))
    text = b'{"type":"array","items":' * 2_000 + b'"int"' + b"}" * 2_000
    body = by_hand(SCHEMA, "null").replace(json.dumps(json.dumps(SCHEMA))[1:-1].encode(), text)
    with pytest.raises(MalformedEventError):
        read(body)


@pytest.mark.parametrize(("records", "fields"), [(500, ["x"]), (60, ["x", "y"])])
def test_a_long_chain_of_named_records_is_no_harm(records, fields):
    """Neither as deep as it goes, nor where each record has the one before it twice."""
    last = "int"
    chain = []
    for n in range(records):
        type_ = {"type": "record", "name": f"R{n}", "fields": [{"name": name, "type": last} for name in fields]}
        chain.append({"name": f"r{n}", "type": type_})
        last = f"R{n}"
    results = read(by_hand(SCHEMA | {"fields": [*chain, *SCHEMA["fields"]]}, "null", (1, bytes(600))))
    assert isinstance(results[-1], MalformedEventError)
