"""Which worker has which parts of a table, when a question needs all of them. Half a table would be half the truth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from streams.domain.errors import KafkaUnavailableError, UnavailableError
from streams.kafka.batching import Source, Table
from tables.here import Snapshot, TableView
from tables.routing import by_owner, count_partitions

RETRY_AFTER_S: Final = 2.0

_COUNTS_TTL_S: Final = 2.0
_COUNTS_TIMEOUT_S: Final = 1.0


class Shares(NamedTuple):
    """Who has what of the input partitions that were asked for."""

    here: frozenset[Source]
    """Complete, and nobody else's by now."""
    others: dict[str, set[Source]]
    """By the worker's URL."""


class Placement:
    """What Kafka and the last rebalance say of partitions and their owners."""

    def __init__(self, view: TableView) -> None:
        self._view = view
        self._counts: Mapping[str, int] = {}
        self._counted_at = float("-inf")

    async def partitions(self) -> Mapping[str, int]:
        """How many partitions each topic has. Raises KafkaUnavailableError or KafkaAccessError.

        Kafka is asked once in a while; while it is away, what was known is the answer, and what workers have since.
        """
        if time.monotonic() - self._counted_at >= _COUNTS_TTL_S:
            try:
                async with asyncio.timeout(_COUNTS_TIMEOUT_S):
                    self._counts = await self._view.partitions()
            except (UnavailableError, TimeoutError) as exc:
                if not self._counts:
                    raise KafkaUnavailableError("Kafka did not say in time which partitions there are") from exc
            self._counted_at = time.monotonic()
        return count_partitions(self._counts, self._view.owners())

    def shares(self, table: Table[Any], sources: AbstractSet[Source], now: Snapshot) -> Shares:
        """Who has the parts of a table for these input partitions. Raises UnavailableError where nobody has one yet."""
        held = now.held(table)
        here = frozenset(source for source in sources if source in held)
        others, nobody = by_owner(sources - here, self._view.owners(), self._view.url)
        if nobody:
            reason = now.not_ready(table) or f"no worker has {min(nobody)} yet"
            raise not_ready(reason)
        return Shares(here, others)


def not_ready(reason: str) -> UnavailableError:
    """The error where a part of a table that is needed cannot be read now."""
    return UnavailableError(f"the table is not complete: {reason}", retry_after_s=RETRY_AFTER_S)


def check_held(wanted: AbstractSet[Source], held: AbstractSet[Source]) -> None:
    """Return if another worker has what it was asked for. Raises UnavailableError.

    What it gave away, or is restoring: that nothing was found of it says nothing.
    """
    if missing := wanted - held:
        raise not_ready(f"{min(missing)} is not ready")
