"""The table of the medians: with colours on a terminal, plain elsewhere, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.local.bench.machine import wide

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Target(Generic[M]):
    """What a case must reach: a figure of the medians, its limit, and on which side of it is right."""

    figure: str
    """A format with the place of the figure and that of the limit."""
    value: Callable[[M, M], float]
    """Of the measured subject and its yardstick."""
    limit: float
    at_most: bool = True

    def is_met(self, measured: M, yardstick: M) -> bool:
        """Whether these medians reach it."""
        value = self.value(measured, yardstick)
        return value <= self.limit if self.at_most else value >= self.limit

    def text(self, measured: M, yardstick: M) -> str:
        """The figure and its limit, for people."""
        return self.figure.format(self.value(measured, yardstick), self.limit)


class Titled(Protocol):
    """What is measured in a case."""

    @property
    def title(self) -> str:
        """For people."""


class Case(Protocol):
    """A row of the table."""

    @property
    def name(self) -> str:
        """For the command line."""

    @property
    def title(self) -> str:
        """For people."""

    @property
    def subjects(self) -> Sequence[Titled]:
        """What is measured, the product first."""


class Outcome(Protocol):
    """A case, and the runs of each of its subjects, in their order."""

    @property
    def case(self) -> Case:
        """What was measured."""

    @property
    def runs(self) -> Sequence[Sequence[Any]]:
        """Dataclasses, of each run of each subject."""

    @property
    def medians(self) -> Sequence[Any]:
        """Dataclasses, of each subject."""

    def verdicts(self) -> list[tuple[bool, str]]:
        """Whether each target is reached, and its figures."""


def as_table(
    outcomes: Sequence[Outcome], title: str, columns: Sequence[str], figures: Callable[[Any], Sequence[str]]
) -> Table:
    """A row for each subject, `figures` of its medians in the columns, and beside the measured one how the case stands."""
    table = Table(title=title, title_justify="left")
    table.add_column("case")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("target")
    for outcome in outcomes:
        table.add_section()
        verdicts = Text("\n").join(
            Text("met: " if met else "MISSED: ", style="green" if met else "bold red") + Text(text, style="default")
            for met, text in outcome.verdicts()
        )
        for number, (subject, found) in enumerate(zip(outcome.case.subjects, outcome.medians, strict=True)):
            name = f"{outcome.case.title}\n  {subject.title}" if number == 0 else f"  {subject.title}"
            table.add_row(Text(name), *figures(found), verdicts if number == 0 else Text())
    return table


def show(table: Table, console: Console | None = None) -> None:
    """Print the table."""
    wide(console).print(table)


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
