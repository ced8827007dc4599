"""The body of an `Event` in Avro and back, laid by hand for this one record.

The schema is `streams/schemas/event.avsc`: its fields one after the other, without names or gaps. The bytes are
those that every Avro library writes, at a fraction of the time that walking the schema takes.
"""

from __future__ import annotations

import struct
from typing import Final

from streams.domain.envelope import Event
from streams.domain.errors import MalformedEventError

# A union is the index of its branch, then the value. All of ours are null or something else, and an index is
# a long like any other, so zigzagged: 1 is written as 2.
_NULL: Final = b"\x00"
_SOME: Final = b"\x02"

_DOUBLE: Final = struct.Struct("<d")
_SOME_DOUBLE: Final = struct.Struct("<Bd")

# The times of 1970-07-18 to 2039-09-07: zigzagged, they have six bytes of seven bits.
_SIX_BYTES: Final = struct.Struct("6B")
_SIX_BYTES_FROM: Final = 1 << 34
_SIX_BYTES_TO: Final = 1 << 41
# All bytes of a varint but the last have the top bit set; this is what those five bits add up to.
_FIVE_TOP_BITS: Final = sum(0x80 << 7 * place for place in range(5))

_LONG_BITS: Final = 64
_LONG_MAX_BYTES: Final = 10


def _varint(number: int) -> bytes:
    """A number from 0 on, seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _long(number: int) -> bytes:
    """A number of either sign: zigzagged, so that those near 0 are short."""
    if number.bit_length() >= _LONG_BITS and number != -(1 << 63):
        raise OverflowError(f"{number} is no 64-bit integer")
    return _varint(number << 1 if number >= 0 else ~(number << 1))


class _Lengths(dict[int, bytes]):
    """The bytes of a text's length; those of a long text are made when asked for, and not kept."""

    def __missing__(self, length: int) -> bytes:
        return _long(length)


# All that have one byte or two.
_LENGTHS: Final = _Lengths({length: _long(length) for length in range(1 << 13)})


def encode(event: Event) -> bytes:
    """The Avro body of an event, without a frame.

    A valid event has one. Of others, raises OverflowError for a timestamp that is no 64-bit integer, and
    UnicodeEncodeError for a text with a lone surrogate.
    """
    event_id = event.event_id.encode()
    event_type = event.event_type.encode()
    time = event.timestamp
    user_id = event.user_id
    device_id = event.device_id
    value = event.value
    source = event.source
    payload = event.payload.encode()
    if _SIX_BYTES_FROM <= time < _SIX_BYTES_TO:
        timestamp = _SIX_BYTES.pack(
            time << 1 & 0x7E | 0x80,
            time >> 6 & 0x7F | 0x80,
            time >> 13 & 0x7F | 0x80,
            time >> 20 & 0x7F | 0x80,
            time >> 27 & 0x7F | 0x80,
            time >> 34,
        )
    else:
        timestamp = _long(time)
    return b"".join(
        (
            _LENGTHS[len(event_id)],
            event_id,
            _LENGTHS[len(event_type)],
            event_type,
            timestamp,
            _NULL if user_id is None else _some_text(user_id),
            _NULL if device_id is None else _some_text(device_id),
            _NULL if value is None else _SOME_DOUBLE.pack(2, value),
            _NULL if source is None else _some_text(source),
            _LENGTHS[len(payload)],
            payload,
        )
    )


def _some_text(text: str) -> bytes:
    encoded = text.encode()
    return _SOME + _LENGTHS[len(encoded)] + encoded


def decode(body: bytes | memoryview, offset: int = 0) -> Event:
    """The event in an Avro body that begins at the offset and goes to the end. Raises MalformedEventError.

    The bytes are read as the schema says; whether the event keeps the rules of `streams.domain.validation` is
    not looked at.
    """
    data = body if isinstance(body, bytes) else bytes(body)
    try:
        return _decode(data, offset)
    # Past the end an index or an unpacking fails; a slice does not, but what comes after it does.
    except (IndexError, struct.error):
        raise MalformedEventError("the bytes end too early") from None
    except UnicodeDecodeError as exc:
        raise MalformedEventError(f"a text is not UTF-8: {exc.reason}") from None


# One straight run, without a call for each field: the calls would cost more than the work. A byte is looked at
# where it is, and only what is not of the usual kind (`& 0x81`: a length of several bytes or a negative one;
# `& 0xFD`: neither branch of a union) is read by a function.
def _decode(data: bytes, at: int) -> Event:  # noqa: C901, PLR0912, PLR0915  (see above)
    size = data[at]
    if size & 0x81:
        size, at = _read_size(data, at)
    start = at + 1
    at = start + (size >> 1)
    event_id = data[start:at].decode()

    size = data[at]
    if size & 0x81:
        size, at = _read_size(data, at)
    start = at + 1
    at = start + (size >> 1)
    event_type = data[start:at].decode()

    # At least six bytes follow, however short the time is: one of it, four branches, one length.
    a, b, c, d, e, f = _SIX_BYTES.unpack_from(data, at)
    if a & b & c & d & e > 0x7F >= f:
        zigzag = a + (b << 7) + (c << 14) + (d << 21) + (e << 28) + (f << 35) - _FIVE_TOP_BITS
        at += 6
    else:
        zigzag, at = _read_varint(data, at)
        at += 1
    timestamp = zigzag >> 1 ^ -(zigzag & 1)

    user_id = None
    branch = data[at]
    if branch & 0xFD:
        branch, at = _read_branch(data, at)
    at += 1
    if branch:
        size = data[at]
        if size & 0x81:
            size, at = _read_size(data, at)
        start = at + 1
        at = start + (size >> 1)
        user_id = data[start:at].decode()

    device_id = None
    branch = data[at]
    if branch & 0xFD:
        branch, at = _read_branch(data, at)
    at += 1
    if branch:
        size = data[at]
        if size & 0x81:
            size, at = _read_size(data, at)
        start = at + 1
        at = start + (size >> 1)
        device_id = data[start:at].decode()

    value = None
    branch = data[at]
    if branch & 0xFD:
        branch, at = _read_branch(data, at)
    at += 1
    if branch:
        value = _DOUBLE.unpack_from(data, at)[0]
        at += 8

    source = None
    branch = data[at]
    if branch & 0xFD:
        branch, at = _read_branch(data, at)
    at += 1
    if branch:
        size = data[at]
        if size & 0x81:
            size, at = _read_size(data, at)
        start = at + 1
        at = start + (size >> 1)
        source = data[start:at].decode()

    size = data[at]
    if size & 0x81:
        size, at = _read_size(data, at)
    start = at + 1
    at = start + (size >> 1)
    if at != len(data):
        raise MalformedEventError("bytes are left over" if at < len(data) else "the bytes end too early")
    return Event(event_id, event_type, timestamp, user_id, device_id, value, source, data[start:].decode())


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number as it is written, still zigzagged, and the index of its last byte.

    More bytes than a number needs are as good as fewer. Of a tenth byte only the lowest bit has a place in 64 bits;
    the others are dropped, as Avro's libraries do.
    """
    number = 0
    for place in range(_LONG_MAX_BYTES):
        byte = data[at + place]
        number |= (byte & 0x7F) << 7 * place
        if byte <= 0x7F:
            return number & (1 << _LONG_BITS) - 1, at + place
    raise MalformedEventError(f"a number has more than {_LONG_MAX_BYTES} bytes")


def _read_size(data: bytes, at: int) -> tuple[int, int]:
    """Twice the length of a text, and the index of the last byte of that length."""
    size, at = _read_varint(data, at)
    if size & 1:
        raise MalformedEventError("a text has a negative length")
    if size >> 1 > len(data):
        raise MalformedEventError("the bytes end too early")
    return size, at


def _read_branch(data: bytes, at: int) -> tuple[int, int]:
    """Twice the index of a union's branch, and the index of its last byte."""
    branch, at = _read_varint(data, at)
    if branch not in {0, 2}:
        raise MalformedEventError("a union has no such branch")
    return branch, at
