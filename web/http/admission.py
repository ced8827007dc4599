"""How many bytes of request bodies are read at the same time."""

from __future__ import annotations

from types import TracebackType

from aiohttp import hdrs, web

from streams.domain.errors import OverloadedError


class BodyAdmission:
    """Bounds the bytes of request bodies that are read at the same time, as sent: before they are decompressed."""

    def __init__(self, limit_bytes: int) -> None:
        self._free = limit_bytes

    def body(self, request: web.Request, limit: int) -> _Reading:
        """Hold the bytes of the request's body, of at most `limit`: `with admission.body(request, limit): …`.

        A body that does not say its length (chunked) counts as `limit` bytes. Raises OverloadedError where too
        much is being read already; nothing of this body was.
        """
        length = request.content_length
        if length is None:
            length = limit if hdrs.TRANSFER_ENCODING in request.headers else 0
        elif length > limit:
            # It is refused unread.
            length = 0
        if length > self._free:
            raise OverloadedError("too many bytes of request bodies are being read")
        self._free -= length
        return _Reading(self, length)

    def give_back(self, length: int) -> None:
        """Bytes that were held are free again."""
        self._free += length


class _Reading:
    """A body that is being read. Not a generator's context manager: that costs a microsecond."""

    __slots__ = ("_admission", "_length")

    def __init__(self, admission: BodyAdmission, length: int) -> None:
        self._admission = admission
        self._length = length

    def __enter__(self) -> None:
        """It was admitted when it was made."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.give_back(self._length)
