"""How a subject measures itself, and what it is told by environment variables `BENCH_*`."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from streams.kafka.batching import Engine

_POLL_S: Final = 0.005


class Probe:
    """Time and CPU of this process, from the first record to the last committed. Made before threads are started."""

    def __init__(self) -> None:
        self.events = int(os.environ["BENCH_EVENTS"])
        """What all of the subject's processes together have to do."""
        self.partitions = int(os.environ["BENCH_PARTITIONS"])
        self.workers = int(os.environ["BENCH_WORKERS"])
        self._result = Path(os.environ["BENCH_RESULT"])
        self._began: tuple[float, float] | None = None
        self._took: tuple[float, float] | None = None
        if core := os.environ["BENCH_CORE"]:
            os.sched_setaffinity(0, {int(core)})

    def ready(self) -> None:
        """Say that this process has its partitions."""
        self._result.with_suffix(".ready").touch()

    def begin(self) -> None:
        """The first record has come; later ones change nothing."""
        if self._began is None:
            self._began = time.perf_counter(), time.process_time()

    def end(self) -> None:
        """The last record is committed."""
        assert self._began is not None
        wall_s, cpu_s = self._began
        self._took = time.perf_counter() - wall_s, time.process_time() - cpu_s

    def write(self, events: int) -> None:
        """Tell what was measured between `begin` and `end`."""
        assert self._took is not None
        found = {
            "events": events,
            "wall_s": self._took[0],
            "cpu_s": self._took[1],
            "rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        part = self._result.with_suffix(".part")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.rename(self._result)

    async def follow(self, engine: Engine) -> int:
        """Measure what pipelines do, up to the commit of the last record. Returns how many there were.

        Looked at from outside, some 200 times a second: the product knows nothing of it.
        """
        mine = self.partitions // self.workers
        await _until(lambda: self._has_come(engine) or _is_open(engine, mine))
        # Records may have come before the last partition was open.
        await _until(lambda: _is_open(engine, mine))
        self.ready()
        await _until(lambda: self._has_come(engine))
        wanted = self.events * mine // self.partitions
        await _until(lambda: _done(engine) >= wanted)
        self.end()
        return _done(engine)

    def _has_come(self, engine: Engine) -> bool:
        if engine.gates.bytes:
            self.begin()
        return self._began is not None


def _is_open(engine: Engine, partitions: int) -> bool:
    return len(engine.counts()) == partitions and engine.unready() is None


def _done(engine: Engine) -> int:
    return sum(records for _, records in engine.counts().values())


async def _until(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110  # the product tells nobody, and is not changed for this
        await asyncio.sleep(_POLL_S)
