"""The event as the platform handles it in memory, whatever format it came in.

The wire contracts are in `streams/schemas`; a test keeps the fields of both the same.
"""

from __future__ import annotations

import msgspec

from streams.domain.partitioning import partition_key


class Event(msgspec.Struct, frozen=True, gc=False):
    """One valid event. Made only by `streams.domain.validation`, so whoever holds one may trust it."""

    event_id: str
    """UUID (RFC 9562), lower case: the identity for de-duplication."""
    event_type: str
    timestamp: int
    """Event time, milliseconds since the Unix epoch."""
    user_id: str | None = None
    device_id: str | None = None
    value: float | None = None
    """What windows aggregate; always finite."""
    source: str | None = None
    payload: str = "{}"
    """A JSON object, as text, kept as it was sent."""

    @property
    def key(self) -> bytes:
        """The message key in Kafka."""
        return partition_key(self.user_id, self.device_id)
