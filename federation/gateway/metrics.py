"""What the gateway counts about itself, in a registry of its own, shown at /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The gateway's counters; every label has a bounded set of values."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "trackmate_gateway_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "trackmate_gateway_request_seconds", "Time to answer.", ["route"], buckets=_BUCKETS, registry=self.registry
        )
        self._refused = Counter("trackmate_gateway_refused", "Requests refused at the door.", ["code"], registry=self.registry)
        self._events = Counter(
            "trackmate_gateway_events", "Events received, by what became of them.", ["result"], registry=self.registry
        )
        self._source_seconds = Histogram(
            "trackmate_gateway_source_seconds", "Time a source took.", ["source"], buckets=_BUCKETS, registry=self.registry
        )
        self._source_errors = Counter(
            "trackmate_gateway_source_errors", "Sources that failed or were late.", ["source"], registry=self.registry
        )
        self._cache = Counter("trackmate_gateway_cache", "Unified answers by cache result.", ["result"], registry=self.registry)
        self.ready = Gauge("trackmate_gateway_ready", "1 when the hot store and the lake can be reached.", registry=self.registry)
        self.ingests_running = Gauge("trackmate_gateway_ingests_running", "Ingest requests in progress.", registry=self.registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        known = method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "OTHER"
        self._requests.labels(route, known, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, code: str) -> None:
        """Count one request that was turned away on its headers."""
        self._refused.labels(code).inc()

    def events(self, *, inserted: int, duplicates: int, rejected: int) -> None:
        """Count what became of one batch."""
        self._events.labels("inserted").inc(inserted)
        self._events.labels("duplicate").inc(duplicates)
        self._events.labels("rejected").inc(rejected)

    def source(self, name: str, seconds: float, *, failed: bool) -> None:
        """Count one answer, or failure, of one source."""
        self._source_seconds.labels(name).observe(seconds)
        if failed:
            self._source_errors.labels(name).inc()

    def cache(self, result: str) -> None:
        """Count one look into the cache: hit, shared (single flight) or miss."""
        self._cache.labels(result).inc()

    def text(self) -> bytes:
        """Everything in the Prometheus text format."""
        return generate_latest(self.registry)
