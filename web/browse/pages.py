"""The table pages as HTML: plain, without scripts, and from nobody but this worker."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from web.browse.markup import Html, join, tag
from web.browse.table_answers import (
    KeyAnswer,
    KeysAnswer,
    PartAnswer,
    Partition,
    TableAnswer,
    TablesAnswer,
    WorkerAnswer,
)
from web.read.workers import TABLES_PATH, key_path

_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { margin: 0 auto; max-width: 64rem; padding: 1rem }
h1 { font-size: 1.4rem; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 0 0 .25rem; overflow-wrap: anywhere }
article { border: 1px solid #8888; border-radius: .5rem; margin: 1rem 0; padding: .75rem 1rem }
p { margin: .25rem 0 }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: .5rem 0; width: 100% }
th, td { border-bottom: 1px solid #8885; padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top }
.n { font-variant-numeric: tabular-nums; text-align: right }
td bdi, pre { font-family: ui-monospace, monospace }
td bdi { white-space: nowrap }
td a, pre { overflow-wrap: anywhere; white-space: pre-wrap }
pre { border: 1px solid #8885; border-radius: .25rem; padding: .5rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem }
dd { margin: 0; overflow-wrap: anywhere }
form { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0 }
input, button { font: inherit; padding: .25rem .5rem }
input { flex: 1 1 12rem; min-width: 0 }
a { overflow-wrap: anywhere }
nav a { display: inline-block; padding: .25rem 0 }
"""

_NUMBERS: Final = frozenset({"Changelog lag", "Offset", "Rows"})

SECURITY_POLICY: Final = (
    "default-src 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""No script, no picture, nothing from anywhere: but for the one style sheet, known by its hash."""


def tables_page(answer: TablesAnswer) -> Html:
    """Every table."""
    return _page(
        "Tables",
        tag("p", "As the worker ", tag("bdi", answer.worker), " has them."),
        [_table(table) for table in answer.tables],
    )


def keys_page(answer: KeysAnswer) -> Html:
    """A page of keys."""
    shown = f"{len(answer.keys)} keys" if len(answer.keys) != 1 else "1 key"
    return _page(
        f"Table {answer.table}",
        tag("nav", tag("a", "All tables", href=TABLES_PATH)),
        tag(
            "form",
            tag("label", "Keys that begin with", for_="prefix"),
            tag("input", id="prefix", name="prefix", type="search", value=answer.prefix, autocapitalize="none"),
            tag("input", name="limit", type="hidden", value=answer.limit),
            tag("button", "Search"),
            action=f"{TABLES_PATH}/{quote(answer.table, safe='')}",
        ),
        tag("p", shown, " of ", _names(answer.partitions) or "no partition", ", which this worker has"),
        _grid(
            ("Key", "Input partition", "Offset"),
            (
                (_link(key_path(answer.table, entry.key), entry.key), f"{entry.topic}[{entry.partition}]", entry.offset)
                for entry in answer.keys
            ),
        ),
        None
        if answer.after is None
        else tag(
            "nav",
            tag(
                "a",
                "Next page",
                rel="next",
                href=_keys_url(answer.table, prefix=answer.prefix, limit=answer.limit, after=answer.after),
            ),
        ),
        _others(answer.table, answer.elsewhere, prefix=answer.prefix),
    )


def key_page(answer: KeyAnswer) -> Html:
    """The rows of a key."""
    return _page(
        answer.key,
        tag(
            "nav",
            tag("a", "All tables", href=TABLES_PATH),
            " / ",
            tag("a", answer.table, href=_keys_url(answer.table)),
        ),
        [
            tag(
                "article",
                _facts(
                    ("Input partition", f"{row.topic}[{row.partition}]"),
                    ("Last offset", row.offset),
                    ("Worker", row.worker),
                ),
                tag("pre", msgspec.json.format(bytes(row.value), indent=2).decode()),
            )
            for row in answer.rows
        ],
    )


def problem_page(title: str, detail: str) -> Html:
    """An error, to be read by a person."""
    return _page(title, tag("p", detail), tag("nav", tag("a", "All tables", href=TABLES_PATH)))


def words_of(document: str) -> tuple[str, str]:
    """Title and detail of a problem document."""
    values = json.loads(document)
    return f"{values['status']}: {values['title']}", values["detail"]


def _page(title: str, *content: object) -> Html:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(_STYLE)),
    )
    body = tag("body", tag("main", tag("h1", tag("bdi", title)), *content))
    return join([Html("<!doctype html>\n"), tag("html", head, body, lang="en")])


def _table(table: TableAnswer) -> Html:
    return tag(
        "article",
        tag("h2", tag("a", table.name, href=_keys_url(table.name))),
        tag("p", table.help),
        _facts(
            ("Rows here", f"{table.rows:,}"),
            ("State", table.state),
            ("Changelog", table.changelog),
            ("Changelog lag", f"{table.changelog_lag:,}"),
        ),
        _grid(("Input partition", "Phase", "Rows", "Changelog lag"), map(_part, table.parts)) if table.parts else None,
        _others(table.name, table.elsewhere),
    )


def _part(part: PartAnswer) -> Sequence[object]:
    return (
        f"{part.topic}[{part.partition}]",
        part.phase,
        "" if part.rows is None else part.rows,
        "not known yet" if part.changelog_lag is None else part.changelog_lag,
    )


def _others(table: str, workers: Sequence[WorkerAnswer], prefix: str = "") -> Html | None:
    """Links to the workers that have the other parts."""
    if not workers:
        return None
    query = {"prefix": prefix} if prefix else {}
    return join(
        tag(
            "p",
            _names(worker.partitions),
            " on ",
            tag("a", worker.url, href=worker.url.rstrip("/") + _keys_url(table, **query), rel="noreferrer"),
        )
        for worker in workers
    )


def _names(partitions: Iterable[Partition]) -> str:
    """Partitions in short: `events.iot[0, 3]`."""
    by_topic: dict[str, list[str]] = {}
    for one in partitions:
        by_topic.setdefault(one.topic, []).append(str(one.partition))
    return ", ".join(f"{topic}[{', '.join(numbers)}]" for topic, numbers in by_topic.items())


def _facts(*facts: tuple[str, object]) -> Html:
    return tag("dl", [[tag("dt", name), tag("dd", tag("bdi", value))] for name, value in facts])


def _grid(names: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    head = tag("tr", [tag("th", name, scope="col", class_="n" if name in _NUMBERS else None) for name in names])
    body = [tag("tr", [_cell(value) for value in row]) for row in rows]
    return tag("div", tag("table", tag("thead", head), tag("tbody", body)), class_="wide")


def _cell(value: object) -> Html:
    if isinstance(value, int):
        return tag("td", f"{value:,}", class_="n")
    return tag("td", value if isinstance(value, Html) else tag("bdi", value))


def _link(url: str, text: str) -> Html:
    # Isolated: a key may hold what turns the direction of writing, and with it what stands beside it.
    return tag("bdi", tag("a", text, href=url))


def _keys_url(table: str, **query: str | int) -> str:
    return f"{TABLES_PATH}/{quote(table, safe='')}" + (f"?{urlencode(query)}" if query else "")
