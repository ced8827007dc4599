"""The ledger for readers: as one JSON document, and as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streams.domain.ledger import UNKNOWN, Difference, Minute, State
from streams.ledger import Report

MOST_MINUTES: Final = 60
"""So many rows of minutes are shown; of more, those that balance are left out."""
_NUMBERS: Final = (
    "accepted",
    "accepted_http",
    "accepted_ingress",
    "events",
    "unconfirmed_events",
    "redriven",
    "duplicates",
    "aggregated",
    "late",
    "invalid",
)
_ENDS: Final = ("records", "ended", "lost", "twice", "stray", "pending", "expired")
_COLUMNS: Final = ("accepted", "events", "duplicates", "dlq", "aggregated", "late", "invalid")


def document(report: Report) -> dict[str, Any]:
    """Everything that was counted, and the verdict. Times are milliseconds since the Unix epoch."""
    ledger, verdict = report.ledger, report.verdict
    watermark = ledger.watermark
    return {
        "balanced": verdict.balanced,
        "from": report.period.start_ms,
        "to": report.period.end_ms,
        "rules": asdict(report.rules),
        "closed_until": None if watermark is None else watermark + 1,
        "ingress": _ingress(report),
        "totals": _sums(report, None),
        "topics": {topic: _sums(report, topic) for topic in _topics(report)},
        "minutes": [
            {"topic": topic, "minute": minute}
            | _numbers(row)
            | {"state": verdict.states.get((topic, minute)), "missing": row.missing(report.rules)}
            for (topic, minute), row in sorted(ledger.minutes.items(), key=lambda item: item[0])
        ],
        "unreadable": dict(ledger.unreadable),
        "differences": [asdict(difference) for difference in verdict.differences],
        "records": report.records,
        "seconds": round(report.seconds, 3),
    }


def pages(report: Report, *, everything: bool) -> RenderableType:
    """The same for a person: totals, minutes, and in the end whether it balances."""
    parts: list[RenderableType] = [_totals_table(report), *_minutes_table(report, everything=everything)]
    ingress = _ingress(report)
    parts.append(Text("platform.ingress: " + ", ".join(f"{ingress[name]:,} {name}" for name in _ENDS)))
    if reasons := _sums(report, None)["dlq"]:
        parts.append(Text("dead letters: " + ", ".join(f"{n:,} {reason}" for reason, n in sorted(reasons.items()))))
    states = Counter(report.verdict.states.values())
    parts.append(Text("minutes: " + ", ".join(f"{states[state]:,} {state}" for state in State)))
    if report.verdict.balanced:
        parts.append(Text("the ledger balances", style="bold green"))
    else:
        parts.append(Text("the ledger does not balance:", style="bold red"))
        parts += [Text(_line(difference)) for difference in report.verdict.differences]
    return Group(*parts)


def _totals_table(report: Report) -> Table:
    table = Table("topic", title="Totals", title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for topic in _topics(report):
        table.add_row(topic, *_cells(_sums(report, topic)))
    table.add_section()
    table.add_row("all", *_cells(_sums(report, None)))
    return table


def _minutes_table(report: Report, *, everything: bool) -> Iterable[RenderableType]:
    states = report.verdict.states
    rows = sorted(report.ledger.minutes.items(), key=lambda item: (item[0][1], item[0][0]))
    shown = rows
    if len(rows) > MOST_MINUTES and not everything:
        plain = (State.BALANCED, State.EXPIRED, None)
        shown = [item for item in rows if states.get(item[0]) not in plain]
    if shown:
        table = Table("minute (UTC)", "topic", title="Minutes", title_justify="left")
        for column in _COLUMNS:
            table.add_column(column, justify="right")
        table.add_column("windows")
        for (topic, minute), row in shown:
            table.add_row(_clock(minute), topic, *_cells(_numbers(row)), states.get((topic, minute), ""))
        yield table
    if len(shown) < len(rows):
        yield Text(f"{len(rows) - len(shown):,} minutes that balance are not shown; --all shows them")


def _cells(numbers: dict[str, Any]) -> list[str]:
    return [f"{sum(numbers[name].values()) if name == 'dlq' else numbers[name]:,}" for name in _COLUMNS]


def _numbers(row: Minute) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _NUMBERS} | {"dlq": dict(row.dead)}


def _topics(report: Report) -> list[str]:
    """Topics by name; what names none comes last."""
    named = {topic for topic, _ in report.ledger.minutes} | set(report.ledger.invalid)
    return sorted(named, key=lambda topic: (topic == UNKNOWN, topic))


def _sums(report: Report, topic: str | None) -> dict[str, Any]:
    """The sums over all minutes of one topic, or of all."""
    sums: Counter[str] = Counter(dict.fromkeys(_NUMBERS, 0))
    dead: Counter[str] = Counter()
    for (name, _), row in report.ledger.minutes.items():
        if topic in (None, name):
            sums.update({number: getattr(row, number) for number in _NUMBERS})
            dead.update(row.dead)
    invalid = report.ledger.invalid
    sums["invalid"] += invalid.total() if topic is None else invalid[topic]
    return {**sums, "dlq": dict(dead)}


def _ingress(report: Report) -> dict[str, Any]:
    partitions = report.verdict.ingress
    return {
        **{name: sum(getattr(ended, name) for ended in partitions.values()) for name in _ENDS},
        "partitions": [
            {"partition": partition} | {name: getattr(ended, name) for name in _ENDS}
            for partition, ended in partitions.items()
        ],
    }


def _line(difference: Difference) -> str:
    where = difference.topic
    if difference.partition is not None:
        where += f"[{difference.partition}]"
    if difference.minute is not None:
        where += f" {_clock(difference.minute)}"
    line = f"  {difference.kind}: {where}: {difference.message}"
    return line + (f" ({', '.join(difference.samples)})" if difference.samples else "")


def _clock(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):  # beyond the year 9999: a record that names its own time
        return str(ms)
