"""`make bench-start`: from nothing running to the first closed window, on fresh data, and the memory that it takes.

The clock starts when the processes are started. Environments, jars and class archives are there (a warm start);
topics, schemas, tables and checkpoints are not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from deploy.local import memory, ports, procfile, stack
from deploy.local.paths import ROOT
from deploy.local.progress import paint
from deploy.local.readiness import checks
from deploy.local.settings import keep_together, load_local_settings
from deploy.local.supervisor import NotRunningError
from streams.domain.errors import ConfigurationError
from streams.domain.naming import AGGREGATES
from streams.settings import load_settings

FIRST_WINDOW: Final = "first closed window"
TARGET_S: Final = 60.0
TARGET_BYTES: Final = 3_500_000_000
GIVE_UP_S: Final = 300.0
POLL_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Run:
    """One start: seconds until each thing was ready, and bytes of each process at the end."""

    seconds: dict[str, float]
    processes: list[memory.Memory]

    @property
    def rss(self) -> int:
        """Of all processes together."""
        return sum(process.rss for process in self.processes)

    @property
    def pss(self) -> int:
        """Of all processes together."""
        return sum(process.pss for process in self.processes)


class FirstWindow(threading.Thread):
    """Waits for the first committed record of the aggregates' topic, and notes when it came."""

    def __init__(self, bootstrap_servers: str, give_up: threading.Event) -> None:
        super().__init__(daemon=True)
        self._servers = bootstrap_servers
        self._give_up = give_up
        self.came_at: float | None = None

    def run(self) -> None:
        """Try until there is one or nobody waits any more."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        while not self._give_up.is_set() and self.came_at is None:
            try:
                await self._consume()
            except KafkaError:
                await asyncio.sleep(POLL_S)

    async def _consume(self) -> None:
        consumer = AIOKafkaConsumer(
            AGGREGATES,
            bootstrap_servers=self._servers,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            # The topic may not exist yet; the default looks again after five minutes.
            metadata_max_age_ms=500,
            fetch_max_wait_ms=100,
        )
        async with consumer:
            while not self._give_up.is_set():
                batches = await consumer.getmany(timeout_ms=200)
                if any(record.value is not None for records in batches.values() for record in records):
                    self.came_at = time.monotonic()
                    return


@contextmanager
def fresh_directory(keep: bool) -> Iterator[Path]:  # noqa: FBT001 - its one caller names it
    """A run directory without data, beside the user's and with its class archives."""
    base = load_local_settings().run_dir
    directory = base / "bench-start"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    archives = (base / "cds").resolve()
    archives.mkdir(exist_ok=True)
    (directory / "cds").symlink_to(archives)
    before = dict(os.environ)
    os.environ["STREAMS_LOCAL_RUN_DIR"] = str(directory)
    keep_together(load_local_settings())
    try:
        yield directory
    finally:
        os.environ.clear()
        os.environ.update(before)
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


def measure(procfile_path: Path, settle_s: float) -> Run:
    """Start the stack once, and stop it. Raises StackError when something fails or takes too long."""
    settings, local = load_settings(), load_local_settings()
    one = stack.load(settings, local, procfile_path)
    processes = procfile.parse(procfile_path.read_text(encoding="utf-8"))
    names = {process.name for process in processes}
    ports.check(ports.needed(settings, local))
    waiting = {check.process: check.ready for check in checks(settings, local) if check.process in names}
    seconds: dict[str, float] = {}
    give_up = threading.Event()
    window = FirstWindow(settings.kafka_bootstrap_servers, give_up)
    started = time.monotonic()
    daemon = one.start(processes)
    try:
        while waiting or ("flink" in names and FIRST_WINDOW not in seconds):
            for name in [name for name, ready in waiting.items() if ready()]:
                seconds[name] = time.monotonic() - started
                del waiting[name]
            if "kafka" in seconds and window.ident is None:
                window.start()
            if window.came_at is not None:
                seconds.setdefault(FIRST_WINDOW, window.came_at - started)
            _check_alive(one)
            if time.monotonic() - started > GIVE_UP_S:
                missing = [*waiting, *([] if FIRST_WINDOW in seconds else [FIRST_WINDOW])]
                raise stack.StackError(f"not within {GIVE_UP_S:.0f} s: {', '.join(missing)}")
            time.sleep(POLL_S)
        # Memory grows for a while after the first window; the end is what a user lives with.
        time.sleep(settle_s)
        roots = [(state.name, state.pid) for state in one.supervisor.states()]
        used = memory.measure(roots)
    finally:
        give_up.set()
        if window.ident is not None:
            window.join()
        one.stop_all(daemon)
    return Run(seconds, used)


def _check_alive(one: stack.Stack) -> None:
    for state in one.supervisor.states():
        if state.dead:
            raise stack.StackError(f"{state.name} has failed ({state.state}):\n{stack.tail(state.log)}")


def report(runs: list[Run]) -> str:
    """The medians, and whether they are within the targets."""
    lines = [f"median of {len(runs)} warm starts on fresh data"]
    for name in runs[0].seconds:
        value = statistics.median(run.seconds[name] for run in runs)
        worst = max(run.seconds[name] for run in runs)
        lines.append(f"  {name:22} {value:6.1f} s   (slowest {worst:.1f} s){_verdict(name, value)}")
    lines.append("memory at the end            RSS        PSS")
    for index, process in enumerate(runs[0].processes):
        rss = statistics.median(run.processes[index].rss for run in runs)
        pss = statistics.median(run.processes[index].pss for run in runs)
        lines.append(f"  {process.name:20} {rss / 1e6:7.0f} MB {pss / 1e6:7.0f} MB")
    rss, pss = statistics.median(run.rss for run in runs), statistics.median(run.pss for run in runs)
    within = _mark(rss < TARGET_BYTES, f"target {TARGET_BYTES / 1e9:.1f} GB")
    lines.append(f"  {'all':20} {rss / 1e6:7.0f} MB {pss / 1e6:7.0f} MB{within}")
    return "\n".join(lines)


def _verdict(name: str, seconds: float) -> str:
    return _mark(seconds < TARGET_S, f"target {TARGET_S:.0f} s") if name == FIRST_WINDOW else ""


def _mark(met: bool, target: str) -> str:  # noqa: FBT001 - a yes or no is all that it says
    return f"   {paint('met', 'green') if met else paint('MISSED', 'red')}: {target}"


def as_json(runs: list[Run]) -> str:
    """Every run, for machines."""
    rows = [
        {
            "seconds": run.seconds,
            "processes": [asdict(process) for process in run.processes],
            "rss": run.rss,
            "pss": run.pss,
        }
        for run in runs
    ]
    return json.dumps({"runs": rows, "targets": {"seconds": TARGET_S, "rss": TARGET_BYTES}})


def main() -> int:
    """Measure and print; 1 when a start fails."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.bench_start", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="how many starts (3)")
    parser.add_argument("--settle", type=float, default=10.0, help="seconds from the first window to the memory (10)")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output, and progress on the other")
    parser.add_argument("--keep", action="store_true", help="keep the data and logs of the last run")
    parser.add_argument("--procfile", type=Path, default=ROOT / "Procfile", help="another Procfile")
    arguments = parser.parse_args()
    procfile_path = arguments.procfile.resolve()
    os.chdir(ROOT)
    # It reports each try to find a topic that is not there yet.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    result = os.dup(1)
    if arguments.json:
        # What stops and starts prints is for people.
        os.dup2(2, 1)
    runs: list[Run] = []
    try:
        for number in range(1, arguments.runs + 1):
            print(f"start {number} of {arguments.runs} …", flush=True)
            with fresh_directory(keep=arguments.keep):
                runs.append(measure(procfile_path, arguments.settle))
    except (ConfigurationError, stack.StackError, NotRunningError) as exc:
        print(paint(f"bench-start: {exc}", "red", sys.stderr), file=sys.stderr)
        return 1
    sys.stdout.flush()
    os.dup2(result, 1)
    print(as_json(runs) if arguments.json else report(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
