"""What the producer has done since the worker started: counted by it, told by the metrics page."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

BATCH_RECORDS_BOUNDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)
"""Upper bounds of the histogram of records in a batch; what is larger comes last."""


@dataclass(slots=True)
class ProducerStats:
    """Counts that only grow."""

    records: int = 0
    """Records that Kafka has acknowledged."""
    bytes: int = 0
    """Their keys, values and headers, before compression."""
    batch_records: list[int] = field(default_factory=lambda: [0] * (len(BATCH_RECORDS_BOUNDS) + 1))
    """Acknowledged batches by their number of records: for each bound those up to it and above the one before."""
    retries: int = 0
    """Batches that were sent again, whole or in halves."""
    failed: int = 0
    """Records that were given up, whatever the reason."""
    sessions: int = 0
    """Connections that were made: one at the start, and one after each batch that failed for good."""

    def written(self, records: int, size: int) -> None:
        """A batch of so many records and bytes was acknowledged."""
        self.records += records
        self.bytes += size
        self.batch_records[bisect_left(BATCH_RECORDS_BOUNDS, records)] += 1
