"""What a session reports at its end, gathered from its events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.events import AnswerSent, BlockSubmitted, PayloadReceived, SessionEnded


def block_stats(event: AnswerSent) -> dict[str, Any]:
    """How one block was made, as callers are told who ask for `stats`; milliseconds, null where nobody measured."""
    answer, stats = event.answer, event.answer.stats
    return {
        "seq": answer.seq,
        "latency_ms": round(event.latency_ms, 3),
        "queue_ms": None if stats is None else round(stats.queue_ms, 3),
        "compute_ms": None if stats is None else round(sum(stats.stages_ms.values()), 3),
        "batch_size": None if stats is None else stats.batch_size,
        "steps": None if stats is None else stats.steps,
        "speech": None if stats is None else stats.speech,
        "concealed": answer.concealed_by is not None,
    }


@dataclass(slots=True)
class SessionStats:
    """An observer of one session."""

    began_at: float  # loop time
    input_ms: float = 0.0
    blocks: int = 0
    silent: int = 0  # of them, those in which nobody spoke
    concealed: int = 0
    latency_sum_ms: float = 0.0
    latency_max_ms: float = 0.0
    queue_sum_ms: float = 0.0
    compute_sum_ms: float = 0.0
    batch_sum: int = 0
    steps_min: int | None = None
    measured: int = 0  # answers that came with statistics
    converted: int = 0  # of them, those that were in a batch: silence is not

    def on_payload(self, event: PayloadReceived) -> None:
        self.input_ms += event.audio_ms

    def on_block(self, event: BlockSubmitted) -> None:
        pass

    def on_answer(self, event: AnswerSent) -> None:
        self.blocks += 1
        self.latency_sum_ms += event.latency_ms
        self.latency_max_ms = max(self.latency_max_ms, event.latency_ms)
        self.concealed += event.answer.concealed_by is not None
        stats = event.answer.stats
        if stats is None:
            return
        self.measured += 1
        self.silent += not stats.speech
        self.queue_sum_ms += stats.queue_ms
        self.compute_sum_ms += sum(stats.stages_ms.values())
        self.converted += stats.batch_size > 0
        self.batch_sum += stats.batch_size
        if stats.steps:  # silence takes none
            self.steps_min = stats.steps if self.steps_min is None else min(self.steps_min, stats.steps)

    def on_end(self, event: SessionEnded) -> None:
        pass

    def summary(self, now: float, *, reopened: int, padded_ms: float, lost: int, ignored: int) -> dict[str, Any]:
        """For the `complete` message and the log; milliseconds."""
        per_block, per_answer = max(1, self.blocks), max(1, self.measured)
        return {
            "total_processed_ms": round(self.input_ms, 3),
            "chunks_processed": self.blocks,
            "average_latency_ms": round(self.latency_sum_ms / per_block, 3),
            "max_latency_ms": round(self.latency_max_ms, 3),
            "average_queue_ms": round(self.queue_sum_ms / per_answer, 3),
            "average_compute_ms": round(self.compute_sum_ms / per_answer, 3),
            "average_batch_size": round(self.batch_sum / max(1, self.converted), 2),
            "min_steps": self.steps_min,
            "silent_chunks": self.silent,
            "concealed_chunks": self.concealed,
            "lost_packets": lost,
            "padded_ms": round(padded_ms, 3),
            "ignored_messages": ignored,
            "reopened": reopened,
            "session_ms": round((now - self.began_at) * 1000),
        }
