"""What the gateway counts, for `/metrics` in the Prometheus text format."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, Summary, generate_latest

from gateway.errors import ErrorCode
from gateway.events import AnswerSent, BlockSubmitted, PayloadReceived, SessionEnded
from shared.messages import Heartbeat

_LATENCY_BUCKETS_S = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0, 1.5, 2.0, 5.0)
_FACTOR_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
_LAG_BUCKETS_S = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_STEP_BUCKETS = (1, 2, 4, 6, 8, 10, 15, 20, 30, 50)


class Metrics:
    """One registry a gateway; nothing global. Its `meter`s observe sessions; it is told what no session learns."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.sessions = Gauge("fastvc_sessions", "Sessions that are open", registry=registry)
        self.opened = Counter("fastvc_sessions_opened", "Calls that were let in and had a place", registry=registry)
        self.ended = Counter(
            "fastvc_sessions_ended", "Calls that are over, by how they ended", ["outcome"], registry=registry
        )
        self.resumed = Counter(
            "fastvc_sessions_resumed",
            "Callers who came back: to the same stream, to it through another process, to a new one",
            ["stream"],
            registry=registry,
        )
        self.refused = Counter(
            "fastvc_sessions_refused", "Callers turned away before a session", ["reason"], registry=registry
        )
        self.denied = Counter(
            "fastvc_credentials_refused", "Credentials that were not believed, or not looked at", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.requests = Counter(
            "fastvc_requests_refused", "HTTP requests that were refused", ["status", "error_code"], registry=registry
        )
        self.reopened = Counter("fastvc_sessions_reopened", "Sessions moved to another worker", registry=registry)
        self.input = Counter("fastvc_input_seconds", "Sound that callers sent", registry=registry)
        self.received = Counter("fastvc_received_bytes", "Payloads of sound that callers sent", registry=registry)
        self.sent = Counter("fastvc_sent_bytes", "Payloads of sound that were sent to callers", registry=registry)
        self.traffic = Traffic()  # not yet counted: too frequent for it
        self.padded = Counter(
            "fastvc_padding_seconds", "Silence put behind the last word of callers who paused", registry=registry
        )
        self.paused = Counter(
            "fastvc_reading_paused_seconds", "Pauses of reading, of callers who sent too fast", registry=registry
        )
        self.uploads = Counter(
            "fastvc_voices_uploaded", "Voices that callers brought: kept, or why not", ["outcome"], registry=registry
        )
        self.lost = Counter("fastvc_packets_lost", "Packets that were lost or damaged", registry=registry)
        self.damaged = Counter("fastvc_packets_damaged", "Of them, those that came and were none", registry=registry)
        self.ignored = Counter("fastvc_messages_ignored", "Text that was neither control nor sound", registry=registry)
        self.lag = Histogram(
            "fastvc_event_loop_lag_seconds",
            "How much later than asked for the event loop came to a timer",
            buckets=_LAG_BUCKETS_S,
            registry=registry,
        )
        self._sessions_metrics(registry)
        self._worker_metrics(registry)
        ProcessCollector(registry=registry)

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
        self.factor = Histogram(
            "fastvc_block_real_time_factor",
            "The same over the block's length",
            buckets=_FACTOR_BUCKETS,
            registry=registry,
        )
        self.missed = Counter(
            "fastvc_deadline_misses", "Blocks answered later than their own length, or with silence", registry=registry
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
        self._beats: dict[str, float] = {}  # of each worker the latest, on the monotonic clock
        self._silent = Gauge(
            "fastvc_worker_silent_seconds", "Since a worker's latest heartbeat", ["worker"], registry=registry
        )
        self.strangers = Counter(
            "fastvc_link_connections_refused",
            "Connections to the link's port: of a key that is not listed, or without a handshake",
            ["reason"],
            registry=registry,
        )
        self._of_workers = {
            name: Gauge(f"fastvc_worker_{name}", text, ["worker"], registry=registry)
            for name, text in {
                "sessions": "Sessions of this gateway at a worker",
                "capacity": "Sessions that this gateway may have at a worker",
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
        self._beats[worker_id] = time.monotonic()
        for name, value in values.items():
            self._of_workers[name].labels(worker_id).set(value)

    def on_worker_lost(self, worker_id: str) -> None:
        self.workers_lost.inc()
        self._beats.pop(worker_id, None)
        for gauge in (self._silent, *self._of_workers.values()):
            with suppress(KeyError):  # it never beat
                gauge.remove(worker_id)

    def refused_request(self, status: int, code: ErrorCode) -> None:
        self.requests.labels(str(status), code).inc()

    def dropped_answer(self) -> None:
        self.late.inc()

    # --- sessions -------------------------------------------------------------------------------------------

    def meter(self, block_ms: float) -> Meter:
        """The observer of a session that begins."""
        self.opened.inc()
        return Meter(self, block_ms)

    def text(self) -> bytes:
        """The exposition."""
        traffic, self.traffic = self.traffic, Traffic()
        self.input.inc(traffic.input_ms / 1000)
        self.received.inc(traffic.received)
        self.sent.inc(traffic.sent)
        now = time.monotonic()
        for worker_id, beat_at in self._beats.items():
            self._silent.labels(worker_id).set(now - beat_at)
        return generate_latest(self.registry)


@dataclass(slots=True)
class Traffic:
    """What comes fifty times a second and session: counted when somebody asks."""

    input_ms: float = 0.0
    received: int = 0
    sent: int = 0


class Meter:
    """Observes one session."""

    def __init__(self, metrics: Metrics, block_ms: float) -> None:
        self._metrics, self._block_s = metrics, block_ms / 1000
        self._lost = 0  # packets of which the caller said so

    def on_payload(self, event: PayloadReceived) -> None:
        traffic = self._metrics.traffic
        traffic.input_ms += event.audio_ms
        if event.payload is None:
            self._lost += 1
        else:
            traffic.received += len(event.payload)

    def on_block(self, event: BlockSubmitted) -> None:
        self._metrics.submitted.inc()

    def on_answer(self, event: AnswerSent) -> None:
        metrics, latency_s = self._metrics, event.latency_ms / 1000
        metrics.traffic.sent += sum(map(len, event.messages))
        metrics.latency.observe(latency_s)
        metrics.factor.observe(latency_s / self._block_s)
        where = event.answer.concealed_by
        if where is not None:
            metrics.concealed.labels(where).inc()
        if where is not None or latency_s > self._block_s:
            metrics.missed.inc()
        stats = event.answer.stats
        if stats is None:
            return
        if not stats.concealed:
            metrics.blocks.labels("speech" if stats.speech else "silence").inc()
        metrics.queue.observe(stats.queue_ms / 1000)
        if stats.batch_size:
            metrics.batch.observe(stats.batch_size)
        if stats.steps:
            metrics.steps.observe(stats.steps)
        for stage, ms in stats.stages_ms.items():
            metrics.stages.labels(stage).observe(ms / 1000)

    def on_end(self, event: SessionEnded) -> None:
        metrics, summary = self._metrics, event.summary
        metrics.padded.inc(summary["padded_ms"] / 1000)
        metrics.lost.inc(summary["lost_packets"])
        metrics.damaged.inc(max(0, summary["lost_packets"] - self._lost))
        metrics.ignored.inc(summary["ignored_messages"])
