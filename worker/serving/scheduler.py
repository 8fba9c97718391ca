"""Chunks in, answers out: each turn hears what has come, answers silence, converts one batch of who speaks.

Two threads meet at the inbox. The link's thread hands messages over with `take` and `drop_gateway`; the engine's calls
`turn` for ever. All state of sessions belongs to the engine's thread. Who is in a batch and with how many steps is the
planner's decision.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np
from loguru import logger

from shared.log import for_session
from shared.messages import CREDIT, Audio, Chunk, ChunkStats, Close, Failed, FromWorker, Open, Opened
from worker.engine import PoolFull, StageTimes, session_seed
from worker.serving.inbox import DropGateway, Inbox
from worker.serving.plan import Planner, Waiting
from worker.streaming.pool import BlockOut, OutOfMemory, Pcm, StreamPool, UnknownVoice
from worker.voices import VoiceError

PREPARE_BLOCKS = 1.0  # of time that work which was put off may take while sessions are open: less than their budget

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
    steps: int  # of the solver, at most
    jobs: deque[_Job] = field(default_factory=deque)
    speaks: bool = False  # the first job has been listened to, and waits for conversion
    missed: int = 0  # jobs in a row that came too late


class Scheduler:
    """Batches the chunks of all sessions of one worker."""

    def __init__(
        self,
        pool: StreamPool,
        reply: Reply,
        planner: Planner,
        *,
        gather_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """gather_s: how long an idle device waits for more sessions to join a batch."""
        self.queue_ms = 0.0  # of the latest batch, the longest
        self.sessions = 0
        self._sessions_of: Mapping[int, int] = {}  # by gateway; replaced, never changed
        self._refused = 0  # chunks that broke the rules
        self.concealed = 0  # chunks that came too late to be converted
        self.busy_since: float | None = None  # clock time at which the running batch began
        self._pool = pool
        self._reply = reply
        self._planner = planner
        self._gather_s = gather_s
        self._idle_since = -float("inf")
        self._clock = clock
        self._inbox = Inbox(clock)
        self._open: dict[Key, _Session] = {}

    @property
    def refused(self) -> int:
        """Chunks that broke the rules, or found no room."""
        return self._refused + self._inbox.refused

    def sessions_of(self, gateway: int) -> int:
        """Sessions of one connection. For any thread."""
        return self._sessions_of.get(gateway, 0)

    @property
    def steps(self) -> int:
        """Solver steps in use."""
        return self._planner.steps

    @property
    def capacity(self) -> int:
        """Sessions that this worker can keep in real time, as measured; never more than it has room for."""
        return min(self._pool.max_sessions, self._planner.capacity)

    # --- the link's thread ----------------------------------------------------------------------------------

    def take(self, gateway: int, message: Open | Chunk | Close) -> None:
        """A gateway's message; never blocks for long."""
        self._inbox.put(gateway, message)

    def drop_gateway(self, gateway: int) -> None:
        """The connection is gone, and its sessions with it."""
        self._inbox.put(gateway, DropGateway())

    def wake(self) -> None:
        """Ends a turn that waits."""
        self._inbox.wake()

    def stuck_for(self) -> float:
        """Seconds since the running batch began; 0 when the engine is idle."""
        since = self.busy_since
        return 0.0 if since is None else self._clock() - since

    # --- the engine's thread --------------------------------------------------------------------------------

    def turn(self, wait_s: float = 0.1) -> int:
        """Take what has arrived, answer who is silent or too late, convert one batch; how many chunks were answered.
        Waits at most `wait_s` for work."""
        self._inbox.begin_turn()
        self._sort_in(wait_s)
        answered = self._listen()
        self._gather()
        waiting = self._waiting()
        if not waiting:
            if not answered:
                self._planner.rest(self._clock())
                self._prepare()
            return answered
        now = self.busy_since = self._clock()
        try:
            plan = self._planner.plan(waiting, now)
            self._conceal([one.key for one in plan.late], now)
            converted = self._convert([one.key for one in plan.batch], plan.steps, now) if plan.batch else 0
        finally:
            self.busy_since = None
            self._idle_since = self._clock()
        return answered + len(plan.late) + converted

    def _prepare(self) -> None:
        """Nobody waits. Work that was put off may take as long as it likes where nobody can come before it is done."""
        if not self._inbox.is_empty:
            return
        block_s = self._pool.geometry.block_ms / 1000
        self._pool.engine.prepare(PREPARE_BLOCKS * block_s if self._open else float("inf"))

    def _waiting(self) -> list[Waiting[Key]]:
        return [
            Waiting(key, session.jobs[0].arrived_at, session.jobs[0].deadline, session.missed)
            for key, session in self._open.items()
            if session.speaks
        ]

    def _gather(self) -> None:
        """While the device has been idle since the first of the waiting came, give others a moment to join."""
        while self._gather_s > 0:
            waiting = self._waiting()
            if not waiting or len(waiting) >= self._planner.max_batch:
                return
            first = min(one.arrived_at for one in waiting)
            left = first + self._gather_s - self._clock()
            if left <= 0 or first < self._idle_since:
                return
            self._inbox.wait(left)
            self._sort_in(0.0)
            self._listen()

    def _sort_in(self, wait_s: float) -> None:
        """Take in what has come; wait for it where there is nothing else to do."""
        if wait_s > 0 and self._inbox.is_empty and not any(session.jobs for session in self._open.values()):
            self._inbox.wait(wait_s)
        for gateway, at, message in self._inbox.take():
            match message:
                case Open():
                    self._open_session((gateway, message.session), message)
                case Chunk():
                    self._queue((gateway, message.session), message, at)
                case Close():
                    session = self._open.get((gateway, message.session))
                    if session is not None and session.epoch <= message.epoch:
                        self._close((gateway, message.session))
                case DropGateway():
                    for key in [key for key in self._open if key[0] == gateway]:
                        self._close(key)
                case _:
                    assert_never(message)
        self._count()

    def _count(self) -> None:
        self.sessions = len(self._open)
        self._sessions_of = Counter(gateway for gateway, _ in self._open)

    def _open_session(self, key: Key, message: Open) -> None:
        if key in self._open:
            self._close(key)
        try:
            options = self._pool.engine.limits.check(message.options)
            if len(message.history) % 2:
                raise ValueError("history: not a whole number of samples")
            history = np.frombuffer(message.history, "<i2")
            reference = message.reference or None
            slot = self._pool.open(message.voice, history, options, session_seed(message.session), reference)
        except (PoolFull, OutOfMemory) as error:
            self._reply(key[0], Failed(message.session, message.epoch, "OVERLOADED", str(error)))
        except (UnknownVoice, VoiceError, ValueError) as error:
            self._reply(key[0], Failed(message.session, message.epoch, "INVALID_CONFIG", str(error)))
        except Exception as error:  # one session that cannot begin ends nobody else's
            for_session(message.session).exception("could not be opened, voice {}", message.voice)
            reason = f"could not be opened: {type(error).__name__}"
            self._reply(key[0], Failed(message.session, message.epoch, "INTERNAL_ERROR", reason))
        else:
            steps = self._planner.max_steps if options.steps is None else options.steps
            self._open[key] = _Session(message.epoch, slot, steps)
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
            self._refused += 1
            self._fail(key, chunk.epoch, fault)
            return
        samples = np.frombuffer(chunk.samples, "<i2")
        session.jobs.append(_Job(chunk.seq, samples, at, at + chunk.deadline_ms / 1000))

    def _listen(self) -> int:
        """Hear every session's next chunk once. Silence is answered at once; how many were."""
        keys = [key for key, session in self._open.items() if session.jobs and not session.speaks]
        if not keys:
            return 0
        now = self._clock()
        sessions = [self._open[key] for key in keys]
        heard = self._pool.listen([s.slot for s in sessions], [s.jobs[0].samples for s in sessions])
        silent = []
        for key, session, one in zip(keys, sessions, heard, strict=True):
            session.speaks = one.speech
            if one.error is not None:
                self._fail(key, session.epoch, one.error)
            elif not one.speech:
                silent.append(key)
        self._skip(silent, now, concealed=False)
        return len(silent)

    def _conceal(self, keys: list[Key], now: float) -> None:
        self.concealed += len(keys)
        for key in keys:
            for_session(key[1]).warning("chunk {} came too late: concealed", self._open[key].jobs[0].seq)
        self._skip(keys, now, concealed=True)

    def _skip(self, keys: list[Key], now: float, *, concealed: bool) -> None:
        if not keys:
            return
        made = self._pool.skip([self._open[key].slot for key in keys])
        for key, block in zip(keys, made.blocks, strict=True):
            self._answer(key, block, now, made.stages, batch_size=0, steps=0, concealed=concealed)

    def _convert(self, keys: list[Key], steps: int, now: float) -> int:
        """Convert and answer one batch; how many rows it had. Without memory for it, they wait for a smaller one.

        Where nobody in it asked for so many steps it takes fewer, but none that the planner would not take: their cost
        was measured, and CUDA's graphs were captured."""
        wanted = [self._open[key].steps for key in keys]
        steps = min(steps, max(self._planner.min_steps, *wanted))
        try:
            made = self._pool.convert([self._open[key].slot for key in keys], steps)
        except OutOfMemory as error:
            if self._planner.max_batch == 1:
                for key in keys:
                    self._fail(key, self._open[key].epoch, str(error))
                return len(keys)
            self._planner.halve()
            logger.error("{}: max_batch is {} from now on", error, self._planner.max_batch)
            return 0
        self._planner.cost.observe(len(keys), steps, 1e3 * (self._clock() - now))
        self.queue_ms = max(now - self._open[key].jobs[0].arrived_at for key in keys) * 1000
        for key, block, most in zip(keys, made.blocks, wanted, strict=True):
            if block.error is not None:
                self._fail(key, self._open[key].epoch, block.error)
            else:
                own = min(steps, most)
                self._answer(key, block, now, made.stages, batch_size=len(keys), steps=own, concealed=False)
        return len(keys)

    def _answer(
        self,
        key: Key,
        block: BlockOut,
        now: float,
        stages: StageTimes,
        *,
        batch_size: int,
        steps: int,
        concealed: bool,
    ) -> None:
        """Send the block for the session's first job, which is then done."""
        session = self._open[key]
        job = session.jobs.popleft()
        session.speaks = False
        session.missed = session.missed + 1 if concealed else 0
        stats = ChunkStats(
            queue_ms=max(0.0, now - job.arrived_at) * 1000,
            batch_size=batch_size,
            steps=steps,
            speech=block.speech,
            concealed=concealed,
            stages_ms=stages,
        )
        samples = block.samples.astype("<i2", copy=False).tobytes()
        self._reply(key[0], Audio(key[1], session.epoch, job.seq, samples, stats))

    def _fail(self, key: Key, epoch: int, reason: str) -> None:
        for_session(key[1]).error("failed: {}", reason)
        self._close(key)
        self._reply(key[0], Failed(key[1], epoch, "INTERNAL_ERROR", reason[:1000]))

    def _close(self, key: Key) -> None:
        session = self._open.pop(key)
        self._pool.close(session.slot)
        self._count()
        logger.debug("closed {}", key[1])
