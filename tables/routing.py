"""Where a row of a key can be: the input partitions that it may be of, and the worker that has each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from streams.domain.naming import AGGREGATES, DLQ, EVENTS_PREFIX, INGRESS
from streams.domain.partitioning import partition_for
from streams.kafka.batching import Source

Owners = Mapping[str, Mapping[str, Sequence[int]]]
"""For each worker, by its URL, the partitions that it has of each topic."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The input partitions that a table has parts for, and what a row's key says of its own."""

    topic: str | None = None
    """The one input topic; None: every topic of events, whose name is then the first word of a row's key."""
    by_message_key: bool = False
    """Whether the rest of a row's key is the message key, from which the partition follows."""

    def takes(self, topic: str) -> bool:
        """Whether the table has parts for a topic."""
        return topic.startswith(EVENTS_PREFIX) if self.topic is None else topic == self.topic

    def topic_of(self, key: str) -> str | None:
        """The input topic that a row of this key is of; None where no row can have such a key."""
        if self.topic is not None:
            return self.topic
        name, separator, _ = key.partition("/")
        return EVENTS_PREFIX + name if separator else None


INPUTS: Final[Mapping[str, Inputs]] = {
    "state": Inputs(by_message_key=True),
    "totals": Inputs(),
    "windows": Inputs(AGGREGATES),
    "newest-windows": Inputs(AGGREGATES),
    "dead-letters": Inputs(DLQ),
    "seen-ids": Inputs(INGRESS),
}
"""Of each table, by its name."""


class Plan(NamedTuple):
    """Whom to ask for a key."""

    first: Source | None
    """The partition that the key belongs to now; None where that does not follow from the key."""
    all: frozenset[Source]
    """Every partition that can have a row of it: one that was given more partitions keeps rows in former ones."""


def plan(inputs: Inputs, key: str, partitions: Mapping[str, int]) -> Plan:
    """Where the rows of a key can be, given the number of partitions of each topic that exists."""
    topic = inputs.topic_of(key)
    count = 0 if topic is None else partitions.get(topic, 0)
    if topic is None or count == 0:
        return Plan(None, frozenset())
    first = None
    if inputs.by_message_key:
        first = Source(topic, partition_for(key.partition("/")[2].encode(), count))
    return Plan(first, frozenset(Source(topic, number) for number in range(count)))


def count_partitions(known: Mapping[str, int], owners: Owners) -> dict[str, int]:
    """The number of partitions of each topic: as Kafka said it lately, or as workers have more of them since."""
    counts = dict(known)
    for topics in owners.values():
        for topic, numbers in topics.items():
            if numbers:
                counts[topic] = max(counts.get(topic, 0), *(number + 1 for number in numbers))
    return counts


def by_owner(sources: Iterable[Source], owners: Owners, own_url: str) -> tuple[dict[str, set[Source]], set[Source]]:
    """The other worker that has each of these partitions, by URL; and those that no other worker has."""
    owner_of = {
        Source(topic, number): url
        for url, topics in owners.items()
        if url != own_url and is_worker_url(url)
        for topic, numbers in topics.items()
        for number in numbers
    }
    found: dict[str, set[Source]] = {}
    nobody = set()
    for source in sources:
        if (url := owner_of.get(source)) is None:
            nobody.add(source)
        else:
            found.setdefault(url, set()).add(source)
    return found, nobody


def elsewhere(inputs: Inputs, owners: Owners, own_url: str) -> dict[str, list[Source]]:
    """The parts of a table that other workers have, by their URL, in order."""
    found = {
        url: sorted(Source(topic, n) for topic, numbers in topics.items() if inputs.takes(topic) for n in numbers)
        for url, topics in sorted(owners.items())
        if url != own_url and is_worker_url(url)
    }
    return {url: sources for url, sources in found.items() if sources}


def is_worker_url(url: str) -> bool:
    """Whether this can be the address of a worker: tokens are sent there, and people follow links to it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(host)
        and parts.username is None
        and not (parts.query or parts.fragment)
    )
