"""Sockets of the link between gateway (ROUTER, binds) and workers (DEALER, connects), with safe options.

libzmq's defaults would drop messages to unknown peers in silence, queue without bound and wait for ever on close.
Here every queue is finite, an unroutable message is an error, an oversize frame closes its connection, a dead TCP peer
is noticed, and nothing blocks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import zmq
from zmq.utils.monitor import recv_monitor_message

from shared.addresses import bracketed
from shared.curve import Keys, LinkError, check_plain, load_keys
from shared.messages import MAX_FRAME_BYTES
from shared.settings import LinkConfig

HEARTBEAT_INTERVAL_S = 0.5
MISSED_HEARTBEATS = 3
DEAD_AFTER_S = HEARTBEAT_INTERVAL_S * MISSED_HEARTBEATS
QUEUE_MESSAGES = 4096  # a peer's high-water mark: two chunks of 400 sessions and their opens fit several times
LINGER_MS = 1000  # the last answers and a goodbye leave before a process ends
SWITCH_INTERVAL_S = 0.0005  # between threads: Python's 5 ms would be most of what a message may take
DRAIN_LIMIT = 256  # messages taken in one turn of the event loop


def _bound(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    interval_ms = round(HEARTBEAT_INTERVAL_S * 1000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, interval_ms)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, interval_ms * MISSED_HEARTBEATS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, interval_ms * MISSED_HEARTBEATS)
    socket.setsockopt(zmq.IPV6, 1)


def bind_router(context: zmq.Context[zmq.Socket[bytes]], config: LinkConfig) -> zmq.Socket[bytes]:
    """The gateway's socket. Raises `LinkError` when the port is taken or the host unknown."""
    check_plain(config.host, config)
    keys = load_keys(config, need_server=False)
    socket = context.socket(zmq.ROUTER)
    _bound(socket)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if keys is not None:
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
        socket.curve_server = True
    endpoint = f"tcp://{bracketed(config.host)}:{config.port}"
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(0)
        hint = " (another gateway? FASTVC_LINK__PORT chooses another)" if error.errno == zmq.EADDRINUSE else ""
        raise LinkError(f"link: cannot bind {endpoint}: {error.strerror}{hint}") from None
    return socket


def make_dealer(context: zmq.Context[zmq.Socket[bytes]], keys: Keys | None, name: str) -> zmq.Socket[bytes]:
    """A worker's socket, under an identity that no earlier connection had. It is not connected yet, so that whoever
    wants to see it connect can watch it first."""
    socket = context.socket(zmq.DEALER)
    _bound(socket)
    socket.setsockopt(zmq.IDENTITY, f"{name[:80]}/".encode() + os.urandom(8).hex().encode())
    if keys is not None:
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
        socket.curve_serverkey = keys.server
    return socket


def connect_dealer(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, keys: Keys | None, name: str
) -> zmq.Socket[bytes]:
    """`make_dealer`'s socket, on its way to ``endpoint``."""
    socket = make_dealer(context, keys, name)
    socket.connect(endpoint)
    return socket


def monitor(socket: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
    """A socket that reports `events` of `socket`; `disable_monitor` of `socket` ends it."""
    return socket.get_monitor_socket(events)


def drain_monitor(watcher: zmq.Socket[bytes]) -> list[int]:
    """The events that are waiting."""
    seen = []
    while int(watcher.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
        seen.append(int(recv_monitor_message(watcher)["event"]))
    return seen


class LoopSocket:
    """A ZeroMQ socket on an asyncio loop, without a task or a future per message.

    The socket's descriptor is edge-triggered: after every send or receive its events are read again, and what is left
    is taken in a later turn of the loop, so that a flood of one peer starves nobody.
    """

    def __init__(self, socket: zmq.Socket[bytes], on_readable: Callable[[], bool]) -> None:
        """`on_readable` takes one waiting message and says whether there was one."""
        self.socket = socket
        self._on_readable = on_readable
        self._loop = asyncio.get_running_loop()
        self._pending: asyncio.Handle | None = None
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        self.poke()

    def poke(self) -> None:
        """Look at the events again soon: call after each send."""
        if self._pending is None:
            self._pending = self._loop.call_soon(self._drain)

    def close(self) -> None:
        """Leave the loop; the socket itself stays open."""
        self._loop.remove_reader(self._fd)
        if self._pending is not None:
            self._pending.cancel()

    def _drain(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        for _ in range(DRAIN_LIMIT):
            if not self._on_readable():
                return
        self.poke()
