"""What is measured, beside what, and what must be reached."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from deploy.local.bench.report import Target
from deploy.local.bench_gateway.requests import BATCH, BATCH_CONNECTIONS, CONNECTIONS
from deploy.local.bench_gateway.results import Median

_SUBJECTS: Final = "deploy.local.bench_gateway.subjects"


class Kind(Enum):
    """How a program is started, and who gives it work."""

    WORKER = "faust -A … worker, which serves HTTP"
    SERVER = "python -m …, which serves HTTP"
    CLIENT = "python -m …, which gives itself work"


@dataclass(frozen=True, slots=True)
class Subject:
    """A program that is measured."""

    title: str
    module: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Posts:
    """wrk posts as fast as it is answered."""

    path: str
    content_type: str
    events: int
    """In each request."""
    connections: int


@dataclass(frozen=True, slots=True)
class Watch:
    """A client posts at a rate, and watches what it has posted."""

    rate: int
    """Events a second."""
    watchers: int
    stalled: int
    """How many more there are that never read."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table: something of the product, its yardstick where there is one, and what else is worth seeing."""

    name: str
    title: str
    load: Posts | Watch
    measured: Subject
    yardstick: Subject | None
    targets: tuple[Target[Median], ...]
    beside: tuple[Subject, ...] = ()
    """Measured for information; no target looks at them."""

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """In the order of a run."""
        return (self.measured, *(() if self.yardstick is None else (self.yardstick,)), *self.beside)


def _share(measured: Median, yardstick: Median) -> float:
    return measured.rate / yardstick.rate * 100


def _cpu(measured: Median, _: Median) -> float:
    return measured.cpu_us


def _p99(measured: Median, _: Median) -> float:
    return float("inf") if measured.p99_ms is None else measured.p99_ms


def _lost(measured: Median, _: Median) -> float:
    return measured.lost


_WHOLE: Final = Subject("the whole worker: its state agent reads what is posted", "streams", Kind.WORKER)
_GATEWAY: Final = Subject("gateway in a Faust worker", f"{_SUBJECTS}.web_worker", Kind.WORKER)
_NOTHING_LOST: Final = Target("{:,.0f} lost or doubled, at most {:.0f}", _lost, 0)

CASES: Final = (
    Case(
        "single",
        f"one event a request, {CONNECTIONS} connections, all on",
        Posts("", "application/json", 1, CONNECTIONS),
        _GATEWAY,
        Subject("bare aiohttp, orjson, aiokafka", f"{_SUBJECTS}.bare_handler", Kind.SERVER),
        (Target("{:.0f} % of its requests, at least {:.0f}", _share, 80, at_most=False),),
        beside=(_WHOLE,),
    ),
    Case(
        "batch",
        f"NDJSON, {BATCH} events a request, {BATCH_CONNECTIONS} connections, all on",
        Posts("/batch", "application/x-ndjson", BATCH, BATCH_CONNECTIONS),
        _GATEWAY,
        Subject("the same producer, encoded records, no HTTP", f"{_SUBJECTS}.producer_client", Kind.CLIENT),
        (Target("{:.1f} µs of CPU an event, at most {:.0f}", _cpu, 25),),
    ),
    Case(
        "delivery",
        "POST to WebSocket delivery, 1,000 events a second",
        Watch(rate=1_000, watchers=1, stalled=0),
        _WHOLE,
        None,
        (Target("p99 {:.1f} ms, at most {:.0f}", _p99, 50), _NOTHING_LOST),
    ),
    Case(
        "fanout",
        "200 WebSocket clients, one of them stalled, 500 events a second",
        Watch(rate=500, watchers=199, stalled=1),
        _WHOLE,
        None,
        (Target("p99 {:.1f} ms, at most {:.0f}", _p99, 250), _NOTHING_LOST),
    ),
)
