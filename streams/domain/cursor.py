"""How far a stream of a topic has come, as the text that clients keep and come back with.

A cursor names the *next* offset of each partition, as Kafka's own committed offsets do: `0:18,1:43` has seen
offset 17 of partition 0 and offset 42 of partition 1. So a partition of which nothing was seen yet has a place
in it too, and a cursor of all partitions says exactly what was seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Positions = Mapping[int, int]
"""The next offset of each partition, by the partition's number."""

_CURSOR: Final = re.compile(r"[0-9]{1,10}:[0-9]{1,19}(,[0-9]{1,10}:[0-9]{1,19})*", re.ASCII)
_MAX_OFFSET: Final = 2**63 - 1
_MAX_PARTITION: Final = 2**31 - 1


class CursorError(ValueError):
    """A cursor that no message of this topic's stream can have had."""


class Range(NamedTuple):
    """Offsets of one partition, start <= offset < end."""

    partition: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that a stream does not give."""

    before: str
    """The cursor before them: where a stream that gives them begins, as long as the log has them."""
    after: str
    """The cursor after them: where this stream goes on."""
    missed: int
    """How many at most: offsets may be those of transactions' ends, which nobody sees."""
    ranges: tuple[Range, ...]
    reason: Literal["slow", "expired"]
    """`slow`: the client did not keep up. `expired`: the log has them no more."""


def parse_cursor(text: str) -> dict[int, int]:
    """The positions that a cursor names. Raises CursorError."""
    if _CURSOR.fullmatch(text) is None:
        raise CursorError("expected latest, earliest, or the cursor of a message, such as 0:18,1:43")
    positions: dict[int, int] = {}
    for part in text.split(","):
        partition, _, offset = part.partition(":")
        if int(partition) > _MAX_PARTITION or int(offset) > _MAX_OFFSET:
            raise CursorError(f"{part} is no place in a topic")
        if int(partition) in positions:
            raise CursorError(f"partition {int(partition)} is named twice")
        positions[int(partition)] = int(offset)
    return positions


def format_cursor(positions: Positions) -> str:
    """The cursor of these positions, in the order in which they are given."""
    return ",".join([f"{partition}:{offset}" for partition, offset in positions.items()])


def place(cursor: Positions, spans: Mapping[int, tuple[int, int]]) -> tuple[dict[int, int], Gap | None]:
    """Where a stream goes on from a cursor, given start and end (the next offset) of every partition of the topic.

    - A partition that the cursor does not name was added after it: all of its records are new, from offset 0 on.
    - What retention has taken since is told as a gap.

    Raises CursorError for a partition that the topic does not have, and for an offset past its end: such a cursor is
    another topic's, or one of a topic of the same name that is no more.
    """
    positions: dict[int, int] = {}
    expired: list[Range] = []
    for partition in cursor:
        if partition not in spans:
            raise CursorError(f"the topic has no partition {partition}")
    for partition, (start, end) in sorted(spans.items()):
        wanted = cursor.get(partition, 0)
        if wanted > end:
            raise CursorError(f"partition {partition} ends at {end}, before {wanted}: the cursor is not of this topic")
        if wanted < start:
            expired.append(Range(partition, wanted, start))
        positions[partition] = max(wanted, start)
    before = {partition: cursor.get(partition, 0) for partition in positions}
    return positions, gap_of(before, positions, expired, "expired") if expired else None


def gap_of(
    before: Positions,
    after: Positions,
    ranges: list[Range],
    reason: Literal["slow", "expired"],
    missed: int | None = None,
) -> Gap:
    """A gap between two places; as large as its ranges unless `missed` knows better."""
    size = sum(end - start for _, start, end in ranges) if missed is None else missed
    return Gap(format_cursor(before), format_cursor(after), size, tuple(ranges), reason)
