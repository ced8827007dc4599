"""The state agent, alone: `agents.state` as it is, on the product's app."""

from __future__ import annotations

import agents.state
from deploy.local.bench_agents.events import TOPIC
from deploy.local.bench_agents.subjects.probe import Probe
from streams.faust_app import app
from tables.state import totals_of

__all__ = ["agents"]

probe = Probe()


@app.task  # type: ignore[untyped-decorator]
async def measure() -> None:
    """Measure it from outside."""
    done = await probe.follow(app.engine)
    counted = sum(totals_of(TOPIC).values())
    assert counted == done, f"{counted} events counted, not {done}"
    probe.write(done)
