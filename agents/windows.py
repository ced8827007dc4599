"""`platform.aggregates` -> the tables of windows: the newest revision of each closed window, and the newest windows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, cast

import faust
from faust.types import StreamT

from agents.outcome import BuryingPipeline, dead_letter, may_pass
from streams.domain.aggregates import AggregatedEvent, supersedes
from streams.domain.naming import AGGREGATES
from streams.domain.windows import MINUTE_MS, WINDOW_KINDS
from streams.faust_app import Platform, app
from streams.kafka.batching import Batch, Changes, ReceivedRecord, Transaction
from streams.topics import HOUR_MS
from tables.windows import WindowRow, newest, newest_key, window_key, windows


class Windows(BuryingPipeline):
    """Upserts each result; a lower revision of a window never replaces a higher one."""

    name = "windows"
    tables = (windows, newest)

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform)
        self._retention_ms: Final = platform.settings.aggregate_retention_hours * HOUR_MS

    def takes(self, topic: str) -> bool:
        return topic == AGGREGATES

    async def handle(self, transaction: Transaction, records: Sequence[ReceivedRecord]) -> None:
        platform = self._platform
        rows, newest_rows = transaction.rows(windows), transaction.rows(newest)
        for record in records:
            # The topic is compacted: a tombstone says nothing about a window that has closed.
            if (value := record.value) is None:
                continue
            try:
                result = await platform.loader.read(partial(platform.codec.decode_aggregate, value))
            except Exception as exc:
                if may_pass(exc):
                    raise
                await dead_letter(platform, transaction, record, exc)
            else:
                self._upsert(rows, newest_rows, WindowRow(result, record.offset))

    def _upsert(self, rows: Changes[WindowRow], newest_rows: Changes[WindowRow], row: WindowRow) -> None:
        result = row.result
        kind = newest_key(result.topic, result.event_type, result.window)
        last = newest_rows.get(kind)
        newest_start = result.window_start if last is None else max(result.window_start, last.result.window_start)
        if result.window_start <= newest_start - self._retention_ms:
            return
        key = window_key(*result.identity)
        known = rows.get(key)
        if not supersedes(result, None if known is None else known.result):
            return
        rows.put(key, row)
        if last is None or result.window_start >= last.result.window_start:
            newest_rows.put(kind, row)
            if last is not None:
                self._expire(rows, result, last.result.window_start)

    def _expire(self, rows: Changes[WindowRow], result: AggregatedEvent, before: int) -> None:
        """Remove the windows of this kind that the step of the newest one, from `before`, leaves behind."""
        kind = WINDOW_KINDS.get(result.window)
        slide = MINUTE_MS if kind is None else kind.slide_ms
        last = min(before, result.window_start - self._retention_ms)
        for start in range(before - self._retention_ms, last + 1, slide):
            key = window_key(result.topic, result.event_type, result.window, start)
            if rows.get(key) is not None:
                rows.remove(key)


aggregates = app.topic(AGGREGATES, key_serializer="raw", value_serializer="raw", acks=False)
app.engine.add(Windows(app.platform))


@app.agent(aggregates, name="agents.windows")
async def fold_windows(stream: StreamT[Any]) -> None:
    """Hand over each batch: the engine works on it in transactions, partition by partition."""
    async for batch in cast("faust.Stream[Batch]", stream):
        app.engine.put(batch)
