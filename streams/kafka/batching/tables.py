"""State by key that follows its input: written to a changelog in the transaction that commits the input's offset.

A table has a part for each input partition, which lives where that partition is worked on and whose changes go to
the changelog partition of the same number. So parts never meet: topics may differ in their number of partitions, and
any number of topics may share a table. A row carries the offset of the last record that changed it, by which a record
that is read again, say after the group's offsets were reset, is known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

import msgspec

from streams.kafka.batching.batch import Source

_SEPARATOR: Final = "|"
"""Between an input topic and a row's key in the changelog; Kafka allows it in no topic's name."""


class Row(Protocol):
    """What every row has; rows are types that msgspec can read and write."""

    @property
    def offset(self) -> int:
        """The last offset of its input partition that was folded in."""
        ...


V = TypeVar("V", bound=Row)


class Store(ABC, Generic[V]):
    """Where the rows of one part are held. For one task: nothing here waits or locks."""

    position: int | None = None
    """The changelog's offset from which on it must be read to bring the rows up to date; None: from its beginning."""
    newest: int = -1
    """The largest offset of the input that any row was folded from; -1 where there is none."""

    @abstractmethod
    def get(self, key: str) -> V | None:
        """The row of a key."""

    @abstractmethod
    def apply(self, changes: Mapping[str, V | None], position: int | None) -> None:
        """Put rows, remove those that are None, and move the position, where one is given; all at once."""

    @abstractmethod
    def items(self) -> Iterator[tuple[str, V]]:
        """Every row, in no order. The store may change meanwhile: what is told was true at some moment of it."""

    in_order: ClassVar[bool] = False
    """Whether `keys` gives them in their order."""

    @abstractmethod
    def keys(self, start: str = "") -> Iterable[str]:
        """Every key that is not before `start`, from any thread; the store may change meanwhile, as for `items`."""

    @abstractmethod
    def __len__(self) -> int:
        """How many rows; of RocksDB its own estimate."""

    @abstractmethod
    def reset(self) -> None:
        """Forget every row, and the position."""

    @abstractmethod
    def close(self) -> None:
        """Let go; what is on disk stays."""


class MemoryStore(Store[V]):
    """Rows in a dict."""

    def __init__(self) -> None:
        self._rows: dict[str, V] = {}

    def get(self, key: str) -> V | None:
        return self._rows.get(key)

    def apply(self, changes: Mapping[str, V | None], position: int | None) -> None:
        rows = self._rows
        for key, row in changes.items():
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
                self.newest = max(self.newest, row.offset)
        if position is not None:
            self.position = position

    def items(self) -> Iterator[tuple[str, V]]:
        # A copy of the references: the dict may change between two steps of the caller.
        yield from list(self._rows.items())

    def keys(self, start: str = "") -> Iterable[str]:
        # A copy of the keys alone takes a tenth of the time of one of pairs, in which nothing else runs.
        keys = list(self._rows)
        return (key for key in keys if key >= start) if start else keys

    def __len__(self) -> int:
        return len(self._rows)

    def reset(self) -> None:
        self._rows.clear()
        self.position, self.newest = None, -1

    def close(self) -> None:
        self.reset()


StoreFactory = Callable[["Table[Any]", Source], Store[Any]]


class Table(Generic[V]):
    """A table: its name, the type of its rows, and the parts that this worker holds.

    `store` makes the stores of its parts where it must be one of a kind of its own, and not as the engine is set.
    """

    def __init__(
        self,
        name: str,
        row: type[V],
        *,
        help: str = "",  # noqa: A002  # Faust's word for it
        store: Callable[[], Store[V]] | None = None,
    ) -> None:
        self.name = name
        self.help = help
        self.own_store = store
        self.parts: dict[Source, Store[V]] = {}
        """Complete ones only: a part that is being restored is not among them."""
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(row).decode

    def encode(self, row: V) -> bytes:
        """A row as the changelog has it: JSON."""
        return self._encode(row)

    def decode(self, data: bytes) -> V:
        """The row in a changelog's value. Raises msgspec's DecodeError."""
        return self._decode(data)

    def get(self, source: Source, key: str) -> V | None:
        """A row of a part that is here; None also where the part is not."""
        part = self.parts.get(source)
        return None if part is None else part.get(key)

    def find(self, key: str) -> Iterator[tuple[Source, V]]:
        """The rows of a key in every part that is here."""
        for source, part in list(self.parts.items()):
            if (row := part.get(key)) is not None:
                yield source, row

    def items(self) -> Iterator[tuple[Source, str, V]]:
        """Every row that is here, in no order."""
        for source, part in list(self.parts.items()):
            for key, row in part.items():
                yield source, key, row

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts.values())


class Changes(Generic[V]):
    """A part as the work of one transaction sees it: its own changes on top, which nobody else sees before the commit."""

    __slots__ = ("_store", "changed")

    def __init__(self, store: Store[V]) -> None:
        self._store = store
        self.changed: dict[str, V | None] = {}

    def get(self, key: str) -> V | None:
        """The row of a key. It is shared: change a copy."""
        changed = self.changed
        return changed[key] if key in changed else self._store.get(key)

    def put(self, key: str, row: V) -> None:
        """Put a row."""
        self.changed[key] = row

    def remove(self, key: str) -> None:
        """Remove a row."""
        self.changed[key] = None

    def items(self) -> Iterator[tuple[str, V]]:
        """Every row of the part, as changed."""
        for key, row in self._store.items():
            if key not in self.changed:
                yield key, row
        for key, changed in list(self.changed.items()):
            if changed is not None:
                yield key, changed


def changelog_topic(group_id: str, table: str) -> str:
    """The changelog topic of a table, named as Faust names its own."""
    return f"{group_id}-{table}-changelog"


def changelog_key(topic: str, key: str) -> bytes:
    """The key in the changelog of a row, given the input topic of its part."""
    return f"{topic}{_SEPARATOR}{key}".encode()


def parse_changelog_key(data: bytes) -> tuple[str, str]:
    """The input topic and the row's key. Raises ValueError for what is none of ours."""
    topic, separator, key = data.decode().partition(_SEPARATOR)
    if not separator:
        raise ValueError(f"{data[:100]!r} is no key of a table's changelog")
    return topic, key
