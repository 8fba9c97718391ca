"""The gateway's side of the link: one ROUTER socket, many workers.

It makes sure that both sides speak the same version, beats, notices who fell silent or whose connection broke, and
hands everything else to its receiver. Which session is with whom is not its business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

import zmq
from loguru import logger

from shared.config import LinkConfig
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
    FromGateway,
    FromWorker,
    GatewayHeartbeat,
    Heartbeat,
    Hello,
    MessageError,
    decode_from_worker,
    encode,
)

MAX_WORKERS = 1000
_PROBE_DELAYS_S = (0.0, 0.02, 0.1)  # the ROUTER learns of a broken connection just after its monitor does


class Receiver(Protocol):
    """Who the link works for. A worker is known by the identity of its connection."""

    def welcome(self, identity: bytes, hello: Hello) -> None:
        """A worker of our version has come."""
        ...

    def take(self, identity: bytes, message: FromWorker) -> None:
        """A message of a worker that was welcomed; never a `Hello`."""
        ...

    def lose(self, identity: bytes, reason: str) -> None:
        """A worker is gone."""
        ...

    def account(self, identity: bytes) -> tuple[int, int]:
        """The quota that a worker gave us last, and how many sessions we have there."""
        ...


class GatewayLink:
    """Lives on one event loop; every method is called there. `start` before the first message is due."""

    def __init__(self, config: LinkConfig, on_bad_frame: Callable[[], None] = lambda: None) -> None:
        """Binds. Raises `LinkError`. `on_bad_frame` is told of every frame that is refused."""
        self._on_bad_frame = on_bad_frame
        self._loop = asyncio.get_running_loop()
        self._names: dict[bytes, str] = {}  # of the workers that were welcomed
        self._seen_at: dict[bytes, float] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._guard = authenticator(self._context, config)
        try:
            self._socket = bind_router(self._context, config)
        except BaseException:
            self._stop_guard()
            self._context.term()
            raise
        self.port = int(bytes(self._socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").rsplit(b":", 1)[1])
        self._watcher = monitor(self._socket, zmq.EVENT_DISCONNECTED)

    def start(self, receiver: Receiver) -> None:
        """Hand messages to `receiver` from now on."""
        self._receiver = receiver
        self._io = LoopSocket(self._socket, self._receive)
        self._watch_io = LoopSocket(self._watcher, self._watch)
        self._beating = self._loop.create_task(self._beat())

    async def stop(self) -> None:
        """Leave the link. Sessions should be over."""
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)
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

    def send(self, identity: bytes, message: FromGateway) -> None:
        """Never blocks. A worker that cannot be reached is lost, a little later."""
        try:
            self._socket.send_multipart([identity, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self._loop.call_soon(self._lose, identity, error.strerror or str(error))
        self._io.poke()

    def forget(self, identity: bytes) -> None:
        """This connection of a worker has been replaced by another."""
        self._names.pop(identity, None)
        self._seen_at.pop(identity, None)

    # --- what comes -----------------------------------------------------------------------------------------

    def _receive(self) -> bool:
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        identity = frames[0]
        try:
            if len(frames) != 2:
                raise MessageError(f"{len(frames) - 1} frames instead of one")
            message = decode_from_worker(frames[1])
        except MessageError as error:
            self._on_bad_frame()
            logger.warning("refused a link frame of {}: {}", self._names.get(identity, "an unknown peer"), error)
            return True
        if isinstance(message, Hello):
            self._meet(identity, message)
        elif identity in self._names:
            self._seen_at[identity] = self._loop.time()
            self._receiver.take(identity, message)
            if isinstance(message, Heartbeat):
                self._beat_to(identity)  # confirms the quota that it may have brought
        else:
            self._ask_again(identity)
        return True

    def _meet(self, identity: bytes, hello: Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            logger.error("worker {} speaks link protocol {}, not {}", hello.worker_id, hello.protocol, PROTOCOL_VERSION)
            self._ask_again(identity)  # tells it our version
            return
        self._seen_at[identity] = self._loop.time()
        if identity in self._names:
            return
        if len(self._names) >= MAX_WORKERS:
            del self._seen_at[identity]
            logger.error("worker {} is refused: {} are connected", hello.worker_id, MAX_WORKERS)
            return
        self._names[identity] = hello.worker_id
        self._receiver.welcome(identity, hello)
        self._beat_to(identity)

    def _beat_to(self, identity: bytes) -> None:
        if identity in self._names:
            quota, held = self._receiver.account(identity)
            self.send(identity, GatewayHeartbeat(PROTOCOL_VERSION, known=True, quota=quota, held=held))

    def _ask_again(self, identity: bytes) -> None:
        frame = encode(GatewayHeartbeat(PROTOCOL_VERSION, known=False))
        with contextlib.suppress(zmq.ZMQError):  # it is gone already
            self._socket.send_multipart([identity, frame], zmq.NOBLOCK)
        self._io.poke()

    # --- who lives ------------------------------------------------------------------------------------------

    def _lose(self, identity: bytes, reason: str) -> None:
        if identity in self._names:
            self.forget(identity)
            self._receiver.lose(identity, reason)

    def _watch(self) -> bool:
        if not drain_monitor(self._watcher):
            return False
        for delay_s in _PROBE_DELAYS_S:
            self._loop.call_later(delay_s, self._probe)
        return True

    def _probe(self) -> None:
        """A beat to everyone: the ROUTER refuses one whose connection is gone."""
        if not self._socket.closed:
            for identity in list(self._names):
                self._beat_to(identity)

    async def _beat(self) -> None:
        while True:
            self._probe()
            silent_since = self._loop.time() - DEAD_AFTER_S
            for identity, seen_at in list(self._seen_at.items()):
                if seen_at < silent_since:
                    self._lose(identity, f"silent for {DEAD_AFTER_S:g} s")
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
