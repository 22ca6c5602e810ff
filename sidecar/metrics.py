"""What the sidecar counts, for /metrics: every event in, out, refused, given up or waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class BackendMetrics:
    """The counters of one backend, ready to be counted up without a look-up."""

    def __init__(self, owner: Metrics, backend: str) -> None:
        self.delivered = owner.delivered.labels(backend)
        self.retried = owner.retried.labels(backend)
        self.refused = owner.refused.labels(backend)
        self.skipped = owner.skipped.labels(backend)
        self.unreadable = owner.unreadable.labels(backend)
        self.bytes = owner.delivered_bytes.labels(backend)
        self.seconds = owner.delivery_seconds.labels(backend)


class Metrics:
    """All counters of one sidecar, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "sidecar_request_seconds",
            "Time to answer an ingest request, by status",
            ["status"],
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.accepted = self._counter("sidecar_accepted_events", "Events acknowledged: durable on disk")
        self.repeated = self._counter(
            "sidecar_repeated_events", "Events of batches acknowledged again, which stand in the log already"
        )
        self.rejected = self._counter(
            "sidecar_rejected_events", "Events that break the contract, answered and put into quarantine"
        )
        self.quarantined = self._counter(
            "sidecar_quarantined_events", "Events put into quarantine, from requests and adopted files"
        )
        self.adopted = self._counter("sidecar_adopted_events", "Events taken over from spool folders of SDKs")
        self.body_bytes = self._counter("sidecar_body_bytes", "Bytes of ingest bodies as received")
        self.failures = self._counter("sidecar_unexpected_failures", "Requests that failed for a reason nobody thought of")
        self.delivered = self._backend_counter("sidecar_delivered_events", "Events that the backend has")
        self.retried = self._backend_counter("sidecar_retried_events", "Events of deliveries that failed and are tried again")
        self.refused = self._backend_counter("sidecar_refused_events", "Events the backend refused for good: its dead letters")
        self.skipped = self._backend_counter("sidecar_unmatched_events", "Events the backend's match or delivery mode leaves out")
        self.unreadable = self._backend_counter(
            "sidecar_unreadable_events", "Events passed over because their record in the log can't be opened"
        )
        self.delivered_bytes = self._backend_counter("sidecar_delivered_bytes", "Bytes of the delivered events, as NDJSON")
        self.delivery_seconds = Histogram(
            "sidecar_delivery_seconds",
            "Time of a call that delivers, whatever came of it",
            ["backend"],
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )

    def backend(self, name: str) -> BackendMetrics:
        """The counters of one backend."""
        return BackendMetrics(self, name)

    def observe_request(self, status: int) -> Callable[[float], None]:
        """What to call with the seconds of an ingest request answered with `status`."""
        observe: Callable[[float], None] = self.requests.labels(str(status)).observe
        return observe

    def add_readings(self, read: Callable[[], Iterable[tuple[str, str, dict[str, str], float]]]) -> None:
        """Have `read` asked for (name, help, labels, value) whenever /metrics is; a name that ends in `_total` is a counter."""
        self.registry.register(_Readings(read))

    def render(self) -> bytes:
        """Everything in the Prometheus text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)

    def _backend_counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["backend"], registry=self.registry)


class _Readings(Collector):
    def __init__(self, read: Callable[[], Iterable[tuple[str, str, dict[str, str], float]]]) -> None:
        self._read = read

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for name, text, labels, value in self._read():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = families.setdefault(name, kind(name, text, labels=list(labels)))
            family.add_metric(list(labels.values()), value)
        return families.values()
