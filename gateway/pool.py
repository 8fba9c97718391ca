"""The workers' places: who is there, how many sessions each can take, and which session is with whom.

Sessions of a worker that is gone are opened again elsewhere; who finds no place waits for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, assert_never

from loguru import logger

from gateway.audio.resample import Pcm
from gateway.errors import SessionError, bad_field
from gateway.handover import Handovers
from gateway.metrics import Metrics
from gateway.offer import offered_models, offered_voices
from gateway.stream import Stream, StreamSpec
from gateway.workers import WorkerRecord, least_loaded
from shared.messages import (
    Audio,
    Failed,
    FromGateway,
    FromWorker,
    Goodbye,
    Heartbeat,
    Hello,
    Opened,
    VoiceInfo,
)
from shared.state import PooledWorker

_CHECK_INTERVAL_S = 0.05
_DEFAULT_HISTORY_MS = 1000
MAX_SESSIONS = 100_000  # of one worker
_SHED_AFTER_BEATS = 2  # a measurement may be a passing one
_SHED_EVERY_S = 5.0  # where every worker is slow, sessions are not to be sent round


class Link(Protocol):
    """What the pool needs of the link: see `gateway.link`."""

    def send(self, identity: bytes, message: FromGateway) -> None: ...

    def forget(self, identity: bytes) -> None: ...


class Reservation:
    """A place that is held for a caller from before the upgrade until the session has one, or gives up."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._held = True

    def release(self) -> None:
        if self._held:
            self._held = False
            self._pool.reserved -= 1


class Pool:
    """Lives on one event loop; every method is called there. A `Receiver` of the link."""

    def __init__(
        self,
        link: Link,
        metrics: Metrics,
        *,
        default_model: str,
        max_sessions: int,
        processing_timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.workers: dict[bytes, WorkerRecord] = {}
        self.reserved = 0
        self.default_model = default_model
        self._max_sessions = max_sessions
        self._timeout_s = processing_timeout_s
        self._link, self._metrics, self._clock = link, metrics, clock
        self._streams: dict[str, Stream] = {}
        self._worker_of: dict[str, WorkerRecord] = {}  # by session
        self._orphans: dict[str, Stream] = {}
        self._handovers = Handovers(link.send)
        self._checking = asyncio.get_running_loop().create_task(self._check())

    async def stop(self) -> None:
        """Sessions should be over."""
        self._checking.cancel()
        await asyncio.gather(self._checking, return_exceptions=True)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_INTERVAL_S)
            for stream in list(self._streams.values()):
                stream.check(self._clock(), self._timeout_s)

    # --- places ---------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Places that are neither taken nor held."""
        return sum(worker.free for worker in self.workers.values()) - self.reserved - len(self._orphans)

    def reserve(self) -> Reservation:
        """Hold a place. Raises `SessionError`."""
        if len(self._streams) + self.reserved >= self._max_sessions:
            raise SessionError("TOO_MANY_SESSIONS", f"this gateway serves {self._max_sessions} sessions at most")
        if self.free <= 0:
            raise SessionError("OVERLOADED", "no worker has a free place" if self.workers else "no worker is connected")
        self.reserved += 1
        return Reservation(self)

    def voices(self) -> list[VoiceInfo]:
        """Of all workers, those of the default model first: the first is the default."""
        return offered_voices(self.workers.values(), self.default_model)

    def pick(self, voice: str | None, model: str | None, *, brings_voice: bool = False) -> WorkerRecord:
        """The least loaded worker that has `voice` and `model`, or the default model. Raises `SessionError`.

        brings_voice: the caller has a recording of the voice.
        """
        wanted = self.default_model if model is None else model
        fitting = [w for w in self.workers.values() if w.hello.model == wanted]
        if self.workers and not fitting:
            known = ", ".join(sorted({w.hello.model for w in self.workers.values()}))
            if model is None:
                raise SessionError("OVERLOADED", f"no worker has the default model {wanted!r}; there are: {known}")
            raise bad_field("model", f"no {model!r}; there are: {known}")
        if brings_voice:
            taking = [w for w in fitting if w.takes_references]
            if fitting and not taking:
                raise bad_field("voice", f"the model {wanted!r} takes no recordings of callers")
            fitting = taking
        elif voice is not None:
            having = [w for w in fitting if voice in w.voices]
            if fitting and not having:
                known = ", ".join(sorted({v.name for w in fitting for v in w.hello.voices}))
                raise bad_field("voice", f"no {voice!r}; there are: {known}")
            fitting = having
        return least_loaded(fitting)

    def adopt(self, stream: Stream, worker: WorkerRecord) -> None:
        """Place a new stream. Raises `SessionError` if its id is in use."""
        session_id = stream.spec.session_id
        if session_id in self._streams:
            raise bad_field("session_id", f"{session_id!r} is in use")
        self._streams[session_id] = stream
        self._place(stream, worker)

    def rest(self, stream: Stream) -> None:
        """Its caller is away: it needs no place until `wake`."""
        self.leave(stream)

    def wake(self, stream: Stream) -> None:
        """Its caller is back; where there is no place for it now, it waits for one."""
        self._streams[stream.spec.session_id] = stream
        self._rehouse([stream])

    def recall(self, stream: Stream, samples: Pcm) -> None:
        """Open it again, where it is, with what was answered before it began."""
        stream.recall(samples)
        if (worker := self._worker_of.get(stream.spec.session_id)) is not None:
            self._place(stream, worker)

    def leave(self, stream: Stream) -> None:
        """The stream's session is over: its place is free."""
        stream.close()
        self._handovers.end(stream)
        session_id = stream.spec.session_id
        if self._streams.get(session_id) is stream:
            del self._streams[session_id]
            self._orphans.pop(session_id, None)
            self._unseat(session_id)

    def _place(self, stream: Stream, worker: WorkerRecord) -> None:
        session_id = stream.spec.session_id
        self._unseat(session_id)
        self._orphans.pop(session_id, None)
        worker.streams[session_id] = stream
        self._worker_of[session_id] = worker
        stream.open_at(worker.name, partial(self._link.send, worker.identity), self._history_ms(stream.spec))

    def _unseat(self, session_id: str) -> None:
        worker = self._worker_of.pop(session_id, None)
        if worker is not None:
            worker.streams.pop(session_id, None)

    def _history_ms(self, spec: StreamSpec) -> int:
        """Context that any worker of this kind wants when the session is opened again."""
        same = (w.hello.history_ms for w in self.workers.values() if w.hello.model == spec.model)
        return max(same, default=_DEFAULT_HISTORY_MS)

    def _rehouse(self, streams: Iterable[Stream]) -> None:
        """New places for sessions whose worker is gone; who finds none waits for one."""
        for stream in streams:
            try:
                worker = least_loaded([w for w in self.workers.values() if w.serves(stream.spec)])
            except SessionError:
                stream.orphan()
                self._orphans[stream.spec.session_id] = stream
            else:
                self._metrics.reopened.inc()
                self._place(stream, worker)

    # --- what workers say -----------------------------------------------------------------------------------

    def welcome(self, identity: bytes, hello: Hello) -> None:
        former = [w for w in self.workers.values() if w.name == hello.worker_id]
        self.workers[identity] = WorkerRecord(identity, hello, hello.capacity, hello.capacity)
        logger.info(
            "worker {} on {} ({}, {}, pid {}): {} places",
            hello.worker_id,
            hello.host,
            hello.model,
            hello.device,
            hello.pid,
            hello.capacity,
        )
        for old in former:
            self._link.forget(old.identity)
            self.lose(old.identity, "it connected anew")
        self._metrics.workers.set(len(self.workers))
        self._use_places()

    def lose(self, identity: bytes, reason: str) -> None:
        worker = self.workers.pop(identity, None)
        if worker is None:
            return
        self._metrics.workers.set(len(self.workers))
        self._metrics.on_worker_lost(worker.name)
        self._handovers.lose(identity)
        log = logger.info if worker.draining and not worker.streams else logger.warning
        log("worker {} is gone ({}); {} sessions move", worker.name, reason, len(worker.streams))
        streams = list(worker.streams.values())
        for stream in streams:
            self._unseat(stream.spec.session_id)
        self._rehouse(streams)

    def account(self, identity: bytes) -> tuple[int, int]:
        worker = self.workers[identity]
        return worker.quota, len(worker.streams)

    def take(self, identity: bytes, message: FromWorker) -> None:
        worker = self.workers[identity]
        match message:
            case Heartbeat():
                self._metrics.on_beat(worker.name, message)
                worker.capacity = worker.quota = message.capacity
                worker.queue_ms, worker.steps = message.queue_ms, message.steps
                self._use_places()
                self._shed(worker)
            case Goodbye():
                if not worker.draining:
                    logger.info("worker {} leaves: {}", worker.name, message.reason or "no reason given")
                worker.draining = True
                self._empty(worker)
            case Audio() | Opened() | Failed():
                self._deliver(worker, message)
            case Hello():
                pass  # the link's
            case _:
                assert_never(message)

    def _deliver(self, worker: WorkerRecord, message: Audio | Opened | Failed) -> None:
        if self._handovers.take(worker.identity, message):
            return
        stream = worker.streams.get(message.session)
        if stream is None or stream.epoch != message.epoch:
            if isinstance(message, Audio):
                self._metrics.dropped_answer()
            return  # of an earlier life
        match message:
            case Audio():
                stream.on_audio(message)
            case Opened():
                stream.on_opened()
            case Failed(code="OVERLOADED") if stream.opened.done():
                self._unseat(message.session)
                worker.capacity = min(worker.capacity, len(worker.streams))  # until its next beat
                self._rehouse([stream])
            case Failed():
                stream.on_failed(message)
            case _:
                assert_never(message)

    def _use_places(self) -> None:
        """There may be new places: first for who has none, then for who is with a worker that leaves."""
        self._rehouse(list(self._orphans.values()))
        for worker in self.workers.values():
            if worker.draining:
                self._empty(worker)

    def _shed(self, worker: WorkerRecord) -> None:
        """A worker that has become slower has more sessions than places: those that find one elsewhere are moved."""
        over = len(worker.streams) - worker.quota
        worker.over_beats = worker.over_beats + 1 if over > 0 else 0
        if worker.over_beats >= _SHED_AFTER_BEATS and self._clock() - worker.shed_at >= _SHED_EVERY_S:
            worker.shed_at = self._clock()
            before = len(worker.streams)
            self._empty(worker, most=over)
            if (moved := before - len(worker.streams)) > 0:
                logger.warning("worker {} has become slower: {} sessions move", worker.name, moved)

    def _empty(self, worker: WorkerRecord, most: int = MAX_SESSIONS) -> None:
        """Open its sessions elsewhere, the latest first, as far as there are places; the others stay with it."""
        for stream in list(reversed(worker.streams.values()))[:most]:
            if any(w.free > 0 and w is not worker and w.serves(stream.spec) for w in self.workers.values()):
                self._handovers.begin(worker.identity, stream)
                self._rehouse([stream])

    # --- for people -----------------------------------------------------------------------------------------

    def describe(self) -> list[PooledWorker]:
        """The workers, for `status`."""
        return [w.describe() for w in self.workers.values()]

    def models(self) -> list[dict[str, Any]]:
        """What callers may ask for as `model`, with what its workers have in common; the default first."""
        return offered_models(self.workers.values(), self.default_model)

    def session_ids(self) -> list[str]:
        return list(self._streams)
