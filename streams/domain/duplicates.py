"""Which event ids a partition has seen lately: bounded in time and number, and cheap to keep in a changelog.

Ids are kept in blocks, one for each batch of work, so that remembering a thousand of them is one row. A block is
forgotten as a whole: when it is older than the window, or when there are more ids than allowed. So an id is known for
the window at least, unless more ids than the limit came after it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import msgspec

ID_BYTES = 16


class IdBlock(msgspec.Struct, frozen=True, gc=False):
    """The event ids of one batch of work, as the table holds them."""

    offset: int
    """The last offset of the input partition that is among them; blocks are in its order."""
    seen_at: int
    """When they were seen, milliseconds since the Unix epoch."""
    ids: bytes
    """16 bytes each (RFC 9562)."""


def id_bytes(event_id: str) -> bytes:
    """An event id in 16 bytes."""
    return uuid.UUID(event_id).bytes


class SeenIds:
    """The ids in the blocks of one partition."""

    def __init__(self, window_ms: int, max_ids: int) -> None:
        if window_ms < 1 or max_ids < 1:
            raise ValueError("window_ms and max_ids must be 1 or more")
        self._window_ms = window_ms
        self._max_ids = max_ids
        self._blocks: dict[str, IdBlock] = {}
        self._ids: dict[bytes, str] = {}
        """Each id, and the block that had it last."""

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, event_id: bytes) -> bool:
        return event_id in self._ids

    def put(self, name: str, block: IdBlock) -> None:
        """Remember the ids of a block."""
        self.remove(name)
        self._blocks[name] = block
        for id_ in split(block.ids):
            self._ids[id_] = name

    def remove(self, name: str) -> None:
        """Forget a block, and those of its ids that came in no later one."""
        if (block := self._blocks.pop(name, None)) is not None:
            for id_ in split(block.ids):
                if self._ids.get(id_) == name:
                    del self._ids[id_]

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()
        self._ids.clear()

    def overdue(self, now_ms: int, coming: int) -> list[str]:
        """The blocks to be removed, oldest first, when so many more ids come now."""
        names = []
        held = len(self._ids) + coming
        # They were put in the order of their offsets, here and in the changelog.
        for name, block in self._blocks.items():
            if now_ms - block.seen_at <= self._window_ms and held <= self._max_ids:
                break
            names.append(name)
            held -= len(block.ids) // ID_BYTES
        return names


def split(ids: bytes) -> Iterator[bytes]:
    """The ids of a block."""
    return (ids[start : start + ID_BYTES] for start in range(0, len(ids), ID_BYTES))
