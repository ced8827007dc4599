"""The table of the medians: with colours on a terminal, plain elsewhere, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.local.bench.machine import wide
from deploy.local.bench_agents.cases import Case, Subject
from deploy.local.bench_agents.results import Median, Sample, median


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
    """A row for each subject, and below it how the case stands."""
    table = Table(title="medians, from the first record to the last committed", title_justify="left")
    table.add_column("case")
    for name in ("runs", "events", "events/s", "CPU µs an event", "least, most", "memory"):
        table.add_column(name, justify="right")
    table.add_column("target")
    for outcome in outcomes:
        table.add_section()
        verdicts = Text("\n").join(
            Text("met: " if met else "MISSED: ", style="green" if met else "bold red") + Text(text, style="default")
            for met, text in outcome.verdicts()
        )
        for number, (subject, found) in enumerate(zip(outcome.case.subjects, outcome.medians, strict=True)):
            table.add_row(
                _title(outcome.case, subject, number),
                *_figures(found),
                verdicts if number == 0 else Text(),
            )
    return table


def _title(case: Case, subject: Subject, number: int) -> Text:
    return Text(f"{case.title}\n  {subject.title}" if number == 0 else f"  {subject.title}")


def _figures(found: Median) -> tuple[str, ...]:
    return (
        str(found.runs),
        f"{found.events:,}",
        f"{found.rate:,.0f}",
        f"{found.cpu_us:.2f}",
        f"{found.cpu_us_least:.2f}, {found.cpu_us_most:.2f}",
        f"{found.rss_bytes / 1e6:.0f} MB",
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
