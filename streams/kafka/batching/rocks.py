"""Rows on local disk, in RocksDB: more than fits into memory, and a restart reads only the changelog's end.

A part's changes and its position in the changelog are written together, after the transaction was committed. So what
is on disk is never ahead of the changelog, and a worker that was killed in between reads the difference again.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from rocksdict import AccessType, Options, Rdict, WriteBatch

from streams.kafka.batching.batch import Source
from streams.kafka.batching.tables import Store, Table, V

log = logging.getLogger(__name__)

MAX_AGE_S: Final = 43_200.0
"""A store that was not written for longer is read anew: the changelog's tombstones may be gone, which are kept for a
day (`delete.retention.ms`)."""

_OURS: Final = b"\xff"
"""What our own keys begin with: no text in UTF-8 has this byte."""
_POSITION: Final = _OURS + b"position"
_NEWEST: Final = _OURS + b"newest"
_WRITTEN_AT: Final = _OURS + b"written-at"
_WRITE_BUFFER: Final = 16_777_216


class StoreError(Exception):
    """The directory of a part cannot be used; the message says which, and what to do."""


class RocksStore(Store[V]):
    """Rows of one part in a RocksDB of its own. A worker's parts must not share their directory with another worker's.

    Raises StoreError where the directory is locked or unusable.
    """

    def __init__(self, directory: Path, table: Table[V], source: Source) -> None:
        self._path = directory / table.name / f"{source.topic}-{source.partition}"
        self._table = table
        self._db = self._open()
        position, written_at = self._db.get(_POSITION), self._db.get(_WRITTEN_AT)
        if position is not None and written_at is not None and time.time() - float(written_at) > MAX_AGE_S:
            log.info("%s of table %s was last written long ago: reading all of its changelog", source, table.name)
            self.reset()
        elif position is not None:
            self.position = int(position)
            self.newest = int(self._db.get(_NEWEST) or -1)

    def _open(self) -> Rdict:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(_WRITE_BUFFER)
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            return Rdict(str(self._path), options, access_type=AccessType.read_write())
        except Exception as exc:  # rocksdict's own has no better type
            raise StoreError(
                f"cannot open {self._path.absolute()}: {exc}. Where another worker has it, give each worker a data"
                " directory of its own; where it is damaged, remove it: its rows are read from the changelog again"
            ) from exc

    def get(self, key: str) -> V | None:
        data = self._db.get(key.encode())
        return None if data is None else self._table.decode(data)

    def apply(self, changes: Mapping[str, V | None], position: int | None) -> None:
        batch = WriteBatch(raw_mode=True)
        for key, row in changes.items():
            if row is None:
                batch.delete(key.encode())
            else:
                batch.put(key.encode(), self._table.encode(row))
                self.newest = max(self.newest, row.offset)
        if position is not None:
            batch.put(_POSITION, str(position).encode())
            batch.put(_NEWEST, str(self.newest).encode())
            batch.put(_WRITTEN_AT, str(time.time()).encode())
            self.position = position
        self._db.write(batch)

    def items(self) -> Iterator[tuple[str, V]]:
        # Of a snapshot: an iterator of its own would hold back what is written meanwhile.
        rows: Iterator[tuple[Any, Any]] = self._db.snapshot().items()
        for key, data in rows:
            if not key.startswith(_OURS):
                yield key.decode(), self._table.decode(data)

    in_order = True

    def keys(self, start: str = "") -> Iterable[str]:
        keys: Iterator[Any] = self._db.snapshot().keys(from_key=start.encode())
        # Ours are behind all of them: their first byte is in no UTF-8.
        return (key.decode() for key in takewhile(lambda key: not key.startswith(_OURS), keys))

    def __len__(self) -> int:
        estimate = self._db.property_int_value("rocksdb.estimate-num-keys") or 0
        return max(0, estimate - 3)  # the three of ours

    def reset(self) -> None:
        self._db.close()
        shutil.rmtree(self._path)
        self.position, self.newest = None, -1
        self._db = self._open()

    def close(self) -> None:
        self._db.close()
