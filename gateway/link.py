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

from gateway.seldom import Seldom
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
_LOOKS_PER_BEAT = 5  # for the silent: their blocks are due elsewhere
_SAY_AGAIN_S = 60.0
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
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

    def __init__(
        self,
        config: LinkConfig,
        on_bad_frame: Callable[[], None] = lambda: None,
        on_stranger: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Binds. Raises `LinkError`. `on_bad_frame` is told of every frame that is refused, `on_stranger` of every
        connection: "key" that is not listed, "handshake" that is none."""
        self._on_bad_frame, self._on_stranger = on_bad_frame, on_stranger
        self._allowed_dir = config.allowed_workers_dir
        self._seldom = Seldom(_SAY_AGAIN_S)
        self._keys: dict[bytes, bytes] = {}  # of the workers that were welcomed, where the link has keys
        self._loop = asyncio.get_running_loop()
        self._names: dict[bytes, str] = {}  # of the workers that were welcomed
        self._seen_at: dict[bytes, float] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._guard = authenticator(self._context, config, self._refuse_key)
        try:
            self._socket = bind_router(self._context, config)
        except BaseException:
            self._stop_guard()
            self._context.term()
            raise
        self.port = int(bytes(self._socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").rsplit(b":", 1)[1])
        self._watcher = monitor(self._socket, zmq.EVENT_DISCONNECTED | _FAILED)

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

    def refresh(self) -> None:
        """Read the allow-list again if it has changed; blocks, and may be called in a thread."""
        if self._guard is not None:
            self._guard.reload()
            self._loop.call_soon_threadsafe(self._lose_strangers)

    def _lose_strangers(self) -> None:
        """Workers whose key was taken from the list."""
        for identity, key in list(self._keys.items()):
            if self._guard is not None and not self._guard.allows(key):
                self._lose(identity, "its key is no longer in link.allowed_workers_dir")

    def _refuse_key(self, fingerprint: str, address: str) -> None:
        """Called by the allow-list's thread."""
        self._loop.call_soon_threadsafe(self._say_refused, fingerprint, address)

    def _say_refused(self, fingerprint: str, address: str) -> None:
        self._on_stranger("key")
        if (times := self._seldom.count(f"key {fingerprint}")) is not None:
            logger.warning(
                "a worker at {} is kept out ({} times): its key {} is not in link.allowed_workers_dir. If it is yours, "
                "copy its NAME.key to {}/ (`fast-vc keys list` shows fingerprints); it joins within seconds",
                address,
                times,
                fingerprint,
                self._allowed_dir,
            )

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
        self._keys.pop(identity, None)
        self._seen_at.pop(identity, None)

    # --- what comes -----------------------------------------------------------------------------------------

    def _receive(self) -> bool:
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        identity = frames[0].bytes
        try:
            if len(frames) != 2:
                raise MessageError(f"{len(frames) - 1} frames instead of one")
            message = decode_from_worker(frames[1].bytes)
        except MessageError as error:
            self._on_bad_frame()
            name = self._names.get(identity, "an unknown peer")
            if (times := self._seldom.count(f"frame of {name}")) is not None:
                logger.warning("refused a link frame of {} ({} times): {}", name, times, error)
            return True
        if isinstance(message, Hello):
            self._meet(identity, message, frames[1])
        elif identity in self._names:
            self._seen_at[identity] = self._loop.time()
            self._receiver.take(identity, message)
            if isinstance(message, Heartbeat):
                self._beat_to(identity)  # confirms the quota that it may have brought
        else:
            self._ask_again(identity)
        return True

    def _meet(self, identity: bytes, hello: Hello, frame: zmq.Frame) -> None:
        if self._guard is not None:
            key = str(frame.get("User-Id")).encode()  # as the handshake proved it
            if not self._guard.allows(key):
                return  # it has been taken from the list
            self._keys[identity] = key
        if hello.protocol != PROTOCOL_VERSION:
            if self._seldom.count(f"version of {hello.worker_id}") is not None:
                logger.error(
                    "worker {} speaks link protocol {}, not {}", hello.worker_id, hello.protocol, PROTOCOL_VERSION
                )
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
        if not (events := drain_monitor(self._watcher)):
            return False
        for _ in range(sum(event != zmq.EVENT_DISCONNECTED for event in events)):
            self._on_stranger("handshake")
            if (times := self._seldom.count("handshake")) is not None:
                logger.warning(
                    "a connection to the link's port was refused ({} times): it does not speak as a worker does, has "
                    "no CURVE keys, or was given the key of another gateway (link.server_key_file)",
                    times,
                )
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
            for _ in range(_LOOKS_PER_BEAT):
                self._bury()
                await asyncio.sleep(HEARTBEAT_INTERVAL_S / _LOOKS_PER_BEAT)

    def _bury(self) -> None:
        silent_since = self._loop.time() - DEAD_AFTER_S
        for identity, seen_at in list(self._seen_at.items()):
            if seen_at < silent_since:
                self._lose(identity, f"silent for {DEAD_AFTER_S:g} s")
