"""As much of a WebSocket client's framing (RFC 6455, section 5.2) as counting messages needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9

_OPCODE: Final = 0x0F
_LENGTH: Final = 0x7F
_TWO_BYTES: Final = 126
_EIGHT_BYTES: Final = 127
_PONG: Final = b"\x8a"


class FrameReader:
    """Takes bytes as they come, gives whole frames: opcode and payload. A server masks nothing and fragments nothing."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames that are complete now."""
        buffer = self._rest + data if self._rest else data
        start, size = 0, len(buffer)
        while size - start >= 2:
            length = buffer[start + 1] & _LENGTH
            body = start + 2
            if length == _TWO_BYTES:
                body += 2
            elif length == _EIGHT_BYTES:
                body += 8
            if size < body:
                break
            if length >= _TWO_BYTES:
                length = int.from_bytes(buffer[start + 2 : body])
            if size < body + length:
                break
            yield buffer[start] & _OPCODE, buffer[body : body + length]
            start = body + length
        self._rest = buffer[start:]


def pong(payload: bytes) -> bytes:
    """The answer to a ping of at most 125 bytes, as clients send it: masked, by zeros."""
    return _PONG + bytes((0x80 | len(payload),)) + bytes(4) + payload
