"""What the producer and the consumer groups are doing, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from aioprometheus.collectors import Counter, Gauge, Histogram, Registry
from aioprometheus.histogram import Histogram as Buckets

from streams.kafka.consumer import Partition
from streams.kafka.producer_stats import BATCH_RECORDS_BOUNDS, ProducerStats


def fill_producer(registry: Registry, stats: ProducerStats, in_flight: int, bytes_in_flight: int) -> None:
    """What the worker's producer has done, and what waits for Kafka."""
    for name, help_, value in (
        ("records_total", "Records that Kafka has acknowledged.", stats.records),
        ("bytes_total", "Keys, values and headers of these records, before compression.", stats.bytes),
        ("retries_total", "Batches that were sent again, whole or in halves.", stats.retries),
        ("failed_records_total", "Records that were given up.", stats.failed),
        ("sessions_total", "Connections of the producer, one after each batch that failed for good.", stats.sessions),
    ):
        Counter(f"streams_producer_{name}", help_, registry=registry).set_value({}, value)
    for name, help_, value in (
        ("events_in_flight", "Events sent to Kafka and not acknowledged.", in_flight),
        ("in_flight_bytes", "Bytes of these events.", bytes_in_flight),
    ):
        Gauge(f"streams_{name}", help_, registry=registry).set_value({}, value)
    histogram = Histogram(
        "streams_producer_batch_records",
        "Records of an acknowledged batch.",
        registry=registry,
        buckets=BATCH_RECORDS_BOUNDS,
    )
    histogram.set_value({}, cumulated(BATCH_RECORDS_BOUNDS, stats.batch_records, stats.records))


def fill_group_lags(registry: Registry, lags: Mapping[str, Mapping[Partition, int]]) -> None:
    """How far consumer groups are behind; under the name and labels by which Kafka's exporters tell it."""
    lag = Gauge("kafka_consumergroup_lag", "Offsets that a consumer group has still to read.", registry=registry)
    for group, partitions in lags.items():
        for (topic, partition), offsets in partitions.items():
            lag.set_value({"consumergroup": group, "topic": topic, "partition": str(partition)}, offsets)


def cumulated(bounds: tuple[float, ...], counts: list[int], total: float) -> Buckets:
    """A histogram of counts, each of what is between two bounds, whose observations are `total` together."""
    buckets = Buckets(*bounds)
    seen = 0
    for bound, count in zip(list(buckets.buckets), counts, strict=True):
        seen += count
        buckets.buckets[bound] = seen
    buckets.observations = seen
    buckets.sum = total
    return buckets
