"""How many dead letters there were of each reason and source topic."""

from __future__ import annotations

from typing import Final

import msgspec

from streams.kafka.batching import Table


class LetterTotal(msgspec.Struct, frozen=True, gc=False):
    """The dead letters of one reason and source topic in one partition of `platform.dlq`. Times are epoch ms."""

    reason: str
    source_topic: str
    count: int
    first_at: int
    last_at: int
    offset: int
    """The last offset that was counted."""


dead_letters: Final = Table("dead-letters", LetterTotal, help="dead letters by reason and source topic")


def letter_key(reason: str, source_topic: str) -> str:
    """The key of a total."""
    return f"{reason}/{source_topic}"


def letters_by_reason() -> dict[tuple[str, str], int]:
    """Dead letters by (reason, source topic), in the partitions that this worker has."""
    counts: dict[tuple[str, str], int] = {}
    for _, _, row in dead_letters.items():
        key = (row.reason, row.source_topic)
        counts[key] = counts.get(key, 0) + row.count
    return counts
