"""A case from its topics to its samples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from deploy.local.bench.processes import SubjectError
from deploy.local.bench.servers import Servers
from deploy.local.bench.topics import count, make_afresh
from deploy.local.bench_agents import events, topics
from deploy.local.bench_agents.cases import RESTORED_PER_EVENT, Case, Input, Subject
from deploy.local.bench_agents.processes import run
from deploy.local.bench_agents.report import Outcome
from deploy.local.bench_agents.results import Sample
from deploy.local.progress import Step
from streams import schemas
from streams.codecs import AvroCodec
from streams.domain.naming import DLQ, INGRESS, event_topic
from streams.registry import SchemaRegistry
from streams.settings import Settings

_FILLER: Final = Subject("the state agent fills it", "state_agent", is_worker=True)
_RESTORED_GROUP: Final = "bench-restore"


class Bench:
    """Measures cases on the same servers. `core` is the one that subjects are bound to, None where they are not."""

    def __init__(self, servers: Servers, directory: Path, count: int, runs: int, core: int | None) -> None:
        self._servers = servers
        self._directory = directory
        self._count = count
        self._runs = runs
        self._core = core

    async def measure(self, case: Case) -> Outcome:
        """Prepare a case, and run its subjects in turns: A B A B. Raises SubjectError or PlatformError."""
        found: list[list[Sample]] = [[] for _ in case.subjects]
        await self._prepare(case)
        for number in range(1, self._runs + 1):
            for subject, samples in zip(case.subjects, found, strict=True):
                samples.append(await self._run(case, subject, number))
        if letters := await count(self._settings(case), DLQ):
            raise SubjectError(f"{case.name}: {letters} records came into {DLQ}, so what was measured is not the case")
        return Outcome(case, tuple(map(tuple, found)))

    async def _prepare(self, case: Case) -> None:
        """Fill what the runs of a case share."""
        settings = self._settings(case)
        await make_afresh(settings)
        progress = topics.Progress()
        if case.input is Input.AT_ONCE:
            return
        if case.input is Input.INGRESS:
            with Step(f"{case.name}: filling {INGRESS}", progress.text, sys.stderr):
                await topics.fill(settings, INGRESS, events.ingress(self._count, case.partitions), progress)
            return
        topic = event_topic(events.TOPIC)
        schema_id = await SchemaRegistry(settings).register(f"{topic}-value", schemas.EVENT)
        wanted = self._events(case, case.measured)
        distinct = case.input is Input.TABLE
        with Step(f"{case.name}: filling {topic}", progress.text, sys.stderr):
            made = events.stored(wanted, case.partitions, AvroCodec(), schema_id, distinct=distinct)
            await topics.fill(settings, topic, made, progress)
        if case.input is Input.TABLE:
            with Step(f"{case.name}: {_FILLER.title}", out=sys.stderr):
                await run(case, _FILLER, wanted, self._values(case), self._directory, core=self._core)

    async def _run(self, case: Case, subject: Subject, number: int) -> Sample:
        wanted = self._events(case, subject)
        values = self._values(case)
        said: list[str] = []
        progress = topics.Progress()
        title = f"{case.name}, run {number} of {self._runs}: {subject.title}"
        with Step(title, lambda: said[0] if said else progress.text(), sys.stderr):
            if case.input is Input.AT_ONCE:
                settings = self._settings(case)
                await make_afresh(settings)
                made = events.ingress(wanted, case.partitions)
                async with topics.hidden(settings, INGRESS, made, progress) as show_all:
                    # Bound to no core: there are two of them.
                    sample = await run(case, subject, wanted, values, self._directory, core=None, when_ready=show_all)
            else:
                sample = await run(case, subject, wanted, values, self._directory, core=self._core)
            said.append(f"{sample.cpu_us:.2f} µs CPU an event, {sample.rate:,.0f} events/s")
        return sample

    def _events(self, case: Case, subject: Subject) -> int:
        if case.input is Input.TABLE:
            return self._count * RESTORED_PER_EVENT
        return max(1, self._count // subject.share)

    def _values(self, case: Case) -> dict[str, object]:
        """The settings of the platform's that a case needs."""
        values: dict[str, object] = {
            "kafka_bootstrap_servers": self._servers.bootstrap_servers,
            "registry_url": self._servers.registry_url,
            "kafka_partitions": case.partitions,
            "event_topics": events.TOPIC,
        }
        # The same group in every run: what it has committed, and its changelog, are as a worker has left them.
        return values | {"app_id": _RESTORED_GROUP} if case.input is Input.TABLE else values

    def _settings(self, case: Case) -> Settings:
        return Settings.model_validate(self._values(case))
