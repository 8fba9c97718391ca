"""A gateway and a worker of the simulated fleet: the real pool and the real quotas, messages that arrive at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

from gateway.blocks import BlockLayout
from gateway.metrics import Metrics
from gateway.pool import Pool
from gateway.stream import StreamSpec
from shared.messages import (
    PROTOCOL_VERSION,
    Close,
    FromGateway,
    Goodbye,
    Heartbeat,
    Hello,
    Open,
    Opened,
    VoiceInfo,
)
from worker.serving.quota import Quotas

PATIENCE_S = 15.0  # gateway.processing_timeout_s
MODEL, VOICE = "simulated", "one"
LAYOUT = BlockLayout(block_ms=500, delay_ms=120, rate_out=16_000, prefill_ms=375)
_VOICES = [VoiceInfo(VOICE, "")]


class _Unmetered:
    """Takes the place of every metric."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: object, **__: object) -> Any:
        return self


class Session:
    """What the pool moves about: a stream without sound."""

    at_worker: frozenset[int] = frozenset()

    def __init__(self, number: int, gateway: GatewayPart) -> None:
        self.spec = StreamSpec(str(number), VOICE, MODEL, LAYOUT)
        self.gateway = gateway
        self.gateway_life = gateway.life
        self.ends = 0.0
        self.epoch = 0
        self.moves = -1
        self.waits_since: float | None = None
        self._send: Callable[[FromGateway], None] | None = None

    def open_at(self, name: str, send: Callable[[FromGateway], None], history_ms: int) -> None:
        self.epoch += 1
        self.moves += 1
        self._send = send
        self.gateway.settled(self)
        send(Open(self.spec.session_id, self.epoch, VOICE))

    def orphan(self) -> None:
        self._send = None
        self.gateway.waiting[self] = None
        if self.waits_since is None:
            self.waits_since = self.gateway.clock()
            self.gateway.on_wait(self)

    def close(self) -> None:
        self.gateway.waiting.pop(self, None)
        if self._send is not None:
            self._send(Close(self.spec.session_id, self.epoch))
            self._send = None

    def on_opened(self) -> None:
        pass


class GatewayPart:
    """One gateway process. Needs a running event loop, whose turn never comes."""

    def __init__(
        self,
        number: int,
        zone: int,
        max_sessions: int,
        clock: Callable[[], float],
        on_move: Callable[[], None],
        on_wait: Callable[[Session], None],
    ) -> None:
        """on_move, on_wait: told of every session that is opened at another worker, and of each that finds none."""
        self.number, self.zone, self.clock = number, zone, clock
        self._on_move, self.on_wait = on_move, on_wait
        self.waited_s: list[float] = []
        self.life = 0
        self.restart(max_sessions)

    def restart(self, max_sessions: int) -> None:
        """As a new process: without callers, without workers."""
        self.alive = True
        self.life += 1
        self.sessions: dict[Session, None] = {}  # in the order they came, so that a seed is a day
        self.waiting: dict[Session, None] = {}  # of them, those without a worker
        self.connections: dict[bytes, tuple[WorkerPart, int]] = {}
        self.pool = Pool(
            self,
            cast(Metrics, _Unmetered()),
            default_model=MODEL,
            max_sessions=max_sessions,
            processing_timeout_s=PATIENCE_S,
            clock=self.clock,
        )

    def settled(self, session: Session) -> None:
        """It has a worker, the first or another."""
        if session.moves > 0:
            self._on_move()
        self.waiting.pop(session, None)
        if session.waits_since is not None:
            self.waited_s.append(self.clock() - session.waits_since)
            session.waits_since = None

    # --- the pool's link

    def send(self, identity: bytes, message: FromGateway) -> None:
        worker, number = self.connections[identity]
        worker.take(number, message)

    def forget(self, identity: bytes) -> None:
        self.connections.pop(identity, None)


class WorkerPart:
    """One worker process: its places, and who has them."""

    def __init__(self, number: int, zone: int, places: int, chance: random.Random) -> None:
        self.number, self.zone, self.places = number, zone, places
        self.alive = self.leaving = False
        self.most = 0
        self.quotas = Quotas(chance)
        self.joined: dict[int, tuple[GatewayPart, bytes]] = {}
        self._open: dict[int, set[str]] = {}
        self._life = self._next = 0
        self._shown: dict[int, tuple[int, int]] = {}

    @property
    def sessions(self) -> int:
        return sum(map(len, self._open.values()))

    def start(self, gateways: list[GatewayPart]) -> None:
        self.alive, self.leaving = True, False
        self._life += 1
        for gateway in gateways:
            if gateway.alive:
                self.join(gateway)

    def join(self, gateway: GatewayPart) -> None:
        number, self._next = self._next, self._next + 1
        identity = f"w{self.number}/{self._life}/{number}".encode()
        self._open[number] = set()
        self.joined[number] = gateway, identity
        self.quotas.join(number)
        self._share()
        gateway.connections[identity] = self, number
        quota = self.quotas.quota(number)
        hello = Hello(
            PROTOCOL_VERSION, f"w{self.number}", "there", 1, "cuda:0", MODEL, LAYOUT.block_ms, LAYOUT.delay_ms,
            2500, LAYOUT.rate_out, _VOICES, quota,
        )  # fmt: skip
        gateway.pool.welcome(identity, hello)
        self.quotas.confirm(number, *gateway.pool.account(identity))

    def leave(self, number: int) -> None:
        """The gateway of this connection is gone."""
        self.joined.pop(number)
        self._open.pop(number)
        self._shown.pop(number, None)
        self.quotas.leave(number)

    def say_goodbye(self) -> None:
        self.leaving = True
        for gateway, identity in list(self.joined.values()):
            gateway.pool.take(identity, Goodbye("upgrade"))

    def die(self, reason: str) -> None:
        self.alive = False
        for number, (gateway, identity) in list(self.joined.items()):
            gateway.connections.pop(identity, None)
            self.leave(number)
            gateway.pool.lose(identity, reason)

    def take(self, number: int, message: FromGateway) -> None:
        held = self._open.get(number)
        if held is None:
            return
        if isinstance(message, Open):
            held.add(message.session)
            self.most = max(self.most, self.sessions)
            gateway, identity = self.joined[number]
            gateway.pool.take(identity, Opened(message.session, message.epoch))
        elif isinstance(message, Close):
            held.discard(message.session)

    def beat(self) -> None:
        """Share places out, tell gateways, hear that they read it. Those for whom nothing changes are spared."""
        self._share()
        for number, (gateway, identity) in list(self.joined.items()):
            held, quota = len(self._open[number]), self.quotas.quota(number)
            if self._shown.get(number) == (held, quota) and not (gateway.waiting and quota > held):
                continue
            self._shown[number] = held, quota
            gateway.pool.take(identity, Heartbeat(held, quota, 0.0, 1))
            if number in self.joined:
                self.quotas.confirm(number, *gateway.pool.account(identity))

    def _share(self) -> None:
        self.quotas.share(self.places, {number: len(held) for number, held in self._open.items()})
