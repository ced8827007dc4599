"""The totals as a person reads them, or as a program does."""

from __future__ import annotations

from typing import Final, TextIO

import msgspec
from rich.console import Console
from rich.table import Table

from streams.generators.totals import Totals

COLUMNS: Final = (
    "emitted",
    "valid",
    "invalid",
    "late",
    "duplicates",
    "accepted",
    "repeated",
    "rejected",
    "failed",
    "retries",
    "uncertain",
    "surprises",
)


def write_totals(totals: Totals, out: TextIO, *, as_json: bool) -> None:
    """Write the totals: one JSON document, a table on a terminal, or else plain lines."""
    if as_json:
        out.write(msgspec.json.format(msgspec.json.encode(totals.as_json()), indent=2).decode() + "\n")
    elif out.isatty():
        _write_table(totals, out)
    else:
        _write_plain(totals, out)
    out.flush()


def _rows(totals: Totals) -> list[tuple[str, list[str]]]:
    documents = {name: topic.as_json() for name, topic in sorted(totals.topics.items())}
    rows = [(name, [f"{document[c]:,}" for c in COLUMNS]) for name, document in documents.items()]
    if len(documents) > 1:
        rows.append(("total", [f"{sum(int(str(d[c])) for d in documents.values()):,}" for c in COLUMNS]))
    return rows


def _heading(totals: Totals) -> str:
    ended = f", ended early by {totals.stopped_by}" if totals.stopped_by else ""
    rate = totals.emitted / totals.elapsed_s if totals.elapsed_s else 0.0
    return (
        f"{totals.emitted:,} events by {totals.via} in {totals.elapsed_s:.1f} s ({rate:,.0f}/s),"
        f" seed {totals.seed}, start {totals.start_ms}{ended}"
    )


def _details(totals: Totals) -> list[str]:
    lines = [
        f"{name}, invalid by code: " + ", ".join(f"{code} {n:,}" for code, n in sorted(topic.invalid_by_code.items()))
        for name, topic in sorted(totals.topics.items())
        if topic.invalid_by_code
    ]
    return lines + [f"surprise: {example}" for example in totals.examples]


def _write_table(totals: Totals, out: TextIO) -> None:
    table = Table(title=_heading(totals), title_justify="left")
    table.add_column("topic")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, cells in _rows(totals):
        table.add_row(name, *cells, style="bold" if name == "total" else None)
    console = Console(file=out)
    console.print(table)
    for line in _details(totals):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _write_plain(totals: Totals, out: TextIO) -> None:
    out.write(_heading(totals) + "\n")
    out.write(f"{'topic':<14}" + "".join(f"{c:>12}" for c in COLUMNS) + "\n")
    out.writelines(f"{name:<14}" + "".join(f"{c:>12}" for c in cells) + "\n" for name, cells in _rows(totals))
    out.writelines(line + "\n" for line in _details(totals))
