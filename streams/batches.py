"""Bodies of many events: one result a record, in order, and a bad record never spoils its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache, partial
from typing import Final

import msgspec

from streams import cloudevents
from streams.avro_container import read_events
from streams.domain.envelope import Event
from streams.domain.errors import (
    InvalidEventError,
    MalformedEventError,
    TooManyRecordsError,
    UnsupportedFormatError,
)
from streams.domain.headers import media_type
from streams.domain.telling import Telling
from streams.domain.validation import EventRules, event_from_fields, event_from_json

MAX_INFLATED_BYTES: Final = 16_777_216
"""What the blocks of an Avro file may become when they are inflated."""


class BatchFormat(StrEnum):
    """The formats a batch may come in, by content type."""

    NDJSON = "application/x-ndjson"
    JSON = "application/json"
    CLOUDEVENTS = "application/cloudevents-batch+json"
    AVRO = "application/avro"
    """An Avro object container file."""

    @classmethod
    def of(cls, content_type: str) -> BatchFormat:
        """The format of a Content-Type, its parameters ignored. Raises UnsupportedFormatError."""
        name = media_type(content_type)
        try:
            return cls(_OTHER_NAMES.get(name, name))
        except ValueError:
            raise UnsupportedFormatError(content_type, tuple(cls)) from None


# None of these is registered, and all are in use.
_OTHER_NAMES: Final = dict.fromkeys(
    ("application/ndjson", "application/jsonl", "application/jsonlines", "application/x-jsonlines"),
    BatchFormat.NDJSON.value,
)


def read_batch(
    body: bytes,
    format_: BatchFormat,
    *,
    rules: EventRules,
    now_ms: int,
    new_event_id: Callable[[int], str],
    max_records: int,
    max_inflated_bytes: int = MAX_INFLATED_BYTES,
) -> Iterator[Event | InvalidEventError]:
    """What becomes of each record of a batch, looked at when it is asked for: the event, or what is wrong with it.

    `new_event_id` is called with the place, from 0, of a record without an id. Blank lines between records of NDJSON
    are no records. Of an Avro file that breaks in the middle, the last result is an error that stands for all the rest;
    the same where its blocks are more than `max_inflated_bytes`, but for those that are not compressed.

    Raises MalformedEventError where the body cannot be taken apart, or has no record, and TooManyRecordsError; both
    before the first result.
    """
    records: Iterable[bytes | Mapping[str, object] | MalformedEventError]
    match format_:
        case BatchFormat.NDJSON:
            records = _lines(body, max_records)
        case BatchFormat.JSON | BatchFormat.CLOUDEVENTS:
            records = _elements(body, max_records)
        case BatchFormat.AVRO:
            records = read_events(body, max_records=max_records, max_bytes=max(max_inflated_bytes, len(body)))
    telling = Telling()
    place = -1
    for place, record in enumerate(records):
        made = partial(new_event_id, place)
        try:
            if isinstance(record, MalformedEventError):
                yield record
            elif not isinstance(record, bytes):
                yield event_from_fields(record, rules, now_ms, made)
            elif format_ is BatchFormat.CLOUDEVENTS:
                yield cloudevents.structured(record, rules=rules, now_ms=now_ms, new_event_id=made)
            else:
                yield event_from_json(record, rules, now_ms, made)
        except InvalidEventError as exc:
            yield telling.of(exc)
    if place < 0:
        raise MalformedEventError("the batch has no record")


def _lines(body: bytes, max_records: int) -> Sequence[bytes]:
    """The lines that are not blank. There may be as many blank ones besides, so that neither fills the memory."""
    lines = body.split(b"\n", 2 * max_records + 1)
    if len(lines) > 2 * max_records + 1 and not lines.pop().isspace():
        raise TooManyRecordsError(max_records)
    records = [line for line in lines if line and not line.isspace()]
    if len(records) > max_records:
        raise TooManyRecordsError(max_records)
    return records


def _elements(body: bytes, max_records: int) -> Sequence[bytes]:
    """The elements of a JSON array, each as it is."""
    try:
        elements = msgspec.structs.astuple(_array_of(max_records).decode(body))
    except msgspec.ValidationError as exc:
        if body.lstrip().startswith(b"["):
            raise TooManyRecordsError(max_records) from None
        raise MalformedEventError("expected a JSON array") from exc
    except (msgspec.DecodeError, RecursionError) as exc:
        raise MalformedEventError(f"not a JSON array: {exc}") from exc
    return [bytes(element) for element in elements if element is not None]


@lru_cache(maxsize=4)
def _array_of(max_records: int) -> msgspec.json.Decoder[msgspec.Struct]:
    """Decodes an array of at most so many elements.

    A struct, because msgspec knows how many members one has before it makes them. The length of a list it checks in the
    end: the four million elements of an array of 8 MiB would take 300 MB until then.
    """
    fields = [(f"record_{number}", msgspec.Raw, None) for number in range(max_records)]
    array = msgspec.defstruct("Array", fields, array_like=True, forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(array)
