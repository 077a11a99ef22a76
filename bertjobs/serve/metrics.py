"""What a server tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from bertjobs.serve.engine import ComputedPack
from bertjobs.serve.models import Observer
from bertjobs.serve.served import Served

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCIES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKENS = tuple(2**power for power in range(4, 17))
_ROWS = tuple(2**power for power in range(11))


class Metrics(Observer):
    """Counts of requests, packs and models; none of it says what was asked."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        labels = ("route", "model", "code")
        self._requests = Counter("bertjobs_requests", "Answered requests.", labels, registry=registry)
        self._seconds = Histogram("bertjobs_request_seconds", "From a request's head to its answer, in seconds.",
                                  labels[:2], registry=registry, buckets=_LATENCIES_S)  # fmt: skip
        self._pack_tokens = Histogram("bertjobs_batch_tokens", "Tokens that were computed at once.", ("model",),
                                      registry=registry, buckets=_TOKENS)  # fmt: skip
        self._pack_rows = Histogram("bertjobs_batch_rows", "Sequences that were computed at once.", ("model",),
                                    registry=registry, buckets=_ROWS)  # fmt: skip
        self._pack_seconds = Histogram("bertjobs_batch_seconds", "What that took, in seconds.", ("model",),
                                       registry=registry, buckets=_LATENCIES_S)  # fmt: skip
        self._version = Gauge("bertjobs_model_version", "How often the model was loaded.", ("model", "task"),
                              registry=registry)  # fmt: skip
        self._loads = Counter("bertjobs_model_loads", "Loads of a model; failed: the model before it stays.",
                              ("model", "result"), registry=registry)  # fmt: skip
        self._stale = Gauge("bertjobs_model_stale", "1 while the folder has a model that cannot be loaded.",
                            ("model",), registry=registry)  # fmt: skip

    def watch(self, name: str, words: str, value: Callable[[], float]) -> None:
        """A number that is read whenever Prometheus asks."""
        Gauge(f"bertjobs_{name}", words, registry=self._registry).set_function(value)

    def answered(self, route: str, model: str, code: int, seconds: float) -> None:
        """A request has got its answer."""
        self._requests.labels(route, model, str(code)).inc()
        self._seconds.labels(route, model).observe(seconds)

    def computed(self, pack: ComputedPack) -> None:
        """A pack was computed."""
        self._pack_tokens.labels(pack.model).observe(pack.tokens)
        self._pack_rows.labels(pack.model).observe(pack.rows)
        self._pack_seconds.labels(pack.model).observe(pack.seconds)

    def loaded(self, served: Served) -> None:
        self._version.labels(served.name, served.task).set(served.version)
        self._loads.labels(served.name, "loaded").inc()
        self._stale.labels(served.name).set(0)

    def kept(self, served: Served, error: str) -> None:  # noqa: ARG002
        self._loads.labels(served.name, "failed").inc()
        self._stale.labels(served.name).set(1)

    def current(self, served: Served) -> None:
        self._stale.labels(served.name).set(0)

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
