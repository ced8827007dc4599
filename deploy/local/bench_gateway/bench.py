"""A case from its topics to its samples."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from deploy.local.bench.processes import SubjectError, environment
from deploy.local.bench.servers import Servers, free_ports, process, tail
from deploy.local.bench.topics import count, make_afresh
from deploy.local.bench_gateway.cases import Case, Kind, Posts, Subject, Watch
from deploy.local.bench_gateway.report import Outcome
from deploy.local.bench_gateway.requests import TOPIC
from deploy.local.bench_gateway.results import Sample
from deploy.local.bench_gateway.wrk import Wrk
from deploy.local.paths import ROOT
from deploy.local.progress import Step
from deploy.local.readiness import answers
from streams.domain.naming import event_topic
from streams.settings import Settings
from web.security.auth import make_token

_START_S: Final = 60.0
_GRACE_S: Final = 60.0
_POLL_S: Final = 0.1
_TOKEN_S: Final = 3_600
_CLIENT: Final = "deploy.local.bench_gateway.live_client"


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, and how long."""

    runs: int
    seconds: int
    """Measured, of each run."""
    warm_s: int = 2
    """Before that: connections are made, code is warm in the worker and in the broker's JVM."""


class Bench:
    """Measures cases on the same servers. `core` is the one that subjects are bound to, None where they are not."""

    def __init__(self, servers: Servers, directory: Path, plan: Plan, core: int | None) -> None:
        self._servers = servers
        self._directory = directory
        self._plan = plan
        self._core = core

    async def measure(self, case: Case) -> Outcome:
        """Run a case's subjects in turns: A B A B. Raises SubjectError or PlatformError."""
        found: list[list[Sample]] = [[] for _ in case.subjects]
        for number in range(1, self._plan.runs + 1):
            for subject, samples in zip(case.subjects, found, strict=True):
                step = Step(f"{case.name}, run {number} of {self._plan.runs}: {subject.title}", out=sys.stderr)
                with step:
                    sample = await self._run(case, subject)
                    step.measure = sample.text
                samples.append(sample)
        return Outcome(case, tuple(map(tuple, found)))

    async def _run(self, case: Case, subject: Subject) -> Sample:
        [port] = free_ports(1)
        name = f"{case.name}-{secrets.token_hex(4)}"
        secret = secrets.token_hex(32)
        values: dict[str, object] = {
            "app_id": f"bench-{name}",
            "kafka_bootstrap_servers": self._servers.bootstrap_servers,
            "registry_url": self._servers.registry_url,
            "event_topics": TOPIC,
            "web_port": port,
            "jwt_secret": secret,
            "data_dir": self._directory / name,
            # They are on, and never reached: what is measured is not how fast is refused.
            "subject_requests_per_s": 1_000_000,
            "subject_events_per_s": 100_000_000,
            "subject_burst_events": 100_000_000,
        }
        settings = Settings.model_validate(values)
        # So that no subject finds another's records: a state agent would read them first.
        await make_afresh(settings)
        log = self._directory / f"{name}.log"
        result = self._directory / f"{name}.json"
        told = {"warm_s": self._plan.warm_s, "seconds": self._plan.seconds, "result": result}
        with ExitStack() as stack:
            with _on_core(self._core):
                started = process(_command(subject), log, environment=environment(values, told), directory=ROOT)
                server = stack.enter_context(started)
            if subject.kind is Kind.CLIENT:
                return await self._of(result, server, log)
            url = f"http://127.0.0.1:{port}/api/v1/health/ready"
            await _until(lambda: answers(url), server, log, _START_S)
            token = make_token(settings, secret.encode(), ["events:*"], _TOKEN_S, "bench", time.time())
            if isinstance(case.load, Posts):
                return await self._posted(case.load, settings, token, server, log)
            return await self._watched(case.load, values, told | {"token": token, "server": server.pid}, name)

    async def _posted(
        self, posts: Posts, settings: Settings, token: str, server: subprocess.Popen[bytes], log: Path
    ) -> Sample:
        wrk = Wrk(posts, settings.web_port, token, self._directory)
        account = psutil.Process(server.pid)
        try:
            warm = await wrk.run(self._plan.warm_s)
            before = account.cpu_times()
            done = await wrk.run(self._plan.seconds)
            after = account.cpu_times()
        except SubjectError as exc:
            raise SubjectError(f"{exc}\nthe end of the log:\n{tail(log)}") from exc
        wanted = (warm.requests + done.requests) * posts.events
        if (stored := await count(settings, event_topic(TOPIC))) < wanted:
            raise SubjectError(f"{wanted:,} events were acknowledged, and {stored:,} are stored")
        cpu_s = after.user + after.system - before.user - before.system
        return Sample(done.requests * posts.events, done.wall_s, cpu_s, done.p50_ms, done.p99_ms)

    async def _watched(
        self, watch: Watch, values: Mapping[str, object], told: Mapping[str, object], name: str
    ) -> Sample:
        load = {"rate": watch.rate, "watchers": watch.watchers, "stalled": watch.stalled}
        log = self._directory / f"{name}-client.log"
        command = [sys.executable, "-m", _CLIENT]
        with process(command, log, environment=environment(values, {**told, **load}), directory=ROOT) as client:
            return await self._of(Path(str(told["result"])), client, log)

    async def _of(self, result: Path, running: subprocess.Popen[bytes], log: Path) -> Sample:
        """What a program has found out by itself."""
        await _until(result.exists, running, log, self._plan.warm_s + self._plan.seconds + _GRACE_S)
        return _sample(result)


def _sample(result: Path) -> Sample:
    return Sample(**json.loads(result.read_text(encoding="utf-8")))


def _command(subject: Subject) -> list[str]:
    if subject.kind is Kind.WORKER:
        faust = str(Path(sys.executable).parent / "faust")
        return [faust, "-A", subject.module, "--loop", "uvloop", "worker", "-l", "info"]
    return [sys.executable, "-m", subject.module]


@contextmanager
def _on_core(core: int | None) -> Iterator[None]:
    """What is started here is bound to this core, with all of its threads."""
    if core is None:
        yield
        return
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


async def _until(is_true: Callable[[], bool], running: subprocess.Popen[bytes], log: Path, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not is_true():
        if running.poll() is not None and not is_true():
            raise SubjectError(f"{log.stem} has ended; the end of its log:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise SubjectError(f"{log.stem} was not done within {within_s:.0f} s; the end of its log:\n{tail(log)}")
        await asyncio.sleep(_POLL_S)
