"""Topics: made before anything uses them, and compared with what they should be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewPartitions, NewTopic

from streams.domain.errors import ConfigurationError, KafkaUnavailableError, PlatformError, TopicExistsError
from streams.kafka.consumer import Partition, Span
from streams.kafka.errors import translate_confluent
from streams.kafka.security import confluent_options
from streams.retrying import retrying
from streams.settings import Settings

T = TypeVar("T")

_TIMEOUT_S: Final = 10.0
_ATTEMPTS: Final = 20
_PAUSE_S: Final = 0.25
_EARLIEST: Final = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: Final = OffsetSpec.latest()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be."""

    name: str
    partitions: int
    replication_factor: int
    configs: Mapping[str, str] = field(default_factory=dict)
    may_grow: bool = False
    """Whether it is given more partitions as they are needed, and so may have more than this."""


class TopicAdmin:
    """Creates, lists and checks topics. Every method raises KafkaUnavailableError or KafkaAccessError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._partitions: dict[str, int] = {}

    @cached_property
    def _client(self) -> AdminClient:
        # On first use: it starts threads and connects. librdkafka would log each failed connection by itself;
        # the caller reports the error once.
        options = confluent_options(self._settings)
        return AdminClient({**options, "log_level": 0, "client.id": self._settings.app_id})

    async def ping(self) -> None:
        """Return if a broker answers."""
        await asyncio.to_thread(self._list, 3.0)

    async def topics(self) -> dict[str, int]:
        """The number of partitions of each topic that exists."""
        metadata = await asyncio.to_thread(self._list, _TIMEOUT_S)
        return {name: len(topic.partitions) for name, topic in metadata.topics.items()}

    async def create(self, specs: Iterable[TopicSpec]) -> list[str]:
        """Create the topics that do not exist, and return their names, once all partitions have a leader.

        Safe beside others who do the same.
        """
        existing = await self.topics()
        missing = [spec for spec in specs if spec.name not in existing]
        if not missing:
            return []
        new = [
            NewTopic(
                s.name, num_partitions=s.partitions, replication_factor=s.replication_factor, config=dict(s.configs)
            )
            for s in missing
        ]
        created = []
        for name, done in self._client.create_topics(new, operation_timeout=_TIMEOUT_S).items():
            try:
                await self._result(done, f"create topic {name}")
                created.append(name)
            except _TopicExistsError:
                continue  # another worker was faster
        # Brokers answer before they know the topic themselves: whoever asks for it at once would be told that there is none.
        led = partial(self._require_leaders, {spec.name: spec.partitions for spec in missing if spec.name in created})
        await retrying(led, self._settings.retry_policy(_TIMEOUT_S))
        return created

    async def _require_leaders(self, topics: Mapping[str, int]) -> None:
        # First the metadata: librdkafka keeps what it learns of a topic too early, that it has no leaders, for minutes.
        await self.topics()
        found = await self.spans(topics)
        for name, partitions in topics.items():
            if len(found.get(name, {})) < partitions:
                raise KafkaUnavailableError(f"{name} was created, but no broker has all of it yet")

    async def spans(self, topics: Mapping[str, int]) -> dict[str, dict[int, Span]]:
        """The offsets of each partition, given how many partitions each topic has.

        A topic that does not exist any more is left out.
        """
        partitions = [Partition(name, number) for name, count in topics.items() for number in range(count)]
        begins, ends = await asyncio.gather(self._offsets(partitions, _EARLIEST), self._offsets(partitions, _LATEST))
        found: dict[str, dict[int, Span]] = {}
        for partition, start in begins.items():
            if (end := ends.get(partition)) is not None:
                found.setdefault(partition.topic, {})[partition.partition] = Span(start, end)
        return found

    async def _offsets(self, partitions: list[Partition], spec: OffsetSpec) -> dict[Partition, int]:
        asked = {TopicPartition(*partition): spec for partition in partitions}
        found = {}
        for partition, done in self._client.list_offsets(asked, request_timeout=_TIMEOUT_S).items() if asked else ():
            try:
                answer: Any = await self._result(done, f"look up the offsets of {partition.topic}")
                found[Partition(partition.topic, partition.partition)] = int(answer.offset)
            except _NoSuchTopicError:
                continue  # deleted since it was listed
        return found

    async def configs(self, topics: Iterable[str]) -> dict[str, dict[str, str]]:
        """The settings of topics, by their names in Kafka; a topic that does not exist any more is left out."""
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in topics]
        found = {}
        for resource, done in self._client.describe_configs(resources).items() if resources else ():
            try:
                entries: Mapping[str, Any] = await self._result(done, f"read the configuration of {resource.name}")
                found[resource.name] = {name: entry.value for name, entry in entries.items()}
            except _NoSuchTopicError:
                continue
        return found

    async def ensure_partitions(self, topic: str, partitions: int) -> None:
        """Give an existing topic more partitions where it has fewer than this. Safe beside others who do the same."""
        refused: PlatformError | None = None
        for _ in range(_ATTEMPTS):
            if self._partitions.get(topic, 0) >= partitions:
                return
            self._partitions = await self.topics()
            if self._partitions.get(topic, 0) >= partitions:
                return
            for done in self._client.create_partitions([NewPartitions(topic, partitions)]).values():
                try:
                    await self._result(done, f"give {topic} {partitions} partitions")
                    refused = None
                except PlatformError as exc:
                    # Somebody else may have been faster, and given it more; the metadata says so a little later.
                    refused = exc
            await asyncio.sleep(_PAUSE_S)
        raise refused or KafkaUnavailableError(f"{topic} has not got {partitions} partitions in time")

    async def differences(self, specs: Iterable[TopicSpec]) -> list[str]:
        """How the topics that exist differ from their specs, one line each."""
        wanted = {spec.name: spec for spec in specs}
        existing = (await asyncio.to_thread(self._list, _TIMEOUT_S)).topics
        partitions = {name: len(topic.partitions) for name, topic in existing.items()}
        found = [f"{name} does not exist" for name in wanted if name not in partitions]
        found += [
            f"{name} has {partitions[name]} partitions, not {spec.partitions}"
            for name, spec in wanted.items()
            if name in partitions
            and partitions[name] != spec.partitions
            and not (spec.may_grow and partitions[name] > spec.partitions)
        ]
        for name, spec in wanted.items():
            replicas = {len(p.replicas) for p in existing[name].partitions.values()} if name in existing else set()
            if replicas - {spec.replication_factor}:
                found.append(f"{name} has {max(replicas)} replicas, not {spec.replication_factor}")
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in wanted if name in partitions]
        for resource, done in self._client.describe_configs(resources).items() if resources else ():
            entries: Mapping[str, Any] = await self._result(done, f"read the configuration of {resource.name}")
            for key, value in wanted[resource.name].configs.items():
                actual = entries[key].value if key in entries else None
                if actual != value:
                    found.append(f"{resource.name} has {key}={actual}, not {value}")
        return found

    def _list(self, timeout_s: float) -> Any:
        try:
            return self._client.list_topics(timeout=timeout_s)
        except KafkaException as exc:
            raise _translate(exc, "reach Kafka") from exc

    async def _result(self, done: Future[T], doing: str) -> T:
        try:
            return await asyncio.wrap_future(done)
        except KafkaException as exc:
            raise _translate(exc, doing) from exc


class _TopicExistsError(PlatformError):
    pass


class _NoSuchTopicError(KafkaUnavailableError):
    """For whoever does not expect it, what passes: a topic that was just created is not everywhere at once."""


def _translate(exc: KafkaException, doing: str) -> PlatformError:
    error: KafkaError = exc.args[0]
    detail = f"cannot {doing}: {error.str()}"
    code = error.code()
    if code == KafkaError.TOPIC_ALREADY_EXISTS:
        return _TopicExistsError(detail)
    if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return _NoSuchTopicError(detail)
    if code == KafkaError.TOPIC_EXCEPTION:
        # The name is checked by us: what is left is another topic that differs by `.` and `_` alone.
        return TopicExistsError(detail)
    if code in (KafkaError.INVALID_CONFIG, KafkaError.INVALID_PARTITIONS):
        return ConfigurationError(detail)
    # INVALID_REPLICATION_FACTOR is among what may pass: brokers of a cluster that starts come one by one.
    return translate_confluent(exc, doing)
