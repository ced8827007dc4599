"""A worker with the state agent, whose table is in its changelog: from the start of its restoration to ready."""

from __future__ import annotations

import asyncio

import agents.state
from deploy.local.bench_agents.subjects.probe import Probe
from streams.faust_app import app
from streams.kafka.batching import Phase
from tables.state import state

__all__ = ["agents"]

_POLL_S = 0.005
probe = Probe()


@app.task  # type: ignore[untyped-decorator]
async def measure() -> None:
    """Measure it from outside."""
    while len(app.engine.counts()) < probe.partitions or app.engine.unready() is not None:
        if app.engine.counts() and any(status.phase is Phase.RESTORING for status in app.engine.status()):
            probe.begin()
        await asyncio.sleep(_POLL_S)
    probe.end()
    assert len(state) == probe.events, f"{len(state)} rows restored, not {probe.events}"
    probe.write(len(state))
