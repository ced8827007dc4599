"""What the handlers stand on, given to them by the composition root (or by a test)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from streams.codecs import AvroCodec
from streams.domain.errors import UnavailableError
from streams.event_topics import EventTopics
from streams.hub import Hub
from streams.kafka.admin import TopicAdmin
from streams.kafka.consumer import LogReader
from streams.kafka.producer import EventProducer
from streams.publishing import Publisher, TopicCatalog
from streams.redriving import Writer
from streams.registry import SchemaLoader, SchemaRegistry
from streams.settings import Settings
from streams.storing import EventStore
from tables.here import TableView


@dataclass(frozen=True, slots=True)
class Services:
    """The platform, as far as the web needs it."""

    settings: Settings
    catalog: TopicCatalog
    topics: EventTopics
    publisher: Publisher
    producer: EventProducer
    store: EventStore
    admin: TopicAdmin
    registry: SchemaRegistry
    hub: Hub
    codec: AvroCodec
    loader: SchemaLoader
    waiting_for: Callable[[], str | None]
    """What the platform's start waits for; None once it is up."""
    tables_waiting: Callable[[], str | None]
    """Why the tables cannot be trusted yet; None once they can."""
    tables: TableView
    letters_by_reason: Callable[[], Mapping[tuple[str, str], int]]
    """Dead letters by reason and source topic, in this worker's partitions."""
    open_reader: Callable[[], LogReader]
    """Makes a reader of the log; it is not started."""
    open_redrive_writer: Callable[[], Writer]
    """Makes the writer of a redrive; it is not started."""

    def require_started(self) -> None:
        """Return if the platform is up. Raises UnavailableError, which says what it waits for."""
        if (missing := self.waiting_for()) is not None:
            raise UnavailableError(f"the worker is starting: it waits for {missing}", retry_after_s=2.0)
