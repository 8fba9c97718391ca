"""What the gateway counts, for `/metrics` in the Prometheus text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_BUCKETS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)


class Metrics:
    """One registry a gateway; nothing global."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions = Gauge("fastvc_sessions", "Sessions that are open", registry=self.registry)
        self.workers = Gauge("fastvc_workers", "Workers that are connected", registry=self.registry)
        self.ended = Counter(
            "fastvc_sessions_ended", "Sessions that are over, by how they ended", ["outcome"], registry=self.registry
        )
        self.refused = Counter(
            "fastvc_sessions_refused", "Callers turned away before a session", ["reason"], registry=self.registry
        )
        self.blocks = Counter("fastvc_blocks", "Blocks answered with sound", registry=self.registry)
        self.concealed = Counter(
            "fastvc_blocks_concealed", "Blocks answered with silence", ["where"], registry=self.registry
        )
        self.late = Counter("fastvc_answers_dropped", "Answers that came too late or twice", registry=self.registry)
        self.bad_frames = Counter("fastvc_link_frames_refused", "Link frames that were refused", registry=self.registry)
        self.workers_lost = Counter("fastvc_workers_lost", "Workers that died or left", registry=self.registry)
        self.reopened = Counter("fastvc_sessions_reopened", "Sessions moved to another worker", registry=self.registry)
        self.latency = Histogram(
            "fastvc_block_latency_seconds",
            "From a block being complete to its answer being sent",
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)
