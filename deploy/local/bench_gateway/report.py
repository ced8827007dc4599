"""The table of the medians: with colours on a terminal, plain elsewhere, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.local.bench.machine import wide
from deploy.local.bench_gateway.cases import Case
from deploy.local.bench_gateway.results import Median, Sample, median


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
    """A row for each subject, and beside the measured one how the case stands."""
    table = Table(title="medians", title_justify="left")
    table.add_column("case")
    for name in ("runs", "events/s", "CPU µs an event", "least, most", "core", "p50, p99 ms", "client late"):
        table.add_column(name, justify="right")
    table.add_column("target")
    for outcome in outcomes:
        table.add_section()
        verdicts = Text("\n").join(
            Text("met: " if met else "MISSED: ", style="green" if met else "bold red") + Text(text, style="default")
            for met, text in outcome.verdicts()
        )
        for number, (subject, found) in enumerate(zip(outcome.case.subjects, outcome.medians, strict=True)):
            title = f"{outcome.case.title}\n  {subject.title}" if number == 0 else f"  {subject.title}"
            table.add_row(Text(title), *_figures(found), verdicts if number == 0 else Text())
    return table


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


def show(outcomes: Sequence[Outcome], console: Console | None = None) -> None:
    """Print the table."""
    wide(console).print(as_table(outcomes))


def as_json(outcomes: Sequence[Outcome], machine: Mapping[str, object]) -> str:
    """Every run, for machines."""
    cases = [
        {
            "case": outcome.case.name,
            "subjects": [
                {"title": subject.title, "median": asdict(found), "runs": [asdict(sample) for sample in samples]}
                for subject, found, samples in zip(outcome.case.subjects, outcome.medians, outcome.runs, strict=True)
            ],
            "targets": [{"met": met, "text": text} for met, text in outcome.verdicts()],
        }
        for outcome in outcomes
    ]
    return json.dumps({"machine": machine, "cases": cases})
