"""The event ids that the ingest agent has stored lately, for its optional de-duplication."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streams.domain.duplicates import IdBlock, SeenIds
from streams.faust_app import app
from streams.kafka.batching import MemoryStore, Table


class SeenStore(MemoryStore[IdBlock]):
    """Blocks of ids, and an index of them. Always in memory: it is asked about every record, and is bounded."""

    def __init__(self) -> None:
        super().__init__()
        settings = app.platform.settings
        self.ids = SeenIds(settings.deduplicate_window_s * 1000, settings.deduplicate_max_ids)

    def apply(self, changes: Mapping[str, IdBlock | None], position: int | None) -> None:
        super().apply(changes, position)
        for name, block in changes.items():
            if block is None:
                self.ids.remove(name)
            else:
                self.ids.put(name, block)

    def reset(self) -> None:
        super().reset()
        self.ids.clear()


seen: Final = Table("seen-ids", IdBlock, help="event ids that ingest has stored lately", store=SeenStore)
