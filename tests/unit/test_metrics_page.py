"""What Prometheus reads: by a parser that is not ours, and by the rules of `promtool check metrics`."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streams.domain.errors import FieldError, InvalidEventError, KafkaUnavailableError
from streams.domain.naming import INGRESS
from streams.kafka.batching import Source
from streams.kafka.consumer import Partition
from streams.kafka.lag import behind
from streams.kafka.producer_stats import BATCH_RECORDS_BOUNDS, ProducerStats
from tests.memory_tables import MemoryTables
from tests.platform import eventually
from tests.web_gateway import EVENT, gateway, make_services
from web.observe.group_lag import FIRST, GroupLagWatch
from web.observe.metrics import DURATION_BOUNDS_S, Metrics
from web.observe.metrics_page import MetricsPage

KINDS = {"counter", "gauge", "histogram"}
OTHERS = {"kafka_consumergroup_lag"}
"""Names that are not ours: those of Kafka's exporters."""
MIXED_UNITS = re.compile(r"_(milliseconds|ms|minutes|hours|kilobytes|kib|megabytes|mib|percent)(_|$)")


async def read_page(g):
    response = await g.client.get("/metrics")
    assert response.status == 200
    assert response.headers["Cache-Control"] == "no-store"
    return await response.text()


def families(page):
    """Each metric by its name, counters with their suffix."""
    found = {}
    for family in text_string_to_metric_families(page):
        name = family.name + "_total" * (family.type == "counter")
        assert name not in found, f"{name} is told twice"
        found[name] = family
    return found


def value(page, name, **labels):
    [found] = [
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return found


@asynccontextmanager
async def busy():
    """A gateway in which everything that is counted has happened once."""
    async with gateway() as g:
        metrics, tables = g.metrics, g.state.tables
        await g.post(str(EVENT))
        await g.client.get("/api/v1/events/iot/latest", headers=g.headers())
        metrics.accepted("iot", 3, 300)
        metrics.refused(None, InvalidEventError([FieldError("/value", "no number", "invalid_type")]))
        metrics.client("iot", +1)
        metrics.sent("iot", 2, 200)
        metrics.gap("iot", "slow", 7)
        g.producer.stats.written(12, 1_200)
        tables.assign(Source("events.iot", 0))
        tables.assign(FIRST)
        tables.by_reason = {("unknown_topic", 'a "quoted"\\ reason\nof two lines'): 1}
        yield g


async def test_it_is_what_promtool_would_pass():
    async with busy() as g:
        page = await read_page(g)
        found = families(page)
    # As it is written: parsers are lenient about the suffix.
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
        assert name.endswith("_total") == (kind == "counter"), name
    assert found
    for name, family in found.items():
        assert family.type in KINDS, name
        assert family.documentation.endswith("."), f"{name} needs HELP"
        assert name.startswith("streams_") or name in OTHERS
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name), name
        assert not MIXED_UNITS.search(name), f"{name} is not in a base unit"
        assert not name.endswith(("_sum", "_count", "_bucket", "_info")), name
        for unit in ("seconds", "bytes"):
            # The unit is the last word, but for `total`.
            assert f"_{unit}" not in name.removesuffix("_total").removesuffix(f"_{unit}"), name
        keys = [(sample.name, *sorted(sample.labels.items())) for sample in family.samples]
        assert len(keys) == len(set(keys)), f"{name} has a series twice"
        for sample in family.samples:
            assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in sample.labels)
            assert family.type == "histogram" or "le" not in sample.labels


async def test_histograms_are_cumulative_and_agree_with_their_count():
    async with busy() as g:
        histograms = [family for family in families(await read_page(g)).values() if family.type == "histogram"]
    assert {family.name for family in histograms} >= {
        "streams_http_request_duration_seconds",
        "streams_producer_batch_records",
    }
    for family in histograms:
        series = {}
        for sample in family.samples:
            labels = {name: text for name, text in sample.labels.items() if name != "le"}
            series.setdefault(tuple(sorted(labels.items())), []).append(sample)
        for samples in series.values():
            buckets = [s.value for s in samples if s.name.endswith("_bucket")]
            assert buckets == sorted(buckets)
            assert [s.value for s in samples if s.name.endswith("_count")] == [buckets[-1]]
            assert len([s for s in samples if s.name.endswith("_sum")]) == 1


async def test_everything_that_the_gateway_is_asked_to_count_is_there():
    async with busy() as g:
        page = await read_page(g)
    for name, labels, expected in (
        ("streams_http_requests_total", {"method": "POST", "route": "/api/v1/events/{topic}", "status": "400"}, 1),
        ("streams_events_total", {"topic": "iot", "outcome": "accepted"}, 3),
        ("streams_events_total", {"topic": "unknown", "outcome": "invalid_event"}, 1),
        ("streams_event_bytes_total", {"topic": "iot"}, 300),
        ("streams_validation_failures_total", {"code": "invalid_type"}, 1),
        ("streams_websocket_clients", {"topic": "iot"}, 1),
        ("streams_websocket_events_sent_total", {"topic": "iot"}, 2),
        ("streams_websocket_sent_bytes_total", {"topic": "iot"}, 200),
        ("streams_websocket_events_missed_total", {"topic": "iot"}, 7),
        ("streams_websocket_gaps_total", {"topic": "iot", "reason": "slow"}, 1),
        ("streams_producer_records_total", {}, 12),
        ("streams_producer_bytes_total", {}, 1_200),
        ("streams_producer_batch_records_count", {}, 1),
        ("streams_producer_batch_records_sum", {}, 12),
        ("streams_producer_retries_total", {}, 0),
        ("streams_events_in_flight", {}, 0),
        ("streams_in_flight_bytes", {}, 0),
        ("streams_dead_letters", {"reason": "unknown_topic", "source_topic": 'a "quoted"\\ reason\nof two lines'}, 1),
    ):
        assert value(page, name, **labels) == expected, name


@pytest.mark.parametrize(
    ("records", "bound"), [(1, 1.0), (2, 2.0), (3, 5.0), (500, 500.0), (2_000, 2_000.0), (2_001, float("inf"))]
)
def test_a_batch_is_in_the_bucket_of_its_size(records, bound):
    stats = ProducerStats()
    stats.written(records, 10)
    [index] = [index for index, count in enumerate(stats.batch_records) if count]
    assert [*BATCH_RECORDS_BOUNDS, float("inf")][index] == bound
    assert (stats.records, stats.bytes) == (records, 10)


class Groups:
    """Kafka's answers about two groups."""

    def __init__(self):
        self.lags = {"streams": {Partition(INGRESS, 0): 5}, "streams-flink": {Partition("events.iot", 1): 70}}
        self.fails = {}
        self.asked = []

    async def of(self, group):
        self.asked.append(group)
        if (error := self.fails.get(group)) is not None:
            raise error
        return dict(self.lags[group])


class TestGroupLag:
    def watch(self, *, ours=True):
        groups, tables = Groups(), MemoryTables()
        if ours:
            tables.assign(FIRST)
        return GroupLagWatch(groups.of, tuple(groups.lags), tables.view(), 15.0), groups, tables

    async def test_it_is_on_the_page_under_the_name_that_kafka_s_exporters_have(self):
        async with busy() as g:
            groups = Groups()
            page = MetricsPage(Metrics(), self.services(g), ask_lag=groups.of)
            await page._lags.look()
            text = page._metrics.render(page._add).decode()
        labels = {"consumergroup": "streams-flink", "topic": "events.iot", "partition": "1"}
        assert value(text, "kafka_consumergroup_lag", **labels) == 70
        assert len(families(text)["kafka_consumergroup_lag"].samples) == 2

    @staticmethod
    def services(g):
        services, _, _ = make_services(g.settings)
        return replace(services, tables=g.state.tables.view())

    async def test_one_worker_tells_it_and_the_others_do_not_even_ask(self):
        watch, groups, tables = self.watch(ours=False)
        await watch.look()
        assert (watch.now, groups.asked) == ({}, [])
        tables.assign(FIRST)
        await watch.look()
        assert watch.now == groups.lags
        # It moves with the partition, at once: two who tell it would be added up.
        del tables.statuses[FIRST]
        assert watch.now == {}

    async def test_what_is_not_known_is_not_told_and_the_other_group_is(self, caplog):
        watch, groups, _ = self.watch()
        await watch.look()
        groups.fails["streams-flink"] = KafkaUnavailableError("away")
        for _ in range(3):
            await watch.look()
        assert watch.now == {"streams": groups.lags["streams"]}
        assert len([r for r in caplog.records if "streams-flink" in r.getMessage()]) == 1
        groups.fails.clear()
        await watch.look()
        assert watch.now == groups.lags

    async def test_it_looks_by_itself_and_an_error_does_not_end_that(self):
        groups, tables = Groups(), MemoryTables()
        tables.assign(FIRST)
        groups.fails["streams"] = ZeroDivisionError()
        watch = GroupLagWatch(groups.of, tuple(groups.lags), tables.view(), 0.001)
        watch.start()
        try:

            async def looked_again():
                return len(groups.asked) >= 3

            async def knows_all():
                return watch.now == groups.lags

            await eventually(looked_again, within_s=2)
            groups.fails.clear()
            await eventually(knows_all, within_s=2)
        finally:
            await watch.close()

    def test_lag_is_what_is_between_the_committed_offset_and_the_end(self):
        committed = {Partition("a", 0): 3, Partition("a", 1): 9, Partition("deleted", 0): 1}
        ends = {Partition("a", 0): 10, Partition("a", 1): 8, Partition("a", 2): 4}
        assert behind(committed, ends) == {Partition("a", 0): 7, Partition("a", 1): 0}


async def test_requests_are_counted_by_template_method_and_status():
    async with gateway() as g:
        await g.post(str(EVENT))
        await g.client.get("/api/v1/events/iot/latest", headers=g.headers())
        await g.client.request("PROPFIND", "/pot", headers=g.headers())
        response = await g.client.get("/metrics")
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        page = await response.text()
    for method, route, status in (
        ("POST", "/api/v1/events/{topic}", "400"),
        ("GET", "/api/v1/events/{topic}/latest", "200"),
        ("other", "unmatched", "404"),
    ):
        assert value(page, "streams_http_requests_total", method=method, route=route, status=status) == 1
        assert value(page, "streams_http_request_duration_seconds_count", method=method, route=route) == 1
    assert value(page, "streams_http_requests_in_flight") == 1
    assert "/pot" not in page


def test_buckets_hold_what_is_less_or_equal():
    metrics = Metrics()
    for seconds in (0.0, 0.001, 0.0011, 9.9, 100.0):
        metrics.request("GET", "/x", 200, seconds)
    page = metrics.render().decode()
    name = "streams_http_request_duration_seconds_bucket"
    for bound, count in (("0.001", 2), ("0.0025", 3), ("5.0", 3), ("10.0", 4), ("+Inf", 5)):
        assert value(page, name, le=bound, method="GET", route="/x") == count
    assert page.count(name) == len(DURATION_BOUNDS_S) + 1
