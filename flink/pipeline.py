"""The job as Flink SQL: event topics in, window results and late events out.

Pure: settings become statements, which `flink.runtime` hands to Flink. Each event takes one way:

    events.* ─► events ─► usable ─┬─ a window is open ──► windows (GROUP BY TUMBLE) ─► platform.aggregates
                                  └─ all have closed ───────────────────────────────► platform.late

Group windows, and not the newer window functions, since only they can fire again for late events
(Flink's manual, "Windowing table-valued functions").
"""

# ruff: noqa: S608 - SQL is what we make here, of the job's own settings and of names in this file
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from flink.security import Options, kafka_properties, registry_options
from flink.tables import Table, identifier, literal, prefixed
from streams.domain.naming import AGGREGATES, EVENTS_PREFIX, LATE, flink_group
from streams.domain.windows import MINUTE_MS, TUMBLING_1M, WindowKind
from streams.schemas import AGGREGATED_EVENT
from streams.settings import Settings

LATE_EVENT: Final = files(__package__).joinpath("late_event.avsc").read_text()

KINDS: Final = (TUMBLING_1M,)
"""The kinds of windows that the job computes; the domain knows more (`WINDOW_KINDS`)."""

DISCOVERY_INTERVAL: Final = "10 s"
ALIGNMENT_MAX_DRIFT: Final = "30 s"
ALIGNMENT_INTERVAL: Final = "200 ms"
# How long Kafka keeps a transaction open for a job that is away; the broker's default limit is 15 minutes.
TRANSACTION_TIMEOUT_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What Flink is told, in order. `str(table)` hides secrets; the other statements have none."""

    tables: tuple[Table, ...]
    views: tuple[str, ...]
    inserts: tuple[str, ...]


def build(settings: Settings, kinds: Sequence[WindowKind] = KINDS) -> Pipeline:
    """The job for these kinds of windows. Raises ConfigurationError for a certificate that cannot be read."""
    kafka, registry = kafka_properties(settings), registry_options(settings)
    return Pipeline(
        tables=(
            events_table(settings, kafka, registry),
            *(aggregates_table(settings, kind, kafka, registry) for kind in kinds),
            late_table(settings, kafka, registry),
        ),
        views=(usable_view(),),
        inserts=(*(insert_windows(kind) for kind in kinds), insert_late(kinds)),
    )


def events_table(settings: Settings, kafka: Options, registry: Options) -> Table:
    """Every event topic, read by the columns of the envelope (Avro's schema resolution skips the payload)."""
    consumer: Options = {
        **kafka,
        "group.id": flink_group(settings.app_id),
        "auto.offset.reset": "earliest",
        # The gateway's and our own transactions may be aborted: their records never were.
        "isolation.level": "read_committed",
    }
    return Table(
        "events",
        (
            "event_id STRING",
            "event_type STRING",
            "`timestamp` BIGINT",
            "user_id STRING",
            "device_id STRING",
            "`value` DOUBLE",
            "`source` STRING",
            "kafka_topic STRING NOT NULL METADATA FROM 'topic' VIRTUAL",
            "kafka_partition INT NOT NULL METADATA FROM 'partition' VIRTUAL",
            "kafka_offset BIGINT NOT NULL METADATA FROM 'offset' VIRTUAL",
            "ts AS TO_TIMESTAMP_LTZ(`timestamp`, 3)",
            f"WATERMARK FOR ts AS TO_TIMESTAMP_LTZ(`timestamp` - {settings.flink_out_of_orderness_s * 1000}, 3)",
        ),
        {
            "connector": "kafka",
            "topic-pattern": re.escape(EVENTS_PREFIX) + ".*",
            **prefixed("properties.", consumer),
            "scan.startup.mode": "group-offsets",
            "scan.topic-partition-discovery.interval": DISCOVERY_INTERVAL,
            "scan.watermark.idle-timeout": f"{settings.flink_idle_timeout_s} s",
            # No partition runs ahead of the others by more, or the windows of all of them would stay open meanwhile.
            "scan.watermark.alignment.group": "events",
            "scan.watermark.alignment.max-drift": ALIGNMENT_MAX_DRIFT,
            "scan.watermark.alignment.update-interval": ALIGNMENT_INTERVAL,
            "value.format": "avro-confluent",
            **prefixed("value.avro-confluent.", registry),
        },
    )


def aggregates_table(settings: Settings, kind: WindowKind, kafka: Options, registry: Options) -> Table:
    """The results of one kind of window; a table each, or Flink loses sight of the upsert key."""
    return Table(
        _aggregates(kind),
        (
            "topic STRING NOT NULL",
            "event_type STRING NOT NULL",
            "`window` STRING NOT NULL",
            "window_start TIMESTAMP(3) NOT NULL",
            "window_end TIMESTAMP(3) NOT NULL",
            "`count` BIGINT NOT NULL",
            "`sum` DOUBLE",
            "`avg` DOUBLE",
            "`min` DOUBLE",
            "`max` DOUBLE",
            "distinct_users BIGINT NOT NULL",
            "revision BIGINT NOT NULL",
            "emitted_at TIMESTAMP(3) NOT NULL",
            "PRIMARY KEY (topic, event_type, `window`, window_start) NOT ENFORCED",
        ),
        {
            "connector": "upsert-kafka",
            "topic": AGGREGATES,
            **_exactly_once(settings, kafka, f"aggregates-{kind.name}"),
            "key.format": "json",
            "key.json.timestamp-format.standard": "ISO-8601",
            "value.format": "avro-confluent",
            **prefixed("value.avro-confluent.", _writer(registry, AGGREGATES, AGGREGATED_EVENT)),
        },
    )


def late_table(settings: Settings, kafka: Options, registry: Options) -> Table:
    """The events that no window took, keyed like events."""
    return Table(
        "late_events",
        (
            "message_key STRING",
            "event_id STRING NOT NULL",
            "event_type STRING NOT NULL",
            "`timestamp` TIMESTAMP(3) NOT NULL",
            "user_id STRING",
            "device_id STRING",
            "`value` DOUBLE",
            "`source` STRING",
            "topic STRING NOT NULL",
            "`partition` INT NOT NULL",
            "`offset` BIGINT NOT NULL",
            "`watermark` TIMESTAMP(3) NOT NULL",
            "windows ARRAY<STRING NOT NULL> NOT NULL",
        ),
        {
            "connector": "kafka",
            "topic": LATE,
            **_exactly_once(settings, kafka, "late"),
            "key.format": "raw",
            "key.fields": "message_key",
            "value.fields-include": "EXCEPT_KEY",
            "value.format": "avro-confluent",
            **prefixed("value.avro-confluent.", _writer(registry, LATE, LATE_EVENT)),
        },
    )


def usable_view() -> str:
    """The events that have what windows need, with the watermark at which each of them came."""
    return f"""CREATE TEMPORARY VIEW usable AS
SELECT
  event_id, event_type, `timestamp`, user_id, device_id, `value`, `source`, ts,
  SUBSTRING(kafka_topic, {len(EVENTS_PREFIX) + 1}) AS topic, kafka_partition, kafka_offset,
  CURRENT_WATERMARK(ts) AS `watermark`
FROM events
WHERE event_id IS NOT NULL AND event_type IS NOT NULL AND `timestamp` IS NOT NULL"""


def too_late(kind: WindowKind) -> str:
    """The condition that every window of this kind that holds the event has closed.

    The same rule as `Window.is_closed`, and as Flink's: the watermark has reached the last millisecond of the
    last such window. The remainder of SQL has the sign of the dividend, hence the second MOD for times before 1970.
    """
    remainder = f"MOD(MOD(`timestamp`, {kind.slide_ms}) + {kind.slide_ms}, {kind.slide_ms})"
    last_ms = f"`timestamp` - {remainder} + {kind.size_ms - 1}"
    return f"(`watermark` IS NOT NULL AND TO_TIMESTAMP_LTZ({last_ms}, 3) <= `watermark`)"


def insert_windows(kind: WindowKind) -> str:
    """The results of one kind of window, a record each when it closes."""
    function = "TUMBLE" if kind.is_tumbling else "HOP"
    lengths = (kind.size_ms,) if kind.is_tumbling else (kind.slide_ms, kind.size_ms)
    window = f"ts, {', '.join(_interval(length) for length in lengths)}"
    return f"""INSERT INTO {_aggregates(kind)}
SELECT
  topic, event_type, {literal(kind.name)}, {function}_START({window}), {function}_END({window}),
  COUNT(*), SUM(`value`), AVG(`value`), MIN(`value`), MAX(`value`), COUNT(DISTINCT user_id),
  CAST(0 AS BIGINT), CAST(CURRENT_TIMESTAMP AS TIMESTAMP(3))
FROM usable
WHERE NOT {too_late(kind)}
GROUP BY {function}({window}), topic, event_type"""


def insert_late(kinds: Sequence[WindowKind]) -> str:
    """The events that came too late for a kind of window, each once, with the kinds that miss it."""
    missed = ", ".join(f"IF({too_late(kind)}, {literal(kind.name)}, '')" for kind in kinds)
    return f"""INSERT INTO late_events
SELECT
  COALESCE(user_id, device_id), event_id, event_type, CAST(ts AS TIMESTAMP(3)), user_id, device_id, `value`, `source`,
  topic, kafka_partition, kafka_offset, CAST(`watermark` AS TIMESTAMP(3)), ARRAY_REMOVE(ARRAY[{missed}], '')
FROM usable
WHERE {" OR ".join(too_late(kind) for kind in kinds)}"""


def _aggregates(kind: WindowKind) -> str:
    return identifier("aggregates_" + kind.name.replace("-", "_"))


def _interval(length_ms: int) -> str:
    """A length as SQL has it. Flink takes no more than two digits, so long ones are told in hours."""
    for unit_ms, unit in ((MINUTE_MS, "MINUTE"), (60 * MINUTE_MS, "HOUR")):
        count, rest = divmod(length_ms, unit_ms)
        if rest == 0 and 0 < count < 100:
            return f"INTERVAL '{count}' {unit}"
    raise ValueError(f"windows are up to 99 whole minutes or hours long, not {length_ms} ms")


def _exactly_once(settings: Settings, kafka: Options, sink: str) -> Options:
    return {
        **prefixed("properties.", kafka),
        "properties.transaction.timeout.ms": str(TRANSACTION_TIMEOUT_MS),
        "sink.delivery-guarantee": "exactly-once",
        "sink.transactional-id-prefix": f"{settings.app_id}-{sink}",
        # A few ids, used again and again; one for each checkpoint would fill the broker's memory for a week.
        "sink.transaction-naming-strategy": "POOLING",
    }


def _writer(registry: Options, topic: str, schema: str) -> Options:
    return {**registry, "subject": f"{topic}-value", "schema": schema}
