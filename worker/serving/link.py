"""The worker's side of the link: one thread, one connection to each gateway.

It says hello, beats while the engine makes progress, hands messages to the scheduler and sends its answers. A
connection that breaks or falls silent is replaced by a new one, under a new identity, after a pause.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import zmq
from loguru import logger

from shared.curve import fingerprint
from shared.link import (
    DEAD_AFTER_S,
    HEARTBEAT_INTERVAL_S,
    Keys,
    drain_monitor,
    make_dealer,
    monitor,
)
from shared.messages import (
    PROTOCOL_VERSION,
    FromWorker,
    GatewayHeartbeat,
    Goodbye,
    Heartbeat,
    Hello,
    MessageError,
    decode_from_gateway,
    encode,
)
from worker.serving.directory import Directory
from worker.serving.outbox import Outbox
from worker.serving.quota import Quotas
from worker.serving.scheduler import Scheduler

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_MESSAGES_A_TURN = 256
_SAY_AGAIN_S = 60.0
_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
)
_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | sum(_FAILED)


@dataclass(slots=True)
class _Connection:
    """One life of the way to a gateway."""

    number: int  # never used again, so that answers to an earlier life find nobody
    endpoint: str
    socket: zmq.Socket[bytes]
    watcher: zmq.Socket[bytes]
    up: bool = False
    seen_at: float = 0.0


@dataclass(slots=True)
class _Gateway:
    endpoint: str
    connection: _Connection | None = None
    pause_s: float = _FIRST_PAUSE_S
    retry_at: float = 0.0
    refused: int = field(default=0)


class WorkerLink:
    """Runs until `stop`. Every method but the constructor's thread body may be called from any thread."""

    def __init__(
        self,
        gateways: list[str],
        hello: Hello,
        keys: Keys | None,
        stuck_after_s: float,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_tick` is called by the thread with each heartbeat."""
        self.scheduler: Scheduler | None = None
        self._hello = hello
        self._keys = keys
        self._stuck_after_s = stuck_after_s
        self._on_tick = on_tick
        self._directory = Directory(gateways)
        self._endpoints: tuple[str, ...] = ()  # of the directory, as far as they have been followed
        self._gateways: list[_Gateway] = []
        self._by_number: dict[int, _Connection] = {}
        self._quotas = Quotas()
        self._next_number = 0
        self._outbox: Outbox[tuple[int, FromWorker]] = Outbox()
        self._goodbye: str | None = None  # said to every gateway that is or will be connected
        self._parting = False  # it is to be said to those that are
        self._stopping = False
        self.is_stuck = False  # the engine, as far as the last beat saw
        self._failed_at = -_SAY_AGAIN_S
        self.dropped = 0  # answers to gateways that are gone
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    @property
    def connected(self) -> int:
        """Gateways that are reached now."""
        return sum(connection.up for connection in list(self._by_number.values()))

    def start(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._directory.start()
        self._thread.start()

    def reply(self, connection: int, message: FromWorker) -> None:
        """Queue an answer; bounded by the gateways' credit."""
        self._outbox.put((connection, message))

    def say_goodbye(self, reason: str) -> None:
        """Tell all gateways that this worker drains."""
        self._goodbye, self._parting = reason, True
        self._outbox.wake()

    def stop(self) -> None:
        """Send what waits, close everything, and end the thread."""
        self._stopping = True
        self._directory.stop()
        self._outbox.wake()
        self._thread.join(5)
        self._outbox.close()

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self.scheduler is not None
        next_beat = 0.0
        while not self._stopping:
            now = time.monotonic()
            if now >= next_beat:
                self._beat(now)
                next_beat = now + HEARTBEAT_INTERVAL_S
            self._connect(now)
            self._wait(next_beat - now)
            self._flush()
        self._flush()
        for connection in list(self._by_number.values()):
            self._hang_up(connection)
        self._context.term()

    def _wait(self, timeout_s: float) -> None:
        poller = zmq.Poller()
        poller.register(self._outbox.socket, zmq.POLLIN)
        for connection in self._by_number.values():
            poller.register(connection.socket, zmq.POLLIN)
            poller.register(connection.watcher, zmq.POLLIN)
        ready = dict(poller.poll(max(0, round(min(timeout_s, 0.1) * 1000))))
        self._outbox.hush()
        for connection in list(self._by_number.values()):
            if connection.watcher in ready:
                self._watch(connection)
            if connection.socket in ready and connection.number in self._by_number:
                self._receive(connection)

    def _follow(self) -> None:
        """Gateways that have appeared are joined; of those that are gone, a connection that works is kept."""
        self._endpoints = self._directory.endpoints
        known = {gateway.endpoint for gateway in self._gateways}
        self._gateways += [_Gateway(endpoint) for endpoint in self._endpoints if endpoint not in known]
        for gateway in [one for one in self._gateways if one.endpoint not in self._endpoints]:
            if gateway.connection is None or not gateway.connection.up:
                self._gateways.remove(gateway)
                if gateway.connection is not None:
                    self._hang_up(gateway.connection)

    def _connect(self, now: float) -> None:
        if self._directory.endpoints is not self._endpoints:
            self._follow()
        for gateway in self._gateways:
            if gateway.connection is None and now >= gateway.retry_at:
                socket = make_dealer(self._context, self._keys, self._hello.worker_id)
                watcher = monitor(socket, _EVENTS)  # before it connects: a handshake that nobody sees is never answered
                socket.connect(gateway.endpoint)
                number, self._next_number = self._next_number, self._next_number + 1
                gateway.connection = _Connection(number, gateway.endpoint, socket, watcher)
                self._by_number[number] = gateway.connection

    def _watch(self, connection: _Connection) -> None:
        for event in drain_monitor(connection.watcher):
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                connection.up, connection.seen_at = True, time.monotonic()
                self._quotas.join(connection.number)
                self._share()
                self._introduce(connection)
            elif event in _FAILED:
                self._try_later(connection, event)
                return
            elif event == zmq.EVENT_DISCONNECTED and connection.up:
                self._lose(connection, "disconnected")
                return

    def _try_later(self, connection: _Connection, event: int) -> None:
        """There was no handshake. libzmq itself would not try again, or ten times a second."""
        now, quiet = time.monotonic(), True
        if now - self._failed_at > _SAY_AGAIN_S:
            self._failed_at, quiet = now, False
        reason = "the handshake failed: no gateway's link is there, or link.server_key_file is another gateway's key"
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH and self._keys is not None:
            name = fingerprint(self._keys.public)
            reason = f"this worker's key {name} is not allowed: it belongs into the gateway's link.allowed_workers_dir"
        self._lose(connection, reason, quiet=quiet)

    def _receive(self, connection: _Connection) -> None:
        assert self.scheduler is not None
        for _ in range(_MESSAGES_A_TURN):
            try:
                frame = connection.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            connection.seen_at = time.monotonic()
            try:
                message = decode_from_gateway(frame)
            except MessageError as error:
                logger.warning("refused a frame of {}: {}", connection.endpoint, error)
                continue
            if isinstance(message, GatewayHeartbeat):
                self._on_heartbeat(connection, message)
            else:
                self.scheduler.take(connection.number, message)

    def _on_heartbeat(self, connection: _Connection, beat: GatewayHeartbeat) -> None:
        gateway = self._gateway_of(connection)
        if beat.protocol != PROTOCOL_VERSION:
            self._lose(connection, f"speaks link protocol {beat.protocol}, this worker {PROTOCOL_VERSION}")
        elif not beat.known:
            self._introduce(connection)
        else:
            self._quotas.confirm(connection.number, beat.quota, beat.held)
            if gateway is not None and gateway.pause_s != _FIRST_PAUSE_S:
                gateway.pause_s = _FIRST_PAUSE_S

    def _beat(self, now: float) -> None:
        assert self.scheduler is not None
        for connection in list(self._by_number.values()):
            if connection.up and now - connection.seen_at > DEAD_AFTER_S:
                self._lose(connection, f"silent for {DEAD_AFTER_S:g} s")
        stuck = self.scheduler.stuck_for() > self._stuck_after_s
        if stuck != self.is_stuck:
            self.is_stuck = stuck
            logger.error("the engine is stuck: no more heartbeats" if stuck else "the engine goes on")
        if not stuck:
            scheduler = self.scheduler
            self._share()
            for connection in list(self._by_number.values()):
                if connection.up:
                    beat = Heartbeat(
                        scheduler.sessions_of(connection.number),
                        self._quotas.quota(connection.number),
                        scheduler.queue_ms,
                        scheduler.steps,
                        scheduler.refused,
                        self.dropped,
                    )
                    self._send(connection, beat)
        self._on_tick()

    def _share(self) -> None:
        """New quotas for the gateways that are connected."""
        assert self.scheduler is not None
        self._quotas.share(
            self.scheduler.capacity, {number: self.scheduler.sessions_of(number) for number in self._by_number}
        )

    def _introduce(self, connection: _Connection) -> None:
        self._send(connection, replace(self._hello, capacity=self._quotas.quota(connection.number)))
        if self._goodbye is not None:
            self._send(connection, Goodbye(self._goodbye))

    def _flush(self) -> None:
        if self._parting and self._goodbye is not None:
            self._parting = False
            for connection in list(self._by_number.values()):
                if connection.up:
                    self._send(connection, Goodbye(self._goodbye))
        for number, message in self._outbox.take():
            if number in self._by_number:
                self._send(self._by_number[number], message)
            else:
                self.dropped += 1

    def _send(self, connection: _Connection, message: FromWorker) -> None:
        try:
            connection.socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            self._lose(connection, "takes no more messages")

    def _lose(self, connection: _Connection, reason: str, *, quiet: bool = False) -> None:
        assert self.scheduler is not None
        gateway = self._gateway_of(connection)
        if gateway is None:
            return
        log = logger.debug if quiet else logger.warning
        log("gateway {}: {}; connecting anew in {:.1f} s", connection.endpoint, reason, gateway.pause_s)
        self.scheduler.drop_gateway(connection.number)
        self._hang_up(connection)
        gateway.connection = None
        gateway.retry_at = time.monotonic() + gateway.pause_s * random.uniform(0.8, 1.2)
        gateway.pause_s = min(_LONGEST_PAUSE_S, gateway.pause_s * 2)
        self._follow()

    def _hang_up(self, connection: _Connection) -> None:
        del self._by_number[connection.number]
        self._quotas.leave(connection.number)
        connection.socket.disable_monitor()
        connection.watcher.close(0)
        connection.socket.close()

    def _gateway_of(self, connection: _Connection) -> _Gateway | None:
        return next((g for g in self._gateways if g.connection is connection), None)
