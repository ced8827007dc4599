"""How far consumer groups are behind the ends of what they read. The groups are not joined.

Asked by aiokafka: librdkafka aborts the whole process when a broker comes back late to a question about a group's
offsets that has timed out (confluentinc/librdkafka#4605, open), and a broker that comes back is what a worker outlives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient

from streams.kafka.consumer import Partition, open_reader
from streams.kafka.errors import translated
from streams.kafka.security import aiokafka_options
from streams.retrying import retrying
from streams.settings import Settings

_TIMEOUT_MS: Final = 5_000


class GroupLags:
    """Asks Kafka, by connections of each question's own: there are two, now and then."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def of(self, group: str) -> dict[Partition, int]:
        """The offsets that a group has still to read, of each partition where it has committed one.

        They count to the last stable offset, which is how far a reader of committed records can come. Raises
        KafkaUnavailableError or KafkaAccessError.
        """
        # Right after its start, a broker knows no coordinator for a while.
        committed = await retrying(lambda: self._committed(group), self._settings.retry_policy(_TIMEOUT_MS / 1000))
        if not committed:
            return {}
        async with open_reader(self._settings, "lag") as reader:
            spans = await reader.spans(await reader.partitions({partition.topic for partition in committed}))
        return behind(committed, {partition: span.end for partition, span in spans.items()})

    async def _committed(self, group: str) -> dict[Partition, int]:
        """What a group has committed in topics that are still there."""
        admin = AIOKafkaAdminClient(
            **aiokafka_options(self._settings),
            client_id=f"{self._settings.app_id}-lag",
            request_timeout_ms=_TIMEOUT_MS,
        )
        with translated(f"ask for the offsets of the group {group}"):
            try:
                await admin.start()
                found = await admin.list_consumer_group_offsets(group)
                # A group remembers topics that were deleted.
                there = set(await admin.list_topics())
            finally:
                await admin.close()
        return {
            Partition(tp.topic, tp.partition): committed.offset
            for tp, committed in found.items()
            if tp.topic in there and committed.offset >= 0
        }


def behind(committed: Mapping[Partition, int], ends: Mapping[Partition, int]) -> dict[Partition, int]:
    """What is between the two, of each partition that still has an end; never less than nothing."""
    return {partition: max(0, ends[partition] - offset) for partition, offset in committed.items() if partition in ends}
