"""The workers: who is there, who is alive, and which session is with whom.

The only place that touches the link's socket. Workers announce themselves, beat, and are dropped when they fall silent
or their connection breaks; their sessions are then opened again elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as net
from collections.abc import Iterable
from dataclasses import dataclass, field

import zmq
from loguru import logger

from gateway.metrics import Metrics
from gateway.protocols import SessionError
from gateway.stream import Stream
from shared.config import GatewayConfig, LinkConfig
from shared.curve import authenticator
from shared.link import (
    DEAD_AFTER_S,
    HEARTBEAT_INTERVAL_S,
    LoopSocket,
    bind_router,
    drain_monitor,
    monitor,
)
from shared.messages import (
    PROTOCOL_VERSION,
    Audio,
    Close,
    Failed,
    FromGateway,
    FromWorker,
    GatewayHeartbeat,
    Goodbye,
    Heartbeat,
    Hello,
    MessageError,
    Opened,
    VoiceInfo,
    decode_from_worker,
    encode,
)
from shared.state import PooledWorker

MAX_WORKERS = 1000
_CHECK_INTERVAL_S = 0.05
_PROBE_DELAYS_S = (0.0, 0.02, 0.1)  # the ROUTER learns of a broken connection just after its monitor does


@dataclass(eq=False, slots=True)
class WorkerRecord:
    """A worker as the gateway sees it."""

    identity: bytes
    hello: Hello
    seen_at: float
    capacity: int
    others: int = 0  # sessions of other gateways
    queue_ms: float = 0.0
    draining: bool = False
    streams: dict[str, Stream] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return 0 if self.draining else max(0, self.capacity - self.others - len(self.streams))

    @property
    def load(self) -> tuple[float, float]:
        return (self.others + len(self.streams)) / max(1, self.capacity), self.queue_ms


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
    """Lives on one event loop; every method is called there."""

    def __init__(self, config: GatewayConfig, link: LinkConfig, metrics: Metrics) -> None:
        self.config = config
        self.metrics = metrics
        self.workers: dict[bytes, WorkerRecord] = {}
        self.reserved = 0
        self._link = link
        self._streams: dict[str, Stream] = {}
        self._orphans: dict[str, Stream] = {}
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._guard = authenticator(self._context, link)
        try:
            self._socket = bind_router(self._context, link)
        except BaseException:
            self._stop_guard()
            self._context.term()
            raise
        self._port = int(bytes(self._socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").rsplit(b":", 1)[1])
        self._watcher = monitor(self._socket, zmq.EVENT_DISCONNECTED)
        self._io = LoopSocket(self._socket, self._receive)
        self._watch_io = LoopSocket(self._watcher, self._watch)
        self._tasks = [self._loop.create_task(self._beat()), self._loop.create_task(self._check())]

    @property
    def port(self) -> int:
        """Of the link, also where 0 was configured."""
        return self._port

    def now(self) -> float:
        return self._loop.time()

    async def stop(self) -> None:
        """Leave the link. Sessions should be over."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._io.close()
        self._watch_io.close()
        self._socket.disable_monitor()
        self._watcher.close(0)
        self._socket.close()
        self._stop_guard()
        await asyncio.to_thread(self._context.term)  # may linger

    def _stop_guard(self) -> None:
        if self._guard is not None:
            self._guard.stop()

    # --- places ---------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Places that are neither taken nor held."""
        return sum(worker.free for worker in self.workers.values()) - self.reserved - len(self._orphans)

    def reserve(self) -> Reservation:
        """Hold a place. Raises `SessionError`."""
        if len(self._streams) + self.reserved >= self.config.max_sessions:
            raise SessionError("TOO_MANY_SESSIONS", f"this gateway serves {self.config.max_sessions} sessions at most")
        if self.free <= 0:
            raise SessionError("OVERLOADED", "no worker has a free place" if self.workers else "no worker is connected")
        self.reserved += 1
        return Reservation(self)

    def voices(self) -> list[VoiceInfo]:
        """Of all workers, the first worker's first: it is the default."""
        known: dict[str, VoiceInfo] = {}
        for worker in self.workers.values():
            for voice in worker.hello.voices:
                known.setdefault(voice.name, voice)
        return list(known.values())

    def pick(self, voice: str | None, model: str | None) -> WorkerRecord:
        """The least loaded worker that has `voice` and `model`. Raises `SessionError`."""
        fitting = [w for w in self.workers.values() if model is None or w.hello.model == model]
        if self.workers and not fitting:
            known = ", ".join(sorted({w.hello.model for w in self.workers.values()}))
            raise SessionError("INVALID_CONFIG", f"model: no {model!r}; there are: {known}", {"fields": ["model"]})
        if voice is not None:
            having = [w for w in fitting if any(v.name == voice for v in w.hello.voices)]
            if fitting and not having:
                known = ", ".join(sorted({v.name for w in fitting for v in w.hello.voices}))
                raise SessionError("INVALID_CONFIG", f"voice: no {voice!r}; there are: {known}", {"fields": ["voice"]})
            fitting = having
        return _least_loaded(fitting)

    def adopt(self, stream: Stream, worker: WorkerRecord) -> None:
        """Place a new stream. Raises `SessionError` if its id is in use."""
        if stream.session_id in self._streams:
            raise SessionError(
                "INVALID_CONFIG", f"session_id: {stream.session_id!r} is in use", {"fields": ["session_id"]}
            )
        self._streams[stream.session_id] = stream
        self._place(stream, worker)

    def forget(self, stream: Stream) -> None:
        if self._streams.get(stream.session_id) is stream:
            del self._streams[stream.session_id]
            self._orphans.pop(stream.session_id, None)
            if stream.worker is not None:
                stream.worker.streams.pop(stream.session_id, None)

    def history_ms(self, stream: Stream) -> int:
        """Context that a worker of this stream's kind wants when the session is opened again."""
        return max((w.hello.history_ms for w in self.workers.values() if _serves(w, stream)), default=1000)

    def _place(self, stream: Stream, worker: WorkerRecord) -> None:
        if stream.worker is not None:
            stream.worker.streams.pop(stream.session_id, None)
        self._orphans.pop(stream.session_id, None)
        worker.streams[stream.session_id] = stream
        stream.assign(worker)

    def _rehouse(self, streams: Iterable[Stream]) -> None:
        """New places for sessions whose worker is gone; who finds none waits for one."""
        for stream in streams:
            try:
                worker = _least_loaded([w for w in self.workers.values() if _serves(w, stream)])
            except SessionError:
                stream.orphan()
                self._orphans[stream.session_id] = stream
            else:
                self.metrics.reopened.inc()
                self._place(stream, worker)

    # --- the link -------------------------------------------------------------------------------------------

    def send(self, worker: WorkerRecord, message: FromGateway) -> None:
        """Never blocks. A worker that cannot be reached is lost."""
        try:
            self._socket.send_multipart([worker.identity, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self._loop.call_soon(self._lose, worker, error.strerror or str(error))
        self._io.poke()

    def _receive(self) -> bool:
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        identity = frames[0]
        try:
            if len(frames) != 2:
                raise MessageError(f"{len(frames) - 1} frames instead of one")
            self._take(identity, decode_from_worker(frames[1]))
        except MessageError as error:
            self.metrics.bad_frames.inc()
            logger.warning("refused a link frame of {}: {}", _name(self.workers.get(identity)), error)
        return True

    def _take(self, identity: bytes, message: FromWorker) -> None:
        if isinstance(message, Hello):
            self._welcome(identity, message)
            return
        worker = self.workers.get(identity)
        if worker is None:
            self._ask_again(identity)
            return
        worker.seen_at = self.now()
        match message:
            case Heartbeat():
                worker.capacity, worker.queue_ms = message.capacity, message.queue_ms
                worker.others = max(0, message.sessions - len(worker.streams))
                self._rehouse(list(self._orphans.values()))
            case Goodbye():
                self._drain(worker, message.reason)
            case Audio() | Opened() | Failed():
                self._deliver(worker, message)

    def _deliver(self, worker: WorkerRecord, message: Audio | Opened | Failed) -> None:
        stream = worker.streams.get(message.session)
        if stream is None or stream.epoch != message.epoch:
            if isinstance(message, Audio):
                self.metrics.late.inc()
            return  # of an earlier life
        match message:
            case Audio():
                stream.on_audio(message)
            case Opened():
                stream.on_opened()
            case Failed(code="OVERLOADED") if stream.opened.done():
                worker.streams.pop(stream.session_id, None)
                worker.capacity = min(worker.capacity, worker.others + len(worker.streams))  # until its next beat
                self._rehouse([stream])
            case Failed():
                stream.on_failed(message)

    def _welcome(self, identity: bytes, hello: Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            logger.error("worker {} speaks link protocol {}, not {}", hello.worker_id, hello.protocol, PROTOCOL_VERSION)
            self._ask_again(identity)  # tells it our version
            return
        if identity in self.workers:
            self.workers[identity].seen_at = self.now()
            return
        if len(self.workers) >= MAX_WORKERS:
            logger.error("worker {} is refused: {} are connected", hello.worker_id, MAX_WORKERS)
            return
        former = [w for w in self.workers.values() if w.hello.worker_id == hello.worker_id]
        worker = WorkerRecord(identity, hello, self.now(), hello.capacity)
        self.workers[identity] = worker
        self.metrics.workers.set(len(self.workers))
        logger.info(
            "worker {} on {} ({}, {}): {} places",
            hello.worker_id,
            hello.host,
            hello.model,
            hello.device,
            hello.capacity,
        )
        for old in former:
            self._lose(old, "it connected anew")
        self.send(worker, GatewayHeartbeat(PROTOCOL_VERSION, known=True))
        self._rehouse(list(self._orphans.values()))

    def _ask_again(self, identity: bytes) -> None:
        frame = encode(GatewayHeartbeat(PROTOCOL_VERSION, known=False))
        with contextlib.suppress(zmq.ZMQError):  # it is gone already
            self._socket.send_multipart([identity, frame], zmq.NOBLOCK)
        self._io.poke()

    def _drain(self, worker: WorkerRecord, reason: str) -> None:
        if not worker.draining:
            logger.info("worker {} leaves: {}", worker.hello.worker_id, reason or "no reason given")
        worker.draining = True
        for stream in list(worker.streams.values()):
            others = [w for w in self.workers.values() if w.free > 0 and _serves(w, stream)]
            if others:
                from_epoch = stream.epoch
                self._rehouse([stream])
                self.send(worker, Close(stream.session_id, from_epoch))

    def _lose(self, worker: WorkerRecord, reason: str) -> None:
        if self.workers.get(worker.identity) is not worker:
            return
        del self.workers[worker.identity]
        self.metrics.workers.set(len(self.workers))
        self.metrics.workers_lost.inc()
        log = logger.info if worker.draining and not worker.streams else logger.warning
        log("worker {} is gone ({}); {} sessions move", worker.hello.worker_id, reason, len(worker.streams))
        streams, worker.streams = list(worker.streams.values()), {}
        for stream in streams:
            stream.worker = None
        self._rehouse(streams)

    def _watch(self) -> bool:
        if not drain_monitor(self._watcher):
            return False
        for delay_s in _PROBE_DELAYS_S:
            self._loop.call_later(delay_s, self._probe)
        return True

    def _probe(self) -> None:
        """A beat to everyone: the ROUTER refuses one whose connection is gone."""
        if not self._socket.closed:
            for worker in list(self.workers.values()):
                self.send(worker, GatewayHeartbeat(PROTOCOL_VERSION, known=True))

    async def _beat(self) -> None:
        while True:
            self._probe()
            silent_since = self.now() - DEAD_AFTER_S
            for worker in list(self.workers.values()):
                if worker.seen_at < silent_since:
                    self._lose(worker, f"silent for {DEAD_AFTER_S:g} s")
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_INTERVAL_S)
            for stream in list(self._streams.values()):
                stream.check(self.now(), self.config.processing_timeout_s)

    def describe(self) -> list[PooledWorker]:
        """The workers, for `status`."""
        return [
            PooledWorker(
                worker_id=w.hello.worker_id,
                pid=w.hello.pid,
                host=w.hello.host,
                device=w.hello.device,
                model=w.hello.model,
                sessions=len(w.streams) + w.others,
                capacity=w.capacity,
                draining=w.draining,
                local=w.hello.host == net.gethostname(),
            )
            for w in self.workers.values()
        ]

    def session_ids(self) -> list[str]:
        return list(self._streams)


def _serves(worker: WorkerRecord, stream: Stream) -> bool:
    hello, layout = worker.hello, stream.layout
    return (
        hello.model == stream.model
        and (hello.block_ms, hello.delay_ms, hello.sample_rate_out)
        == (layout.block_ms, layout.delay_ms, layout.rate_out)
        and any(voice.name == stream.voice for voice in hello.voices)
    )


def _least_loaded(workers: list[WorkerRecord]) -> WorkerRecord:
    free = [worker for worker in workers if worker.free > 0]
    if not free:
        raise SessionError("OVERLOADED", "no worker has a free place")
    return min(free, key=lambda worker: worker.load)


def _name(worker: WorkerRecord | None) -> str:
    return worker.hello.worker_id if worker is not None else "an unknown peer"
