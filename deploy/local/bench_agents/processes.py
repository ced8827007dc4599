"""Running subjects: each in a fresh interpreter, on a core of its own where there are two, log level info."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from deploy.local.bench.processes import SubjectError, environment
from deploy.local.bench.servers import process, tail
from deploy.local.bench_agents.cases import Case, Subject
from deploy.local.bench_agents.results import Sample, together
from deploy.local.paths import ROOT

_POLL_S: Final = 0.1
_START_S: Final = 90.0
_SLOWEST_RATE: Final = 500.0
"""Events a second; whatever is slower has got stuck."""


def command(subject: Subject) -> list[str]:
    """The command line."""
    if subject.is_worker:
        faust = str(Path(sys.executable).parent / "faust")
        return [faust, "-A", subject.path, "--loop", "uvloop", "worker", "-l", "info", "--without-web"]
    return [sys.executable, "-m", subject.path]


async def run(
    case: Case,
    subject: Subject,
    events: int,
    settings: Mapping[str, object],
    directory: Path,
    *,
    core: int | None,
    when_ready: Callable[[], Awaitable[object]] | None = None,
) -> Sample:
    """One run of a subject. `when_ready` is awaited once all of its processes have their partitions.

    Raises SubjectError.
    """
    name = f"{subject.module}-{secrets.token_hex(4)}"
    group = {"app_id": f"bench-{name.replace('_', '-')}", **settings}
    results = [directory / f"{name}-{number}.json" for number in range(subject.workers)]
    logs = [result.with_suffix(".log") for result in results]
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                process(
                    command(subject),
                    log,
                    environment=environment(
                        group | {"data_dir": directory / f"{result.stem}-data"},
                        {
                            "events": events,
                            "partitions": case.partitions,
                            "workers": subject.workers,
                            "result": result,
                            "core": "" if core is None else core,
                        },
                    ),
                    directory=ROOT,
                )
            )
            for result, log in zip(results, logs, strict=True)
        ]
        if when_ready is not None:
            await _until([result.with_suffix(".ready") for result in results], started, logs, _START_S)
            await when_ready()
        await _until(results, started, logs, _START_S + events / _SLOWEST_RATE)
        found = [_sample(json.loads(result.read_text(encoding="utf-8"))) for result in results]
    return together(found)


async def _until(
    files: Sequence[Path], started: Sequence[subprocess.Popen[bytes]], logs: Sequence[Path], within_s: float
) -> None:
    deadline = time.monotonic() + within_s
    while not all(file.exists() for file in files):
        for one, file, log in zip(started, files, logs, strict=True):
            if one.poll() is not None and not file.exists():
                raise SubjectError(f"{log.stem} has ended; the end of its log:\n{tail(log)}")
        if time.monotonic() > deadline:
            ends = "\n".join(tail(log) for log in logs)
            raise SubjectError(f"{logs[0].stem} was not done within {within_s:.0f} s; the end of its log:\n{ends}")
        await asyncio.sleep(_POLL_S)


def _sample(found: Mapping[str, Any]) -> Sample:
    return Sample(found["events"], found["wall_s"], found["cpu_s"], found["rss_bytes"])
