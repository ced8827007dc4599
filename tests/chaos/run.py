"""One run: a broker, a registry and workers of its own; events and faults; the wait for the end; the verdict."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import time
import urllib.parse
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from deploy.local.paths import ROOT
from streams import schemas
from streams.kafka.admin import TopicAdmin
from streams.registry import SchemaRegistry as Registry
from streams.settings import Settings
from streams.topics import topic_specs
from tests.chaos import judge, reading
from tests.chaos.events import Source
from tests.chaos.faults import GUEST, PARTITIONS, SLOTS, Kind, Plan, Step
from tests.chaos.feed import Feed
from tests.chaos.progress import Progress, quietly
from tests.chaos.threads import in_thread
from tests.chaos.worker_faults import EVERY, FAULTS, JOURNAL, SEED
from tests.platform import BIN, Worker, environment
from tests.stack import KafkaBroker, SchemaRegistry, running

FROZEN_S: Final = 11.0
"""Longer than the session timeout of a worker, 6 s: the group goes on without it."""
_MOVES_S: Final = 15.0
"""How long a fault waits for the group to recover from the one before."""
_DRAIN_S: Final = 120.0
_TAIL: Final = 12
_VALUES: Final = 300
"""Rows whose values are asked of a restored worker, of each table; of all others, the key and the offset."""


class ChaosError(Exception):
    """The run has not come to its end; the message has the picture."""


@dataclass
class Outcome:
    """What came of a run."""

    seed: int
    verdict: judge.Verdict
    topics: judge.Topics
    expected: Mapping[int, judge.Expected]
    faults: Counter[str] = field(default_factory=Counter)
    """What was done to processes, and what to transactions."""
    aborted: int = 0
    """Records that were written to ingress in transactions which were aborted."""
    transactions: int = 0
    restores: int = 0
    """Parts of tables that were read from their changelogs."""
    restored_records: int = 0
    fencings: int = 0
    resolutions: Counter[str] = field(default_factory=Counter)
    """What the state of a partition was worth when it was opened again: `kept`, `applied` or `foreign`."""
    still_s: float = 0.0
    """The longest time in which nothing was committed though there was something to do."""
    audit: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.verdict.wrong


class ChaosWorker(Worker):
    """A worker whose Kafka clients fail."""

    def __init__(self, directory: Path, plan: Plan, seed: int, **settings: object) -> None:
        super().__init__(directory, **settings)
        self._seed = seed
        self._starts = 0
        self.journal = directory / "journal"
        self.environment = {
            **(self.environment or {}),
            "PYTHONPATH": str(ROOT),
            JOURNAL: str(self.journal),
            EVERY: str(plan.every),
            FAULTS: ",".join(plan.faults),
        }

    def command(self) -> list[str]:
        return [str(BIN / "faust"), "-A", "tests.chaos.worker", "--loop", "uvloop", "worker"]

    def launch(self) -> None:
        self._starts += 1
        self.environment = {**(self.environment or {}), SEED: f"{self._seed}/{self._starts}"}
        super().launch()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)


class Chaos:
    """A run in a directory of its own."""

    def __init__(self, directory: Path, *, seed: int, events: int, plan: Plan, tell: Callable[[str], None]) -> None:
        self._directory = directory
        self._seed = seed
        self._events = events
        self._plan = plan
        self._tell = tell
        self._began = time.monotonic()
        self._done: Counter[str] = Counter()
        self._complaints: list[str] = []
        self._doing = ""
        self._workers: list[ChaosWorker] = []

    async def run(self) -> Outcome:
        """Raises ChaosError where it does not come to its end. Nothing is left running."""
        self._now("starting a broker and a registry")
        with ExitStack() as stack:
            broker = await in_thread(stack.enter_context, running(KafkaBroker))
            registry = await in_thread(stack.enter_context, running(SchemaRegistry))
            stack.callback(self._kill)
            self._addresses: dict[str, object] = {
                "kafka_bootstrap_servers": broker.bootstrap_servers,
                "registry_url": registry.url,
                "app_id": "chaos",
                "kafka_partitions": PARTITIONS,
            }
            settings = Settings.model_validate(self._addresses)
            await TopicAdmin(settings).create(topic_specs(settings))
            source = await self._source(settings)
            progress = Progress(broker.bootstrap_servers, settings.app_id)
            stack.callback(progress.close)
            self._progress = progress
            feed = self._feed = Feed(source, broker.bootstrap_servers, self._seed)
            async with _Tasks(self._on_its_way(progress, feed), feed.run()) as tasks:
                try:
                    await self._do_everything(broker, feed, tasks)
                    await self._drained(tasks)
                finally:
                    feed.stop()
            await self._end_workers()
            self._now("reading what is in the topics")
            expected = reading.expectations(source)
            topics = await in_thread(reading.read_topics, broker.bootstrap_servers, settings.app_id)
            verdict = judge.judge(expected, topics)
            for complaint in self._complaints:
                verdict.fault("a worker", complaint)
            await self._restore_and_compare(verdict, topics)
            audit = await self._audit(settings, verdict, topics)
        return self._outcome(verdict, topics, expected, audit)

    def _now(self, doing: str) -> None:
        self._doing = doing
        self._tell(f"{time.monotonic() - self._began:4.0f} s  {doing}")

    async def _source(self, settings: Settings) -> Source:
        schema_id = await Registry(settings).register("events.iot-value", schemas.EVENT)
        return Source(self._seed, self._events, settings.kafka_partitions, schema_id, now_ms=int(time.time() * 1_000))

    async def _do_everything(self, broker: KafkaBroker, feed: Feed, tasks: _Tasks) -> None:
        self._workers = [self._worker(slot) for slot in range(len(SLOTS))]
        self._now("starting workers")
        feed.allow(int(self._events * self._plan.before))
        for worker in self._workers[:GUEST]:
            worker.launch()
        await self._until_moving(tasks, 60.0)
        shares = len(self._plan.steps)
        for number, step in enumerate(self._plan.steps, 1):
            share = self._plan.before + (1 - self._plan.before) * number / shares
            feed.allow(int(self._events * share), self._plan.rate)
            self._now(f"fault {number} of {shares}: {step.kind} {SLOTS[step.slot]} {step.slot}")
            await asyncio.sleep(step.delay_s)
            await self._do(step, broker, feed)
            self._done[step.kind] += 1
            await self._until_moving(tasks, _MOVES_S)
        feed.allow(self._events)
        self._now("waiting for the end")

    async def _do(self, step: Step, broker: KafkaBroker, feed: Feed) -> None:
        worker = self._workers[step.slot]
        match step.kind:
            case Kind.KILL:
                worker.kill()
                # The guest is gone for good, until it joins again.
                if step.slot != GUEST:
                    worker.launch()
            case Kind.STOP:
                await self._stop(worker)
                worker.launch()
            case Kind.FREEZE:
                worker.signal(signal.SIGSTOP)
                try:
                    await asyncio.sleep(FROZEN_S)
                finally:
                    worker.signal(signal.SIGCONT)
            case Kind.JOIN:
                worker.launch()
                # Ready or not: others may be in trouble just now.
                await self._progress.until(worker.is_ready, 20.0)
            case Kind.LEAVE:
                await self._stop(worker)
            case Kind.BROKER:
                await feed.hold()
                try:
                    await in_thread(broker.kill)
                    await in_thread(broker.start)
                finally:
                    feed.go_on()

    async def _stop(self, worker: ChaosWorker) -> None:
        await in_thread(worker.stop)
        if worker.returncode != 0:
            self._complaints.append(f"{worker.directory.name} ended with {worker.returncode} when it was told to stop")

    async def _until_moving(self, tasks: _Tasks, within_s: float) -> None:
        """Until more is committed, or all of it is; no longer than so many seconds."""
        # Not zero, which would be reached while nothing is known yet.
        before, _ = self._progress.of("platform.ingress")
        least = max(1, self._events // 200)

        def has_moved() -> bool:
            self._check(tasks)
            committed, end = self._progress.of("platform.ingress")
            return committed >= before + least or (0 < end == committed)

        await self._progress.until(has_moved, within_s)

    async def _drained(self, tasks: _Tasks) -> None:
        def is_done() -> bool:
            self._check(tasks)
            return tasks.is_done(1) and bool(self._progress.standings) and not self._progress.lag

        if not await self._progress.until(is_done, _DRAIN_S):
            raise ChaosError(f"not at the end after {_DRAIN_S:g} s\n{self.picture()}")
        # Once more, and all at one time: what state does may still add dead letters.
        await self._progress.look()
        if self._progress.lag:
            await self._drained(tasks)

    def _check(self, tasks: _Tasks) -> None:
        """Raises what went wrong beside the faults: no fault here is one that a worker may die of by itself."""
        tasks.check()
        for worker in self._workers:
            if worker.died:
                raise ChaosError(f"{worker.directory.name} has ended by itself, {worker.returncode}\n{self.picture()}")

    async def _end_workers(self) -> None:
        self._now("ending the workers")
        for worker in self._workers:
            if worker.expected:
                await self._stop(worker)

    async def _restore_and_compare(self, verdict: judge.Verdict, topics: judge.Topics) -> None:
        """The tables as workers restore them: one on a fresh directory, one on what kills have left of RocksDB."""
        truth = judge.fold(topics)
        for store, directory in (
            ("memory", None),
            ("rocksdb", self._workers[SLOTS.index("rocksdb")].directory / "data"),
        ):
            self._now(f"restoring the tables, {store}")
            path = self._directory / f"restored-{store}"
            path.mkdir()
            worker = Worker(path, **self._addresses, table_store=store, data_dir=directory or path / "data")
            try:
                await in_thread(worker.start)
                for name, rows in truth.items():
                    await self._compare_with(worker, name, rows, verdict, f"{name}, restored in {store}")
            finally:
                await in_thread(worker.stop)

    async def _compare_with(
        self, worker: Worker, table: str, rows: judge.Rows, verdict: judge.Verdict, what: str
    ) -> None:
        draw = random.Random(f"{self._seed}/{what}")
        places = sorted(rows)
        async with worker.client("tables:read") as client:
            found: judge.Rows = {}
            after: str | None = None
            while True:
                query = {"limit": "1000"} | ({"after": after} if after else {})
                page = await _get(client, f"/api/v1/tables/{table}", query)
                for key in page["keys"]:
                    found[key["topic"], key["partition"], key["key"]] = {"offset": key["offset"]}
                if (after := page["after"]) is None:
                    break
            judge.compare(verdict, what, {p: {"offset": row["offset"]} for p, row in rows.items()}, found)
            for place in draw.sample(places, min(_VALUES, len(places))):
                answer = await _get(client, f"/api/v1/tables/{table}/{urllib.parse.quote(place[2])}", {})
                rows_of_key = () if answer is None else answer["rows"]
                held = {(r["topic"], r["partition"], place[2]): r["value"] for r in rows_of_key}
                judge.compare(verdict, what, {place: rows[place]}, {p: v for p, v in held.items() if p == place})

    async def _audit(self, settings: Settings, verdict: judge.Verdict, topics: judge.Topics) -> dict[str, Any]:
        self._now("asking the ledger")
        done = await in_thread(
            subprocess.run,
            [str(BIN / "faust"), "-A", "streams", "audit", "--json"],
            cwd=ROOT,
            env=environment(self._addresses),
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode not in {0, 1} or not done.stdout:
            raise ChaosError(f"audit ended with {done.returncode}: {done.stderr}")
        report: dict[str, Any] = json.loads(done.stdout)
        if done.returncode or not report["balanced"]:
            verdict.fault("the ledger does not balance", report["differences"][:5])
        ingress = report["ingress"]
        ended, records = ingress["ended"], len(topics.ingress)
        if (ended, ingress["records"], ingress["pending"]) != (records, records, 0):
            verdict.fault("the ledger has counted otherwise", {k: v for k, v in ingress.items() if k != "partitions"})
        return report

    def _worker(self, slot: int) -> ChaosWorker:
        directory = self._directory / f"worker-{slot}"
        directory.mkdir()
        return ChaosWorker(
            directory,
            self._plan,
            self._seed * 10 + slot,
            **self._addresses,
            table_store=SLOTS[slot],
        )

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.expected:
                worker.kill()

    async def _on_its_way(self, progress: Progress, feed: Feed) -> None:
        def tell() -> None:
            committed, end = progress.of("platform.ingress")
            self._tell(
                f"{time.monotonic() - self._began:4.0f} s  written {feed.written:,} of {self._events:,}, ingress at"
                f" {committed:,} of {end:,}, all behind by {progress.lag:,}; {self._doing}"
            )

        await progress.watch(tell)

    def picture(self) -> str:
        """Where everything stands: for somebody who has to find out why."""
        logs = [worker.log for worker in self._workers]
        return f"while {self._doing}:\n{self._progress.picture()}\n{reading.ends_of_logs(logs, _TAIL)}"

    def _outcome(
        self,
        verdict: judge.Verdict,
        topics: judge.Topics,
        expected: Mapping[int, judge.Expected],
        audit: dict[str, Any],
    ) -> Outcome:
        outcome = Outcome(self._seed, verdict, topics, expected, faults=self._done, audit=audit)
        for worker in self._workers:
            for line in worker.journal.read_text().splitlines() if worker.journal.exists() else ():
                match line.split():
                    case ["fault", name]:
                        outcome.faults[name] += 1
                    case ["committed", *_]:
                        outcome.transactions += 1
                    case ["fenced", *_]:
                        outcome.fencings += 1
                    case ["resolved", _, what]:
                        outcome.resolutions[what] += 1
                    case ["restored", *_, records]:
                        outcome.restores += 1
                        outcome.restored_records += int(records)
        outcome.aborted = self._feed.aborted
        outcome.still_s = self._progress.stillness.longest_s
        outcome.seconds = time.monotonic() - self._began
        return outcome


class _Tasks:
    """What runs beside the faults; its errors come up, and it is ended with them."""

    def __init__(self, *work: Coroutine[Any, Any, None]) -> None:
        self._work = work
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(work) for work in self._work]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
            await quietly(task)

    def is_done(self, number: int) -> bool:
        """Whether the work with this number has ended."""
        return self._tasks[number].done()

    def check(self) -> None:
        """Raise what one of them has raised."""
        for task in self._tasks:
            if task.done():
                task.result()


async def _get(client: aiohttp.ClientSession, path: str, query: Mapping[str, str]) -> Any:
    """What a worker answers; None where it knows of nothing."""

    async def ask() -> tuple[int, Any]:
        async with client.get(path, params=query) as response:
            return response.status, await response.json()

    status, body = await _patiently(ask)
    if status == 404:
        return None
    if status != 200:
        raise ChaosError(f"GET {path} was answered with {status}: {body}")
    return body


async def _patiently(ask: Callable[[], Awaitable[tuple[int, Any]]]) -> tuple[int, Any]:
    """503 may pass: a worker that has just started may be given its partitions once more."""
    for _ in range(40):
        status, body = await ask()
        if status != 503:
            break
        await asyncio.sleep(0.25)
    return status, body
