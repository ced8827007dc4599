"""What is measured, beside what, and what must be reached."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from deploy.local.bench.report import Target
from deploy.local.bench_agents.results import Median

_SUBJECTS: Final = "deploy.local.bench_agents.subjects"


@dataclass(frozen=True, slots=True)
class Subject:
    """A program that is measured."""

    title: str
    module: str
    """Its name in `subjects`."""
    is_worker: bool
    """Whether it is started as `faust -A … worker`, else as `python -m …`."""
    share: int = 1
    """It ends after one in so many of the events: a yardstick that would take minutes."""
    workers: int = 1
    """So many processes at the same time."""

    @property
    def path(self) -> str:
        """The module that is run."""
        return f"{_SUBJECTS}.{self.module}"


class Input(Enum):
    """What the subjects of a case read."""

    EVENTS = "events.bench, filled once: hot keys"
    INGRESS = "platform.ingress, filled once"
    TABLE = "the changelog of the state table: its agent has folded an event of each key, in the same group"
    AT_ONCE = "platform.ingress, filled anew for each run, and seen only when all processes have their partitions"


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table: something of the product, and its yardstick where there is one."""

    name: str
    title: str
    input: Input
    measured: Subject
    yardstick: Subject | None
    targets: tuple[Target[Median], ...]
    partitions: int = 4

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """In the order of a run."""
        return (self.measured,) if self.yardstick is None else (self.measured, self.yardstick)


MILLION: Final = 1_000_000
KEYS: Final = 100_000
ZIPF_EXPONENT: Final = 1.1
"""That of the generators."""
RESTORED_PER_EVENT: Final = 2
"""The table that is restored has twice as many keys as other cases have events: a million by default."""


def _cpu_ratio(measured: Median, yardstick: Median) -> float:
    return measured.cpu_us / yardstick.cpu_us


def _speed_ratio(measured: Median, yardstick: Median) -> float:
    return measured.rate / yardstick.rate


def _per_core(measured: Median, _: Median) -> float:
    return MILLION / measured.cpu_us


def _million_s(measured: Median, _: Median) -> float:
    return MILLION / measured.rate


CASES: Final = (
    Case(
        "decode",
        "batch agent, decode only",
        Input.EVENTS,
        Subject("agent", "decode_agent", is_worker=True),
        Subject("aiokafka, same decode", "decode_client", is_worker=False),
        (Target("{:.2f} times its CPU, at most {:.2f}", _cpu_ratio, 1.25),),
    ),
    Case(
        "ingest",
        "ingest agent, exactly once: JSON, validated, Avro, by key",
        Input.INGRESS,
        Subject("agent", "ingest_agent", is_worker=True),
        Subject("aiokafka, same functions, no transactions", "ingest_client", is_worker=False),
        (
            Target("{:.2f} times its CPU, at most {:.2f}", _cpu_ratio, 1.3),
            Target("{:,.0f} events a second a core, at least {:,.0f}", _per_core, 25_000, at_most=False),
        ),
    ),
    Case(
        "state",
        "state agent with its tables, 100,000 keys, Zipf",
        Input.EVENTS,
        Subject("agent", "state_agent", is_worker=True),
        Subject("plain Faust agent, tab[k] =", "state_table", is_worker=True, share=10),
        (Target("{:.1f} times as fast, at least {:.0f}", _speed_ratio, 15, at_most=False),),
    ),
    Case(
        "restore",
        "the state table, restored from its changelog",
        Input.TABLE,
        Subject("worker", "restore", is_worker=True),
        None,
        (Target("{:.1f} s for 1,000,000 keys, under {:.0f}", _million_s, 20),),
    ),
    Case(
        "scale",
        "ingest agent on 8 partitions",
        Input.AT_ONCE,
        Subject("2 workers", "ingest_agent", is_worker=True, workers=2),
        Subject("1 worker", "ingest_agent", is_worker=True),
        (Target("{:.2f} times the CPU of 1 worker, at most {:.2f}", _cpu_ratio, 1.1),),
        partitions=8,
    ),
)
