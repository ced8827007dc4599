"""`make bench-agents`: what the agents cost, each case beside its yardstick in the same run.

Needs no running stack: it starts a Kafka broker and a schema registry of its own, and stops them at the end. All
cases with their five runs take some twelve minutes on two cores. Ctrl-C ends it in order: nothing is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from deploy.local.bench.invocation import interruptible, parser, positive
from deploy.local.bench.machine import machine
from deploy.local.bench.processes import SubjectError, cores
from deploy.local.bench.report import as_json, show
from deploy.local.bench.servers import ServerError, running
from deploy.local.bench_agents.bench import Bench
from deploy.local.bench_agents.cases import CASES, Case
from deploy.local.bench_agents.report import Outcome, as_table
from deploy.local.paths import ROOT
from deploy.local.progress import Step, paint
from streams.domain.errors import PlatformError


async def measure_all(bench: Bench, cases: Sequence[Case]) -> list[Outcome]:
    """Every case."""
    return [await bench.measure(case) for case in cases]


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    found = parser("python -m deploy.local.bench_agents", __doc__, CASES)
    found.add_argument("--events", type=positive, default=500_000, metavar="N", help="events of a run (500000)")
    return found.parse_args(arguments)


def main() -> int:
    """Measure and print; 1 when something fails, 130 when it is broken off. A missed target is no failure."""
    chosen = options()
    cases = [case for case in CASES if not chosen.only or case.name in chosen.only]
    os.chdir(ROOT)
    # They report each try to find a topic that is new, or gone.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    available = os.cpu_count() or 1
    subjects_core, our_core = cores()
    if our_core is not None:
        # What we start inherits it; subjects move to the other one by themselves.
        os.sched_setaffinity(0, {our_core})
    try:
        with ExitStack() as stack:
            stack.enter_context(interruptible())
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streams-bench-")))
            with Step("starting a broker and a registry", out=sys.stderr):
                servers = stack.enter_context(running(directory))
            bench = Bench(servers, directory, chosen.events, chosen.runs, subjects_core)
            outcomes = asyncio.run(measure_all(bench, cases))
    except (ServerError, SubjectError, PlatformError) as exc:
        print(paint(f"bench-agents: {exc}", "red", sys.stderr), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench-agents: broken off; everything is stopped", file=sys.stderr)
        return 130
    if chosen.json:
        print(as_json(outcomes, machine(available)))
    else:
        show(as_table(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
