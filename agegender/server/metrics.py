"""What `/metrics` counts, for Prometheus."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one server process; `render` adds up those of all processes.

    Attributes:
        requests: answered requests, by path and status.
        seconds: time from request to answer, by path.
        images: answered images, by outcome: ok, unusable or failed.
        faces: faces in answers.
        batch_size: images that were predicted together.
        waiting: images that are admitted and not answered yet.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("agegender_requests", "Answered requests.", ["path", "status"], registry=self._registry)
        self.seconds = Histogram(
            "agegender_request_seconds",
            "Seconds from request to answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.images = Counter("agegender_images", "Answered images.", ["outcome"], registry=self._registry)
        self.faces = Counter("agegender_faces", "Faces in answers.", registry=self._registry)
        self.batch_size = Histogram(
            "agegender_batch_size",
            "Images that were predicted together.",
            buckets=(1, 2, 4, 8, 16),
            registry=self._registry,
        )
        self.waiting = Gauge(
            "agegender_waiting_images",
            "Images that are admitted and not answered yet.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)
