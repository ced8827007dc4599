"""How many bytes topics take on the brokers' disks (KIP-113, DescribeLogDirs).

Neither client library has the call; aiokafka has all that it is made of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Int64, Schema, String

from streams.kafka.errors import translated
from streams.kafka.security import aiokafka_options
from streams.settings import Settings

_KEY: Final = 35


class _AnswerV1(Response):  # type: ignore[misc]
    API_KEY = _KEY
    API_VERSION = 1
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            Array(
                ("error_code", Int16),
                ("log_dir", String("utf-8")),
                (
                    "topics",
                    Array(
                        ("name", String("utf-8")),
                        (
                            "partitions",
                            Array(
                                ("partition", Int32),
                                ("size", Int64),
                                ("offset_lag", Int64),
                                ("is_future", Boolean),
                            ),
                        ),
                    ),
                ),
            ),
        ),
    )


class _QuestionV1(RequestStruct):  # type: ignore[misc]
    API_KEY = _KEY
    API_VERSION = 1
    RESPONSE_TYPE = _AnswerV1
    SCHEMA = Schema(("topics", Array(("topic", String("utf-8")), ("partitions", Array(Int32)))))


class _Question(Request[_QuestionV1]):  # type: ignore[misc]
    API_KEY = _KEY

    def __init__(self, topics: Mapping[str, int]) -> None:
        self._topics = [(name, list(range(partitions))) for name, partitions in topics.items()]

    def build(self, request_struct_class: type[_QuestionV1]) -> _QuestionV1:
        return request_struct_class(self._topics)


async def partition_bytes(settings: Settings, topics: Mapping[str, int]) -> dict[str, dict[int, int]]:
    """The bytes of each partition, by topic, given how many partitions each topic has.

    One replica's, and the largest: that of the leader, or as large. A partition that no broker answers for is left out.
    Raises KafkaUnavailableError or KafkaAccessError.
    """
    found: dict[str, dict[int, int]] = {name: {} for name in topics}
    with translated("ask for the size of topics"):
        client = AIOKafkaClient(**aiokafka_options(settings), client_id=f"{settings.app_id}-sizes")
        try:
            await client.bootstrap()
            brokers = [broker.nodeId for broker in client.cluster.brokers()]
            for answer in await asyncio.gather(*(client.send(broker, _Question(topics)) for broker in brokers)):
                _add(found, answer.results)
        finally:
            await client.close()
    return found


def _add(
    found: dict[str, dict[int, int]], results: list[tuple[int, str, list[tuple[str, list[tuple[int, ...]]]]]]
) -> None:
    """Add one broker's answer, directory by directory. A directory that is offline has an error code and no topics."""
    for _, _, topics in results:
        for name, partitions in topics:
            for partition, size, _, is_future in partitions:
                # A future replica is being moved to another disk: the partition is counted where it still is.
                if not is_future:
                    found[name][partition] = max(size, found[name].get(partition, 0))
