"""Who is converted next: one batch a turn, at most one chunk a session in it, the earliest deadlines first.

Two threads meet here. The link's thread hands messages over with `take` and `drop_gateway`; the engine's thread calls
`turn` for ever. All state of sessions belongs to the engine's thread, so only the inbox needs a lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from loguru import logger

from shared.log import for_session
from shared.messages import Audio, Chunk, ChunkStats, Close, Failed, FromWorker, Open, Opened
from worker.engine import PoolFull
from worker.streams import BlockOut, Pcm, StreamPool, UnknownVoice

CREDIT = 2  # chunks of a session that may wait here
MAX_INBOX = 100_000  # messages; reached only if the engine hangs while gateways ignore their credit

Key = tuple[int, str]  # gateway connection, session id
Reply = Callable[[int, FromWorker], None]


@dataclass(frozen=True, slots=True)
class _Job:
    seq: int
    samples: Pcm
    arrived_at: float
    deadline: float


@dataclass(slots=True)
class _Session:
    epoch: int
    slot: int
    jobs: deque[_Job] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class _DropGateway:
    pass


class Scheduler:
    """Batches the chunks of all sessions of one worker."""

    def __init__(
        self,
        pool: StreamPool,
        reply: Reply,
        *,
        max_batch: int,
        steps: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queue_ms = 0.0  # of the latest batch, the longest
        self.steps = steps
        self.sessions = 0
        self.refused = 0  # chunks that broke the rules
        self.concealed = 0  # chunks that came too late to be converted
        self.busy_since: float | None = None  # clock time at which the running batch began
        self._pool = pool
        self._reply = reply
        self._max_batch = max_batch
        self._clock = clock
        self._inbox: deque[tuple[int, float, Open | Chunk | Close | _DropGateway]] = deque()
        self._arrived = threading.Condition()
        self._open: dict[Key, _Session] = {}

    # --- the link's thread ----------------------------------------------------------------------------------

    def take(self, gateway: int, message: Open | Chunk | Close) -> None:
        """A gateway's message; never blocks for long."""
        self._put(gateway, message)

    def drop_gateway(self, gateway: int) -> None:
        """The connection is gone, and its sessions with it."""
        self._put(gateway, _DropGateway())

    def wake(self) -> None:
        """Ends a turn that waits."""
        with self._arrived:
            self._arrived.notify()

    def stuck_for(self) -> float:
        """Seconds since the running batch began; 0 when the engine is idle."""
        since = self.busy_since
        return 0.0 if since is None else self._clock() - since

    def _put(self, gateway: int, message: Open | Chunk | Close | _DropGateway) -> None:
        with self._arrived:
            if len(self._inbox) >= MAX_INBOX and isinstance(message, Chunk):
                self.refused += 1
                return
            self._inbox.append((gateway, self._clock(), message))
            self._arrived.notify()

    # --- the engine's thread --------------------------------------------------------------------------------

    def turn(self, wait_s: float = 0.1) -> int:
        """Take what has arrived, then convert one batch; how many rows it had. Waits at most `wait_s` for work."""
        self._sort_in(wait_s)
        ready = sorted(
            (key for key, session in self._open.items() if session.jobs),
            key=lambda key: self._open[key].jobs[0].deadline,
        )
        if not ready:
            return 0
        batch = ready[: self._max_batch]
        self.busy_since = self._clock()
        try:
            self._convert(batch, self.busy_since)
        finally:
            self.busy_since = None
        return len(batch)

    def _sort_in(self, wait_s: float) -> None:
        with self._arrived:
            if not self._inbox and not any(session.jobs for session in self._open.values()):
                self._arrived.wait(wait_s)
            arrived, self._inbox = self._inbox, deque()
        for gateway, at, message in arrived:
            match message:
                case Open():
                    self._open_session((gateway, message.session), message)
                case Chunk():
                    self._queue((gateway, message.session), message, at)
                case Close():
                    session = self._open.get((gateway, message.session))
                    if session is not None and session.epoch <= message.epoch:
                        self._close((gateway, message.session))
                case _DropGateway():
                    for key in [key for key in self._open if key[0] == gateway]:
                        self._close(key)
        self.sessions = len(self._open)

    def _open_session(self, key: Key, message: Open) -> None:
        if key in self._open:
            self._close(key)
        try:
            if message.options:
                raise UnknownVoice(f"options: {self._pool.engine.name} knows none, got {', '.join(message.options)}")
            if len(message.history) % 2:
                raise UnknownVoice("history: not a whole number of samples")
            slot = self._pool.open(message.voice, np.frombuffer(message.history, "<i2"))
        except PoolFull as error:
            self._reply(key[0], Failed(message.session, message.epoch, "OVERLOADED", str(error)))
        except UnknownVoice as error:
            self._reply(key[0], Failed(message.session, message.epoch, "INVALID_CONFIG", str(error)))
        else:
            self._open[key] = _Session(message.epoch, slot)
            for_session(message.session).info("opened, voice {}, epoch {}", message.voice, message.epoch)
            self._reply(key[0], Opened(message.session, message.epoch))

    def _queue(self, key: Key, chunk: Chunk, at: float) -> None:
        session = self._open.get(key)
        if session is None or session.epoch != chunk.epoch:
            return  # of a session that has ended
        wanted = 2 * self._pool.geometry.block_samples_in
        fault = None
        if len(chunk.samples) != wanted:
            fault = f"a chunk has {wanted} bytes, got {len(chunk.samples)}"
        elif len(session.jobs) >= CREDIT:
            fault = f"more than {CREDIT} chunks in flight"
        if fault is not None:
            self.refused += 1
            self._fail(key, chunk.epoch, fault)
            return
        samples = np.frombuffer(chunk.samples, "<i2")
        session.jobs.append(_Job(chunk.seq, samples, at, at + chunk.deadline_ms / 1000))

    def _convert(self, batch: list[Key], now: float) -> None:
        sessions = [self._open[key] for key in batch]
        jobs = [session.jobs.popleft() for session in sessions]
        late = [job.deadline <= now for job in jobs]
        made = self._pool.step([s.slot for s in sessions], [job.samples for job in jobs], late, self.steps)
        self.queue_ms = max(now - job.arrived_at for job in jobs) * 1000
        for key, session, job, block, is_late in zip(batch, sessions, jobs, made.blocks, late, strict=True):
            if block.error is not None:
                self._fail(key, session.epoch, block.error)
                continue
            if is_late:
                self.concealed += 1
                for_session(key[1]).warning("chunk {} came too late: concealed", job.seq)
            stats = ChunkStats(
                queue_ms=max(0.0, now - job.arrived_at) * 1000,
                batch_size=len(batch),
                steps=self.steps,
                speech=block.speech,
                concealed=is_late,
                stages_ms=made.stages,
            )
            self._answer(key, session.epoch, job.seq, block, stats)

    def _answer(self, key: Key, epoch: int, seq: int, block: BlockOut, stats: ChunkStats) -> None:
        self._reply(key[0], Audio(key[1], epoch, seq, block.samples.astype("<i2", copy=False).tobytes(), stats))

    def _fail(self, key: Key, epoch: int, reason: str) -> None:
        for_session(key[1]).error("failed: {}", reason)
        self._close(key)
        self._reply(key[0], Failed(key[1], epoch, "INTERNAL_ERROR", reason[:1000]))

    def _close(self, key: Key) -> None:
        session = self._open.pop(key)
        self._pool.close(session.slot)
        self.sessions = len(self._open)
        logger.debug("closed {}", key[1])
