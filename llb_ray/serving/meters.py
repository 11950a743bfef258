"""Metrics of a service for Prometheus: requests, images and seconds, by run."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Meters:
    """Counters of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        here = self._registry
        self.requests = Counter("llb_serve_requests", "requests for verdicts", ["run", "status"], registry=here)
        self.images = Counter("llb_serve_images", "images judged", ["run", "decision"], registry=here)
        self.seconds = Histogram(
            "llb_serve_request_seconds", "time of a request for verdicts", ["run"], buckets=_SECONDS, registry=here
        )

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)
