"""What the gateway counts, for `/metrics` in the Prometheus text format."""

from __future__ import annotations

from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest

from gateway.events import AnswerSent, BlockSubmitted, PayloadReceived, SessionEnded
from shared.messages import Heartbeat

_LATENCY_BUCKETS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_STEP_BUCKETS = (1, 2, 4, 6, 8, 10, 15, 20, 30, 50)


class Metrics:
    """One registry a gateway; nothing global. It observes every session, and is told what no session learns."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.sessions = Gauge("fastvc_sessions", "Sessions that are open", registry=registry)
        self.ended = Counter(
            "fastvc_sessions_ended", "Calls that are over, by how they ended", ["outcome"], registry=registry
        )
        self.refused = Counter(
            "fastvc_sessions_refused", "Callers turned away before a session", ["reason"], registry=registry
        )
        self.denied = Counter(
            "fastvc_credentials_refused", "Credentials that were not believed, or not looked at", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.reopened = Counter("fastvc_sessions_reopened", "Sessions moved to another worker", registry=registry)
        self.input = Counter("fastvc_input_seconds", "Sound that callers sent", registry=registry)
        self._input_ms = 0.0  # not yet counted
        self.padded = Counter(
            "fastvc_padding_seconds", "Silence put behind the last word of callers who paused", registry=registry
        )
        self.lost = Counter("fastvc_packets_lost", "Packets that were lost or damaged", registry=registry)
        self.ignored = Counter("fastvc_messages_ignored", "Text that was neither control nor sound", registry=registry)
        self._sessions_metrics(registry)
        self._worker_metrics(registry)

    def _sessions_metrics(self, registry: CollectorRegistry) -> None:
        self.submitted = Counter("fastvc_blocks_submitted", "Blocks on their way to a worker", registry=registry)
        self.blocks = Counter(
            "fastvc_blocks", "Blocks answered by a worker: speech, or silence", ["kind"], registry=registry
        )
        self.concealed = Counter(
            "fastvc_blocks_concealed", "Blocks answered with silence in place of speech", ["where"], registry=registry
        )
        self.latency = Histogram(
            "fastvc_block_latency_seconds",
            "From a block being complete to its answer being sent",
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.queue = Histogram(
            "fastvc_chunk_queue_seconds", "Wait at the worker", buckets=_LATENCY_BUCKETS_S, registry=registry
        )
        self.batch = Histogram(
            "fastvc_chunk_batch_size", "Rows of the batch a block was in", buckets=_BATCH_BUCKETS, registry=registry
        )
        self.steps = Histogram(
            "fastvc_chunk_steps", "Solver steps of a block, where its model has a solver", buckets=_STEP_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self.stages = Summary(
            "fastvc_stage_seconds", "Stages of the call that made a block", ["stage"], registry=registry
        )

    def _worker_metrics(self, registry: CollectorRegistry) -> None:
        self.workers = Gauge("fastvc_workers", "Workers that are connected", registry=registry)
        self.workers_lost = Counter("fastvc_workers_lost", "Workers that died or left", registry=registry)
        self.late = Counter("fastvc_answers_dropped", "Answers that came too late or twice", registry=registry)
        self.bad_frames = Counter("fastvc_link_frames_refused", "Link frames that were refused", registry=registry)
        self._of_workers = {
            name: Gauge(f"fastvc_worker_{name}", text, ["worker"], registry=registry)
            for name, text in {
                "sessions": "Sessions at a worker, of all its gateways",
                "capacity": "Sessions that a worker can keep in real time, as it measured",
                "queue_seconds": "Longest wait of a worker's latest batch",
                "steps": "Solver steps that a worker uses now",
                "chunks_refused": "Chunks that broke the link's rules, since the worker's start",
                "answers_dropped": "Answers for gateways that were gone, since the worker's start",
            }.items()
        }

    # --- workers --------------------------------------------------------------------------------------------

    def on_beat(self, worker_id: str, beat: Heartbeat) -> None:
        values = {
            "sessions": beat.sessions,
            "capacity": beat.capacity,
            "queue_seconds": beat.queue_ms / 1000,
            "steps": beat.steps,
            "chunks_refused": beat.refused,
            "answers_dropped": beat.dropped,
        }
        for name, value in values.items():
            self._of_workers[name].labels(worker_id).set(value)

    def on_worker_lost(self, worker_id: str) -> None:
        self.workers_lost.inc()
        for gauge in self._of_workers.values():
            with suppress(KeyError):  # it never beat
                gauge.remove(worker_id)

    def dropped_answer(self) -> None:
        self.late.inc()

    # --- an observer of sessions ----------------------------------------------------------------------------

    def on_payload(self, event: PayloadReceived) -> None:
        self._input_ms += event.audio_ms  # fifty times a second and session: counted when somebody asks

    def on_block(self, event: BlockSubmitted) -> None:
        self.submitted.inc()

    def on_answer(self, event: AnswerSent) -> None:
        self.latency.observe(event.latency_ms / 1000)
        if (where := event.answer.concealed_by) is not None:
            self.concealed.labels(where).inc()
        stats = event.answer.stats
        if stats is None:
            return
        if not stats.concealed:
            self.blocks.labels("speech" if stats.speech else "silence").inc()
        self.queue.observe(stats.queue_ms / 1000)
        if stats.batch_size:
            self.batch.observe(stats.batch_size)
        if stats.steps:
            self.steps.observe(stats.steps)
        for stage, ms in stats.stages_ms.items():
            self.stages.labels(stage).observe(ms / 1000)

    def on_end(self, event: SessionEnded) -> None:
        self.padded.inc(event.summary["padded_ms"] / 1000)
        self.lost.inc(event.summary["lost_packets"])
        self.ignored.inc(event.summary["ignored_messages"])

    def text(self) -> bytes:
        """The exposition."""
        self.input.inc(self._input_ms / 1000)
        self._input_ms = 0.0
        return generate_latest(self.registry)
