"""The lag of consumer groups, asked of Kafka now and then, so that no scrape of metrics waits for it.

One worker tells it for all: the one that has the first partition of `platform.ingress`, which one always has. Were it
told by each worker, sums over workers would count it more than once; were it told of each worker's own partitions
only, nobody would tell that of a group whose consumers are dead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from streams.domain.errors import PlatformError
from streams.domain.naming import INGRESS
from streams.kafka.batching import Source
from streams.kafka.consumer import Partition
from tables.here import TableView

log = logging.getLogger(__name__)

FIRST: Final = Source(INGRESS, 0)
Ask = Callable[[str], Awaitable[Mapping[Partition, int]]]


class GroupLagWatch:
    """Looks every `interval_s` seconds; `now` is what it saw last."""

    def __init__(self, ask: Ask, groups: Sequence[str], view: TableView, interval_s: float) -> None:
        self._ask = ask
        self._groups = groups
        self._view = view
        self._interval_s = interval_s
        self._seen: dict[str, Mapping[Partition, int]] = {}
        self._failing: set[str] = set()
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._looking = asyncio.get_running_loop().create_task(self._look_on(), name="group-lag")

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
            self._looking = None

    @property
    def now(self) -> Mapping[str, Mapping[Partition, int]]:
        """For each group what it has still to read, by partition. Of a group that could not be asked, nothing."""
        return self._seen if self.is_ours else {}

    @property
    def is_ours(self) -> bool:
        """Whether this worker is the one that tells it."""
        return any(status.source == FIRST for status in self._view.status())

    async def look(self) -> None:
        """Ask once for every group, if it is ours to tell."""
        if not self.is_ours:
            self._seen = {}
            return
        for group in self._groups:
            try:
                self._seen[group] = await self._ask(group)
                self._failing.discard(group)
            except PlatformError as exc:
                # What was seen before would look like a group that stands still, or goes on.
                self._seen.pop(group, None)
                if group not in self._failing:
                    self._failing.add(group)
                    log.warning("the lag of the group %s is not known: %s", group, exc)

    async def _look_on(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                # Metrics must not end with it, and the next look may find things better.
                log.exception("the lag of groups could not be looked at")
            await asyncio.sleep(self._interval_s)
