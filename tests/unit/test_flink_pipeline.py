"""The SQL of the Flink job: what it reads, which windows, what is late, and where it goes."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from pydantic import SecretStr

from flink.pipeline import KINDS, LATE_EVENT, build, insert_late, insert_windows, too_late
from flink.tables import Table, identifier, literal, prefixed
from streams import schemas
from streams.domain.naming import event_topic
from streams.domain.windows import MINUTE_MS, SLIDING_5M_1M, TUMBLING_1M, TUMBLING_5M, WindowKind
from streams.settings import Settings

SETTINGS = Settings(app_id="shop", kafka_bootstrap_servers="broker:9092", registry_url="http://registry/v7")


def table(name: str, settings: Settings = SETTINGS, kinds=KINDS) -> Table:
    (found,) = [one for one in build(settings, kinds).tables if one.name.strip("`") == name]
    return found


def test_the_source_is_every_event_topic_and_no_other():
    pattern = re.compile(str(table("events").options["topic-pattern"]))
    assert pattern.fullmatch(event_topic("iot"))
    assert not pattern.fullmatch("platform.aggregates")
    assert not pattern.fullmatch("eventsXiot")


def test_the_source_reads_committed_records_from_its_groups_offsets_or_the_beginning():
    options = table("events").options
    assert options["properties.isolation.level"] == "read_committed"
    assert options["properties.group.id"] == "shop-flink"
    assert (options["scan.startup.mode"], options["properties.auto.offset.reset"]) == ("group-offsets", "earliest")
    assert options["scan.topic-partition-discovery.interval"] == "10 s"


def test_event_time_follows_the_settings():
    settings = SETTINGS.model_copy(update={"flink_out_of_orderness_s": 25, "flink_idle_timeout_s": 7})
    events = table("events", settings)
    assert "WATERMARK FOR ts AS TO_TIMESTAMP_LTZ(`timestamp` - 25000, 3)" in events.columns
    assert events.options["scan.watermark.idle-timeout"] == "7 s"
    assert events.options["scan.watermark.alignment.max-drift"] == "30 s"


def test_an_envelope_that_cannot_be_used_reaches_neither_windows_nor_late_events():
    pipeline = build(SETTINGS)
    (view,) = pipeline.views
    for field in ("event_id", "event_type", "`timestamp`"):
        assert f"{field} IS NOT NULL" in view
    assert all("FROM usable" in insert for insert in pipeline.inserts)


def columns_of(one: Table) -> dict[str, str]:
    pairs = [column.split(" ", 1) for column in one.columns if not column.startswith(("PRIMARY", "WATERMARK"))]
    return {name.strip("`"): kind for name, kind in pairs}


SQL_TYPES = {
    "string": "STRING",
    "int": "INT",
    "long": "BIGINT",
    "double": "DOUBLE",
    "timestamp-millis": "TIMESTAMP(3)",
    "array": "ARRAY<STRING NOT NULL>",
}


def sql_type(avro) -> str:
    if isinstance(avro, list):
        (kind,) = [one for one in avro if one != "null"]
        return sql_type(kind).removesuffix(" NOT NULL")
    name = avro if isinstance(avro, str) else avro.get("logicalType", avro["type"])
    return f"{SQL_TYPES[name]} NOT NULL"


@pytest.mark.parametrize(
    ("name", "topic", "schema"),
    [
        ("aggregates_tumbling_1m", "platform.aggregates", schemas.AGGREGATED_EVENT),
        ("late_events", "platform.late", LATE_EVENT),
    ],
)
def test_a_sink_writes_our_schema_and_has_its_columns_and_no_other(name, topic, schema):
    """Flink refuses a schema whose types are not those of the table."""
    sink = table(name)
    assert sink.options["topic"] == topic
    assert sink.options["value.avro-confluent.subject"] == f"{topic}-value"
    assert json.loads(str(sink.options["value.avro-confluent.schema"])) == json.loads(schema)
    columns = columns_of(sink)
    columns.pop("message_key", None)
    fields = json.loads(schema)["fields"]
    assert columns == {field["name"]: sql_type(field["type"]) for field in fields}
    assert list(columns) == [field["name"] for field in fields]


def test_every_sink_is_exactly_once_with_transactions_of_its_own():
    pipeline = build(SETTINGS, (TUMBLING_1M, TUMBLING_5M))
    sinks = pipeline.tables[1:]
    assert {one.options["sink.delivery-guarantee"] for one in sinks} == {"exactly-once"}
    assert [one.options["sink.transactional-id-prefix"] for one in sinks] == [
        "shop-aggregates-tumbling-1m",
        "shop-aggregates-tumbling-5m",
        "shop-late",
    ]
    # The broker refuses more than 15 minutes (transaction.max.timeout.ms).
    assert all(60_000 < int(str(one.options["properties.transaction.timeout.ms"])) <= 900_000 for one in sinks)


def test_results_are_upserted_by_their_identity():
    assert (
        "PRIMARY KEY (topic, event_type, `window`, window_start) NOT ENFORCED"
        in table("aggregates_tumbling_1m").columns
    )
    assert table("aggregates_tumbling_1m").options["connector"] == "upsert-kafka"


@pytest.mark.parametrize(
    ("kind", "window"),
    [
        (TUMBLING_1M, "TUMBLE(ts, INTERVAL '1' MINUTE)"),
        (TUMBLING_5M, "TUMBLE(ts, INTERVAL '5' MINUTE)"),
        (SLIDING_5M_1M, "HOP(ts, INTERVAL '1' MINUTE, INTERVAL '5' MINUTE)"),
        (WindowKind("tumbling-2h", 120 * MINUTE_MS, 120 * MINUTE_MS), "TUMBLE(ts, INTERVAL '2' HOUR)"),
    ],
)
def test_a_kind_of_windows_is_one_line_of_the_table(kind, window):
    sql = insert_windows(kind)
    assert f"GROUP BY {window}, topic, event_type" in sql
    assert f"'{kind.name}'" in sql
    assert window.replace("(", "_START(", 1) in sql
    assert window.replace("(", "_END(", 1) in sql
    assert f"WHERE NOT {too_late(kind)}" in sql
    sink = table("aggregates_" + kind.name.replace("-", "_"), kinds=(kind,))
    assert sql.startswith(f"INSERT INTO {sink.name}\n")


def test_a_window_that_is_not_whole_minutes_long_is_refused():
    with pytest.raises(ValueError, match="90000 ms"):
        insert_windows(WindowKind("odd", 90_000, 90_000))


def evaluate(condition: str, timestamp: int, watermark: int | None) -> bool:
    """The condition, as SQL would have it: its MOD has the sign of the dividend."""
    if watermark is None:
        return False

    def mod(a: int, b: int) -> int:
        return a - b * int(a / b)

    python = condition.replace("`watermark` IS NOT NULL", "True").replace("AND", "and").replace("`", "")
    python = python.replace("TO_TIMESTAMP_LTZ(", "first(").replace("MOD(", "mod(")
    names = {"mod": mod, "first": lambda ms, _: ms, "timestamp": timestamp, "watermark": watermark}
    return bool(eval(python, names))


@pytest.mark.parametrize("kind", [TUMBLING_1M, TUMBLING_5M, SLIDING_5M_1M], ids=lambda kind: kind.name)
@pytest.mark.parametrize("timestamp", [0, 1, 59_999, 60_000, 299_999, 300_000, -1, -60_000, -60_001, 1_700_000_000_123])
def test_late_means_that_every_window_of_the_event_has_closed(kind, timestamp):
    last = kind.windows(timestamp)[-1]
    for watermark in (last.end_ms - 2, last.end_ms - 1, last.end_ms):
        closed = all(window.is_closed(watermark) for window in kind.windows(timestamp))
        assert evaluate(too_late(kind), timestamp, watermark) is closed, (last, watermark)


def test_before_the_first_watermark_nothing_is_late():
    assert too_late(TUMBLING_1M).startswith("(`watermark` IS NOT NULL AND ")


def test_a_late_event_is_told_once_with_every_kind_that_misses_it():
    sql = insert_late((TUMBLING_1M, TUMBLING_5M))
    assert f"WHERE {too_late(TUMBLING_1M)} OR {too_late(TUMBLING_5M)}" in sql
    assert sql.count("INSERT") == 1
    assert f"IF({too_late(TUMBLING_5M)}, 'tumbling-5m', '')" in sql


def test_a_table_as_text_hides_its_secrets_and_its_statement_does_not():
    one = Table("t", ("a STRING",), {"connector": "kafka", "password": SecretStr("hush")})
    assert "hush" not in str(one)
    assert "hush" not in repr(one)
    assert "'password' = 'hush'" in one.ddl()
    assert "'connector' = 'kafka'" in str(one)


def test_quotes_in_values_and_names_stay_inside_them():
    assert literal("it's") == "'it''s'"
    assert identifier("a`b") == "`a``b`"
    assert "'x' = 'a''; DROP'" in replace(table("events"), options={"x": "a'; DROP"}).ddl()
    assert prefixed("p.", {"a": "1"}) == {"p.a": "1"}
