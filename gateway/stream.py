"""One session's blocks on their way to a worker and back: credit, order, deadlines, and survival of a worker.

At most `CREDIT` chunks are at the worker; the rest waits here, bounded. What a worker has not answered stays here too,
together with the sound before it, so that another worker can go on. A block that is not answered in time is concealed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gateway.blocks import Layout
from gateway.protocols import SessionError
from shared.audio import LINK_RATE, Pcm
from shared.log import for_session
from shared.messages import Audio, Chunk, ChunkStats, Close, Failed, Open

if TYPE_CHECKING:
    from gateway.pool import Pool, WorkerRecord

CREDIT = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """One block of output. `samples` is None where silence must stand in."""

    seq: int
    samples: Pcm | None
    stats: ChunkStats | None
    complete_at: float  # loop time at which the block had come in


@dataclass(slots=True)
class _Block:
    seq: int
    samples: Pcm
    complete_at: float
    conceal_at: float


class Stream:
    """Owned by a session, fed by it, and known to the pool under the session's id."""

    def __init__(
        self,
        pool: Pool,
        session_id: str,
        voice: str,
        model: str,
        layout: Layout,
        sink: Callable[[Answer], None],
        options: dict[str, float] | None = None,
    ) -> None:
        self.session_id = session_id
        self.voice, self.model, self.layout = voice, model, layout
        self._options = options or {}
        self.worker: WorkerRecord | None = None
        self.epoch = 0
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failure: asyncio.Future[SessionError] = asyncio.get_running_loop().create_future()
        self.reopened = 0
        self._pool = pool
        self._sink = sink
        self._log = for_session(session_id)
        self._budget_s = pool.config.latency_budget_ms / 1000
        self._next_seq = 0  # of the next block to come in
        self._next_out = 0  # of the next block to go out
        self._anchor = -np.inf  # loop time at which the stream began, as its latest block has it
        self._waiting: deque[_Block] = deque()
        self._unanswered: dict[int, _Block] = {}  # sent, by seq
        self._at_worker: set[int] = set()  # sent in this epoch and not answered, concealed ones included
        self._answers: dict[int, Answer] = {}  # not yet in order
        self._history: deque[Pcm] = deque()  # what went out, newest last
        self._history_samples = 0
        self._heard_at = self._now()  # last sign of progress

    # --- the session's side ---------------------------------------------------------------------------------

    def submit(self, samples: Pcm, last: bool = False) -> None:
        """One whole block of int16 at 16 kHz."""
        now = self._now()
        if not self._unanswered and not self._waiting:
            self._heard_at = now
        position = (self._next_seq + 1) * self.layout.block_ms / 1000
        # A caller who is faster than real time has later deadlines; one who stalled has moved its own clock.
        self._anchor = max(self._anchor, now - position)
        block = _Block(self._next_seq, samples, now, self._anchor + position + self._budget_s)
        self._next_seq += 1
        self._waiting.append(block)
        self._pump()

    @property
    def submitted(self) -> int:
        """Blocks that came in."""
        return self._next_seq

    def close(self) -> None:
        """The session is over, however it ended."""
        if self.worker is not None:
            self._pool.send(self.worker, Close(self.session_id, self.epoch))
        self._pool.forget(self)

    # --- the pool's side ------------------------------------------------------------------------------------

    def assign(self, worker: WorkerRecord) -> None:
        """Open at `worker`, the first time or again, and send what is unanswered."""
        if self.worker is not None or self._next_seq:
            self.epoch += 1
            self.reopened += 1
            self._log.warning("goes on at worker {} (epoch {})", worker.hello.worker_id, self.epoch)
        self.worker = worker
        self._heard_at = self._now()
        self._waiting.extendleft(reversed([self._unanswered[seq] for seq in sorted(self._unanswered)]))
        self._unanswered.clear()
        self._at_worker.clear()
        history = np.concatenate(self._history).tobytes() if self._history else b""
        self._pool.send(worker, Open(self.session_id, self.epoch, self.voice, history, self._options))
        self._pump()

    def orphan(self) -> None:
        """The worker is gone and there is no other yet."""
        self.worker = None
        self._heard_at = self._now()

    def on_opened(self) -> None:
        self._heard_at = self._now()
        if not self.opened.done():
            self.opened.set_result(None)

    def on_failed(self, failed: Failed) -> None:
        self.fail(SessionError(failed.code, failed.message))

    def fail(self, error: SessionError) -> None:
        """End the session with `error`; its owner learns of it from `failure`."""
        if not self.failure.done():
            self.failure.set_result(error)

    def on_audio(self, audio: Audio) -> None:
        """An answer of this epoch."""
        self._heard_at = self._now()
        self._at_worker.discard(audio.seq)
        block = self._unanswered.pop(audio.seq, None)
        if block is None:
            self._pool.metrics.late.inc()
            self._log.info("answer {} came too late and was dropped", audio.seq)
        elif len(audio.samples) != 2 * self.layout.block_samples_out:
            self._log.error("answer {} has {} bytes: concealed", audio.seq, len(audio.samples))
            self._conceal(block)
        else:
            if audio.stats.concealed:
                self._pool.metrics.concealed.labels("worker").inc()
                self._log.warning("block {} was concealed by the worker", audio.seq)
            self._answer(block, Answer(block.seq, np.frombuffer(audio.samples, "<i2"), audio.stats, block.complete_at))
        self._pump()

    def check(self, now: float, timeout_s: float) -> None:
        """Conceal what is overdue; give up on a worker that never answers."""
        overdue = [b for b in (*self._unanswered.values(), *self._waiting) if b.conceal_at <= now]
        for block in overdue:
            if self._unanswered.pop(block.seq, None) is None:
                self._waiting.remove(block)
            self._log.warning("block {} is not answered in time: concealed", block.seq)
            self._conceal(block)
        busy = bool(self._at_worker or self._waiting) or not self.opened.done()
        if busy and now - self._heard_at > timeout_s:
            if self.worker is None:
                self.fail(SessionError("WORKER_LOST", f"no worker took the session over within {timeout_s:g} s"))
            else:
                self.fail(SessionError("TIMEOUT", f"no answer of the worker within {timeout_s:g} s"))
        self._pump()

    # --- within ---------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        while self._waiting and self.worker is not None and len(self._at_worker) < CREDIT:
            block = self._waiting.popleft()
            self._unanswered[block.seq] = block
            self._at_worker.add(block.seq)
            left_ms = max(0.0, (block.conceal_at - self._now()) * 1000)
            self._pool.send(
                self.worker, Chunk(self.session_id, self.epoch, block.seq, block.samples.tobytes(), left_ms)
            )

    def _conceal(self, block: _Block) -> None:
        self._pool.metrics.concealed.labels("gateway").inc()
        self._answer(block, Answer(block.seq, None, None, block.complete_at))

    def _answer(self, block: _Block, answer: Answer) -> None:
        self._answers[block.seq] = answer
        self._remember(block.samples)
        while self._next_out in self._answers:
            self._sink(self._answers.pop(self._next_out))
            self._next_out += 1

    def _remember(self, samples: Pcm) -> None:
        self._history.append(samples)
        self._history_samples += len(samples)
        wanted = self._pool.history_ms(self) * LINK_RATE // 1000
        while self._history and self._history_samples - len(self._history[0]) >= wanted:
            self._history_samples -= len(self._history.popleft())

    def _now(self) -> float:
        return self._pool.now()
