"""What the gateway counts, for Prometheus.

Counting is a dictionary entry, under 1 µs; aioprometheus, which takes 5 to 12 µs for each observation, only
renders the numbers when they are asked for. No label's values are without bound: routes are templates,
topics exist, codes are ours.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from aioprometheus.collectors import Collector, Counter, Gauge, Histogram, Registry
from aioprometheus.formats import text

from streams.domain.errors import InvalidEventError, PlatformError
from web.observe.producer_metrics import cumulated

CONTENT_TYPE: Final = text.TEXT_CONTENT_TYPE
UNKNOWN_TOPIC: Final = "unknown"
ACCEPTED: Final = "accepted"

DURATION_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

Labels = dict[str, str]


class _Durations:
    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(DURATION_BOUNDS_S) + 1)
        self.total_s = 0.0


class Metrics:
    """The counters of one worker."""

    def __init__(self) -> None:
        self.requests_in_flight = 0
        self._requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._durations: defaultdict[tuple[str, str], _Durations] = defaultdict(_Durations)
        self._events: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._event_bytes: defaultdict[str, int] = defaultdict(int)
        self._violations: defaultdict[str, int] = defaultdict(int)
        self._clients: defaultdict[str, int] = defaultdict(int)
        self._sent: defaultdict[str, int] = defaultdict(int)
        self._sent_bytes: defaultdict[str, int] = defaultdict(int)
        self._gaps: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._missed: defaultdict[str, int] = defaultdict(int)

    def request(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """A request was answered; `seconds` is None for one that has no meaningful duration (WebSocket)."""
        if method not in _METHODS:
            method = "other"
        self._requests[method, route, status] += 1
        if seconds is not None:
            durations = self._durations[method, route]
            durations.counts[bisect_left(DURATION_BOUNDS_S, seconds)] += 1
            durations.total_s += seconds

    def accepted(self, topic: str, events: int = 1, size: int = 0) -> None:
        """So many events were acknowledged by Kafka; `size` is what they had as they were received, bytes."""
        self._events[topic, ACCEPTED] += events
        self._event_bytes[topic] += size

    def refused(self, topic: str | None, error: PlatformError) -> None:
        """An event was not taken; the topic is None unless it is known to exist."""
        self._events[topic or UNKNOWN_TOPIC, error.code] += 1
        if isinstance(error, InvalidEventError):
            for violation in error.errors:
                self._violations[violation.code] += 1

    def client(self, topic: str, change: int) -> None:
        """A WebSocket client came (+1) or went (-1)."""
        self._clients[topic] += change

    def sent(self, topic: str, messages: int, size: int) -> None:
        """So many events were sent to a WebSocket client, in so many bytes."""
        self._sent[topic] += messages
        self._sent_bytes[topic] += size

    def gap(self, topic: str, reason: str, missed: int) -> None:
        """A WebSocket client has lost so many events."""
        self._gaps[topic, reason] += 1
        self._missed[topic] += missed

    def render(self, add: Callable[[Registry], None] | None = None) -> bytes:
        """Everything in Prometheus' text format, version 0.0.4; `add` puts in what others count."""
        registry = Registry()
        _fill(
            Counter("streams_http_requests_total", "Requests answered.", registry=registry),
            ({"method": m, "route": r, "status": str(s)} for m, r, s in self._requests),
            self._requests.values(),
        )
        _durations(registry, self._durations)
        _fill(
            Gauge("streams_http_requests_in_flight", "Requests being worked on.", registry=registry),
            [{}],
            [self.requests_in_flight],
        )
        _fill(
            Counter("streams_events_total", "Events received over HTTP, by what became of them.", registry=registry),
            ({"topic": topic, "outcome": outcome} for topic, outcome in self._events),
            self._events.values(),
        )
        _fill(
            Counter("streams_event_bytes_total", "Bytes of accepted events, as they were received.", registry=registry),
            ({"topic": topic} for topic in self._event_bytes),
            self._event_bytes.values(),
        )
        _fill(
            Counter("streams_validation_failures_total", "Broken rules, by their code.", registry=registry),
            ({"code": code} for code in self._violations),
            self._violations.values(),
        )
        for collector, counts in (
            (Gauge("streams_websocket_clients", "Connected WebSocket clients.", registry=registry), self._clients),
            (
                Counter("streams_websocket_events_sent_total", "Events sent to clients.", registry=registry),
                self._sent,
            ),
            (
                Counter("streams_websocket_sent_bytes_total", "Bytes of these events' frames.", registry=registry),
                self._sent_bytes,
            ),
            (
                Counter("streams_websocket_events_missed_total", "Events that clients have lost.", registry=registry),
                self._missed,
            ),
        ):
            _fill(collector, ({"topic": topic} for topic in counts), counts.values())
        _fill(
            Counter("streams_websocket_gaps_total", "Gaps of clients, by their reason.", registry=registry),
            ({"topic": topic, "reason": reason} for topic, reason in self._gaps),
            self._gaps.values(),
        )
        if add is not None:
            add(registry)
        return bytes(text.TextFormatter().marshall(registry))


def _fill(collector: Collector, labels: Iterable[Labels], values: Iterable[int]) -> None:
    for names, value in zip(labels, values, strict=True):
        collector.set_value(names, value)


def _durations(registry: Registry, durations: dict[tuple[str, str], _Durations]) -> None:
    histogram = Histogram(
        "streams_http_request_duration_seconds",
        "From the request's headers to the end of its handler.",
        registry=registry,
        buckets=DURATION_BOUNDS_S,
    )
    for (method, route), seen in durations.items():
        histogram.set_value({"method": method, "route": route}, cumulated(DURATION_BOUNDS_S, seen.counts, seen.total_s))
