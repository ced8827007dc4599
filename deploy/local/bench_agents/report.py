"""How what was measured is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.table import Table

from deploy.local.bench import report
from deploy.local.bench_agents.cases import Case
from deploy.local.bench_agents.results import Median, Sample, median

_COLUMNS: Final = ("runs", "events", "events/s", "CPU µs an event", "least, most", "memory")


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
        first, last = self.medians[0], self.medians[-1]
        return [(target.is_met(first, last), target.text(first, last)) for target in self.case.targets]


def as_table(outcomes: Sequence[Outcome]) -> Table:
    """The table of the medians."""
    return report.as_table(outcomes, "medians, from the first record to the last committed", _COLUMNS, _figures)


def _figures(found: Median) -> tuple[str, ...]:
    return (
        str(found.runs),
        f"{found.events:,}",
        f"{found.rate:,.0f}",
        f"{found.cpu_us:.2f}",
        f"{found.cpu_us_least:.2f}, {found.cpu_us_most:.2f}",
        f"{found.rss_bytes / 1e6:.0f} MB",
    )
