"""`make bench`: what the gateway costs, each case beside its yardstick in the same run.

Needs no running stack: it starts a Kafka broker and a schema registry of its own, and stops them at the end. All
cases with their five runs take some twelve minutes on two cores. What is measured has one core for itself; the broker
and the clients share the other. Ctrl-C ends it in order: nothing is left behind.
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
from deploy.local.bench_gateway import wrk
from deploy.local.bench_gateway.bench import Bench, Plan
from deploy.local.bench_gateway.cases import CASES, Case
from deploy.local.bench_gateway.report import Outcome, as_table
from deploy.local.paths import ROOT
from deploy.local.progress import SetupError, Step, paint, say
from streams.domain.errors import PlatformError


async def measure_all(bench: Bench, cases: Sequence[Case], outcomes: list[Outcome]) -> None:
    """Every case, up to one that fails: what was measured before it is not lost."""
    for case in cases:
        outcomes.append(await bench.measure(case))  # noqa: PERF401  # a comprehension would lose them


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    found = parser("python -m deploy.local.bench_gateway", __doc__, CASES)
    found.add_argument("--seconds", type=positive, default=8, metavar="N", help="measured seconds of a run (8)")
    return found.parse_args(arguments)


def main() -> int:
    """Measure and print; 1 when something fails, 130 when it is broken off. A missed target is no failure."""
    chosen = options()
    cases = [case for case in CASES if not chosen.only or case.name in chosen.only]
    os.chdir(ROOT)
    # They report each try to find a topic that is new, or gone.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    available = os.cpu_count() or 1
    # Other work on the machine spoils the figures: who reads them must know of it.
    load = os.getloadavg()[0]
    say(f"load of the machine before: {load:.1f}", sys.stderr)
    subjects_core, our_core = cores()
    if our_core is not None:
        # What we start inherits it, but for subjects.
        os.sched_setaffinity(0, {our_core})
        say(f"measured processes on core {subjects_core}; Kafka and the clients on core {our_core}", sys.stderr)
    outcomes: list[Outcome] = []
    status = 0
    try:
        with ExitStack() as stack:
            stack.enter_context(interruptible())
            wrk.require()
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streams-bench-")))
            with Step("starting a broker and a registry", out=sys.stderr):
                servers = stack.enter_context(running(directory))
            bench = Bench(servers, directory, Plan(chosen.runs, chosen.seconds), subjects_core)
            asyncio.run(measure_all(bench, cases, outcomes))
    except (ServerError, SetupError, SubjectError, PlatformError) as exc:
        print(paint(f"bench: {exc}", "red", sys.stderr), file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("bench: broken off; everything is stopped", file=sys.stderr)
        status = 130
    if chosen.json:
        print(as_json(outcomes, machine(available) | {"load_before": load}))
    elif outcomes:
        show(as_table(outcomes))
    return status


if __name__ == "__main__":
    sys.exit(main())
