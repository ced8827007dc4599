"""What is kept of a record that cannot be processed: its bytes untouched, where it came from, and why."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from streams.domain.errors import PlatformError
from streams.domain.headers import Headers

REASON_HEADER = "dlq-reason"
SOURCE_TOPIC_HEADER = "dlq-source-topic"
REPLAYS_HEADER = "dlq-replays"
MAX_DETAIL = 1_000
"""Characters kept of an error's text: a document may have a million faults."""


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """One record of `platform.dlq`."""

    reason: str
    """A stable code: that of a `PlatformError`."""
    detail: str
    source_topic: str
    source_partition: int | None
    """None, as the offset, where the record never reached Kafka."""
    source_offset: int | None
    attempts: int
    replays: int
    failed_at: int
    """Milliseconds since the Unix epoch."""
    key: bytes | None
    value: bytes | None
    headers: Headers

    def kafka_headers(self) -> Headers:
        """The `dlq-*` headers, so that a record can be found without decoding its value."""
        facts: dict[str, object] = {
            REASON_HEADER: self.reason,
            "dlq-detail": self.detail,
            SOURCE_TOPIC_HEADER: self.source_topic,
            "dlq-source-partition": self.source_partition,
            "dlq-source-offset": self.source_offset,
            "dlq-attempts": self.attempts,
            REPLAYS_HEADER: self.replays,
        }
        return tuple((k, str(v).encode("utf-8", "backslashreplace")) for k, v in facts.items() if v is not None)


def bury(
    error: Exception,
    *,
    topic: str,
    partition: int | None,
    offset: int | None,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    attempts: int,
    now_ms: int,
) -> DeadLetter:
    """The dead letter of a record that failed with this error.

    An error that is not a `PlatformError` is a bug of ours; it is kept under the code `internal`.
    """
    code = error.code if isinstance(error, PlatformError) else PlatformError.code
    return DeadLetter(
        reason=code,
        detail=(str(error) if isinstance(error, PlatformError) else f"{type(error).__name__}: {error}")[:MAX_DETAIL],
        source_topic=topic,
        source_partition=partition,
        source_offset=offset,
        attempts=attempts,
        replays=_replays(headers),
        failed_at=now_ms,
        key=key,
        value=value,
        headers=tuple(headers),
    )


def _replays(headers: Sequence[tuple[str, bytes]]) -> int:
    for name, value in headers:
        if name == REPLAYS_HEADER and value.isdigit():
            return int(value)
    return 0
