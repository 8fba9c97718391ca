"""One session's blocks on their way to a worker and back: credit, order, deadlines, and survival of a worker.

At most `CREDIT` chunks are at the worker; the rest waits here, bounded by the session. What a worker has not answered
stays here too, together with the sound before it, so that another worker can go on. A block that is not answered in
time is concealed. Which worker that is, only the pool knows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from gateway.audio.resample import Pcm
from gateway.blocks import BlockLayout
from gateway.errors import SessionError, refused_by_worker
from shared.log import for_session
from shared.messages import CREDIT, LINK_RATE, Audio, Chunk, ChunkStats, Close, Failed, FromGateway, Open

Send = Callable[[FromGateway], None]
_CATCH_UP = 0.5  # of a block's length lies between the deadlines of a backlog, which is so worked off


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What a worker must offer, and is asked for."""

    session_id: str
    voice: str
    model: str
    layout: BlockLayout
    options: dict[str, float] = field(default_factory=dict)
    reference: bytes = field(default=b"", repr=False)  # FLAC of a voice that the caller brought


@dataclass(frozen=True, slots=True)
class Answer:
    """One block of output. `samples` is None where silence must stand in."""

    seq: int
    samples: Pcm | None
    stats: ChunkStats | None
    complete_at: float  # loop time at which the block had come in

    @property
    def concealed_by(self) -> Literal["gateway", "worker"] | None:
        """Who put silence in the block's place; None: it was converted."""
        if self.samples is None:
            return "gateway"
        return "worker" if self.stats is not None and self.stats.concealed else None


class StreamCounters(Protocol):
    """Told of what no session learns."""

    def dropped_answer(self) -> None: ...


@dataclass(slots=True)
class _Block:
    seq: int
    samples: Pcm
    complete_at: float
    conceal_at: float


class Stream:
    """`submit` blocks, await `answers`; the pool opens it at a worker, and again at another."""

    def __init__(
        self, spec: StreamSpec, *, budget_s: float, counters: StreamCounters, clock: Callable[[], float]
    ) -> None:
        """budget_s: from when a block was due until it is concealed."""
        self.spec = spec
        self.epoch = 0
        self.reopened = 0
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()  # in order, each block once
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failure: asyncio.Future[SessionError] = asyncio.get_running_loop().create_future()
        self._send: Send | None = None  # to the worker that has it
        self._log = for_session(spec.session_id)
        self._budget_s, self._counters, self._clock = budget_s, counters, clock
        self._history_wanted = 0  # samples
        self._next_seq = 0  # of the next block to come in
        self._next_out = 0  # of the next block to go out
        self._schedule: float | None = None  # clock at which a first block of no length would have been complete
        self._due = -np.inf  # of the latest block
        self._waiting: deque[_Block] = deque()
        self._unanswered: dict[int, _Block] = {}  # sent, by seq
        self._at_worker: set[int] = set()  # sent in this epoch and not answered, concealed ones included
        self._answered_before: set[int] = set()  # of those, by the worker that had the session before
        self._ordered: dict[int, tuple[Answer, Pcm]] = {}  # not yet in order, with what they answer
        self._history: deque[Pcm] = deque()  # what went out, newest last
        self._history_samples = 0
        self._heard_at = clock()  # last sign of progress

    # --- the session's side ---------------------------------------------------------------------------------

    def submit(self, samples: Pcm) -> int:
        """One whole block of int16 at the link's rate; returns its number."""
        now = self._clock()
        if not self._unanswered and not self._waiting:
            self._heard_at = now
        block = _Block(self._next_seq, samples, now, self._due_of_next(now) + self._budget_s)
        self._next_seq += 1
        self._waiting.append(block)
        self._pump()
        return block.seq

    def _due_of_next(self, now: float) -> float:
        """When the next block ought to be answered at once: as the first block's clock goes on, or now if it is late.

        A caller who is faster than real time has later deadlines. One whose line stalled has its backlog due in quick
        succession, so that afterwards, back in time, the budget is no longer than before.
        """
        block_s = self.spec.layout.block_ms / 1000
        if self._schedule is None:
            self._schedule = now - block_s
        scheduled = self._schedule + (self._next_seq + 1) * block_s
        self._due = max(scheduled, now, self._due + _CATCH_UP * block_s)
        return self._due

    @property
    def submitted(self) -> int:
        """Blocks that came in."""
        return self._next_seq

    @property
    def at_worker(self) -> frozenset[int]:
        """Blocks that the worker has and has not answered."""
        return frozenset(self._at_worker)

    # --- the pool's side ------------------------------------------------------------------------------------

    def open_at(self, name: str, send: Send, history_ms: int) -> None:
        """Open at the worker `name`, the first time or again, and send what is unanswered.

        history_ms: sound that a worker wants should the session be opened once more.
        """
        if self._send is not None or self._next_seq:
            self.epoch += 1
            self.reopened += 1
            self._log.warning("goes on at worker {} (epoch {})", name, self.epoch)
        self._send = send
        self._history_wanted = history_ms * LINK_RATE // 1000
        self._heard_at = self._clock()
        self._waiting.extendleft(reversed([self._unanswered[seq] for seq in sorted(self._unanswered)]))
        self._unanswered.clear()
        self._at_worker.clear()
        self._answered_before.clear()
        history = np.concatenate(self._history).tobytes() if self._history else b""
        send(Open(self.spec.session_id, self.epoch, self.spec.voice, history, self.spec.options, self.spec.reference))
        self._pump()

    def recall(self, samples: Pcm) -> None:
        """Sound that was answered before this stream began: context for when it is opened again."""
        self._remember(samples)

    @property
    def is_busy(self) -> bool:
        """Whether a block is not answered."""
        return bool(self._unanswered or self._waiting or self._at_worker)

    def orphan(self) -> None:
        """The worker is gone and there is no other yet."""
        self._send = None
        self._heard_at = self._clock()

    def close(self) -> None:
        """The session is over, however it ended."""
        if self._send is not None:
            self._send(Close(self.spec.session_id, self.epoch))
            self._send = None

    def on_opened(self) -> None:
        self._heard_at = self._clock()
        if not self.opened.done():
            self.opened.set_result(None)

    def on_failed(self, failed: Failed) -> None:
        self.fail(refused_by_worker(failed.code, failed.message))

    def on_audio(self, audio: Audio) -> None:
        """An answer of this epoch."""
        self._heard_at = self._clock()
        self._at_worker.discard(audio.seq)
        block = self._unanswered.pop(audio.seq, None)
        if block is not None:
            self._take(block, audio)
        elif audio.seq in self._answered_before:
            self._answered_before.discard(audio.seq)
        else:
            self._counters.dropped_answer()
            self._log.info("answer {} came too late and was dropped", audio.seq)
        self._pump()

    def on_former_audio(self, audio: Audio) -> None:
        """An answer of the worker that leaves, which may have been faster than the one that has the session now."""
        block = self._unanswered.pop(audio.seq, None)
        if block is not None:
            self._answered_before.add(audio.seq)
            self._take(block, audio)

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
            if self._send is None:
                self.fail(SessionError("WORKER_LOST", f"no worker took the session over within {timeout_s:g} s"))
            else:
                self.fail(SessionError("TIMEOUT", f"no answer of the worker within {timeout_s:g} s"))
        self._pump()

    # --- within ---------------------------------------------------------------------------------------------

    def fail(self, error: SessionError) -> None:
        """The session's owner learns of it from `failure`."""
        if not self.failure.done():
            self.failure.set_result(error)

    def _take(self, block: _Block, audio: Audio) -> None:
        if len(audio.samples) != 2 * self.spec.layout.block_samples_out:
            self._log.error("answer {} has {} bytes: concealed", audio.seq, len(audio.samples))
            self._conceal(block)
            return
        if audio.stats.concealed:
            self._log.warning("block {} was concealed by the worker", audio.seq)
        self._answer(block, Answer(block.seq, np.frombuffer(audio.samples, "<i2"), audio.stats, block.complete_at))

    def _pump(self) -> None:
        while self._waiting and self._send is not None and len(self._at_worker) < CREDIT:
            block = self._waiting.popleft()
            self._unanswered[block.seq] = block
            self._at_worker.add(block.seq)
            left_ms = max(0.0, (block.conceal_at - self._clock()) * 1000)
            self._send(Chunk(self.spec.session_id, self.epoch, block.seq, block.samples.tobytes(), left_ms))

    def _conceal(self, block: _Block) -> None:
        self._answer(block, Answer(block.seq, None, None, block.complete_at))

    def _answer(self, block: _Block, answer: Answer) -> None:
        self._ordered[block.seq] = answer, block.samples
        while self._next_out in self._ordered:
            released, samples = self._ordered.pop(self._next_out)
            self.answers.put_nowait(released)
            self._remember(samples)
            self._next_out += 1

    def _remember(self, samples: Pcm) -> None:
        self._history.append(samples)
        self._history_samples += len(samples)
        while self._history and self._history_samples - len(self._history[0]) >= self._history_wanted:
            self._history_samples -= len(self._history.popleft())
