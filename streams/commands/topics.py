"""`faust -A streams topics`: what is in Kafka."""

from __future__ import annotations

import sys

import orjson
from faust.cli import AppCommand, option
from rich.console import Console
from rich.table import Table

from streams.commands.running import plain_errors
from streams.faust_app import app
from streams.kafka.consumer import open_reader


@app.command(
    option("--json", "as_json", is_flag=True, help="for machines: one JSON document"),
    option("--all", "everything", is_flag=True, help="with internal topics: changelogs and those of Kafka and Flink"),
)
@plain_errors
async def topics(self: AppCommand, as_json: bool, everything: bool) -> None:
    """List topics with their partitions and how many offsets each holds.

    An offset is a record, or the marker that ends a transaction in a partition; compacted topics have fewer records.
    """
    names = sorted(
        name for name in await app.platform.admin.topics() if everything or name.startswith(("events.", "platform."))
    )
    async with open_reader(app.platform.settings, "topics") as reader:
        partitions = await reader.partitions(names)
        spans = await reader.spans(partitions)
    rows = [
        {
            "topic": name,
            "partitions": sum(p.topic == name for p in partitions),
            "offsets": sum(span.end - span.start for p, span in spans.items() if p.topic == name),
        }
        for name in names
    ]
    if as_json:
        sys.stdout.write(orjson.dumps(rows).decode() + "\n")
        return
    table = Table("topic")
    table.add_column("partitions", justify="right")
    table.add_column("offsets", justify="right")
    for row in rows:
        table.add_row(str(row["topic"]), str(row["partitions"]), f"{row['offsets']:,}")
    Console().print(table)
