"""How what was measured is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.table import Table

from deploy.local.bench import report
from deploy.local.bench_gateway.cases import Case
from deploy.local.bench_gateway.results import Median, Sample, median

_COLUMNS: Final = ("runs", "events/s", "CPU µs an event", "least, most", "core", "p50, p99 ms", "client late")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A case, and the runs of each of its subjects, in their order."""

    case: Case
    runs: tuple[tuple[Sample, ...], ...]

    @property
    def medians(self) -> tuple[Median, ...]:
        """Of each subject."""
        return tuple(median(samples) for samples in self.runs)

    def verdicts(self) -> list[tuple[bool, str]]:
        """Whether each target is reached, and its figures."""
        measured, *others = self.medians
        yardstick = others[0] if self.case.yardstick is not None else measured
        return [(target.is_met(measured, yardstick), target.text(measured, yardstick)) for target in self.case.targets]


def as_table(outcomes: Sequence[Outcome]) -> Table:
    """The table of the medians."""
    return report.as_table(outcomes, "medians", _COLUMNS, _figures)


def _figures(found: Median) -> tuple[str, ...]:
    return (
        str(found.runs),
        f"{found.rate:,.0f}",
        f"{found.cpu_us:.1f}",
        f"{found.cpu_us_least:.1f}, {found.cpu_us_most:.1f}",
        f"{found.busy:.0%}",
        "" if found.p50_ms is None else f"{found.p50_ms:.1f}, {found.p99_ms:.1f}",
        "" if found.client_p99_ms is None else f"{found.client_p99_ms:.1f}",
    )
