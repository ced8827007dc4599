"""The ingest agent, alone: `agents.ingest` as it is, on the product's app. The state agent would read what it writes."""

from __future__ import annotations

import agents.ingest
from deploy.local.bench_agents.subjects.probe import Probe
from streams.faust_app import app

__all__ = ["agents"]

probe = Probe()


@app.task  # type: ignore[untyped-decorator]
async def measure() -> None:
    """Measure it from outside."""
    probe.write(await probe.follow(app.engine))
