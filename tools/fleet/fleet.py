"""A day of a fleet: callers come and go, a zone is lost, an upgrade rolls, on a virtual clock.

Events lie in a heap; nothing waits. Gateways place sessions with the real pool, workers share places with the real
quotas; heartbeats are `beat_s` apart. A caller who is refused comes again after `retry_s`, at whichever gateway, a
few times, and then gives up. One whose gateway dies or leaves comes again at once.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from loguru import logger

from gateway.errors import SessionError
from tools.fleet.costs import Device
from tools.fleet.day import Day
from tools.fleet.device import Load
from tools.fleet.parts import PATIENCE_S, GatewayPart, Session, WorkerPart

RETRIES = 3
BROKEN_AFTER_S = 1.5  # three heartbeats: a zone that is gone says nothing
_LEAVES_WITHIN_S = 30.0  # worker.shutdown_grace_s


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated. Seconds of the day; shares of the whole."""

    workers: int
    gateways: int
    zones: int
    begin: float
    end: float
    beat_s: float = 1.0
    retry_s: float = 2.0
    max_sessions: int = 400  # of a gateway process
    zone_lost_at: float | None = None
    zone_lost_s: float = 900.0
    upgrade_at: float | None = None
    upgrade_at_once: int = 1  # workers, and gateways after them
    restart_s: float = 60.0  # until a worker has measured itself, and joins
    seed: int = 0


@dataclass(slots=True)
class Span:
    """What happened in one span of time."""

    begin: float
    calls: int = 0  # that came
    refusals: int = 0  # knocks without a place
    gave_up: int = 0
    dropped: int = 0  # cut off by their gateway's end
    lost: int = 0  # ended because no worker was found in time
    moved: int = 0  # opened at another worker
    sessions: int = 0  # at its end
    places: int = 0
    latency: Counter[int] = field(default_factory=Counter)  # session samples by load of their worker, in sessions


@dataclass(slots=True)
class Outcome:
    """Of a whole run."""

    spans: list[Span]
    waits_s: list[float]  # of sessions that had no worker for a while
    beyond: int  # sessions above a worker's places, at the worst
    real_s: float
    placing_us: float  # real time that the pool's code took to place one call


class Fleet:
    """`run` once."""

    def __init__(self, plan: Plan, device: Device, day: Day, span_s: float = 3600.0) -> None:
        self.plan, self.device, self.day, self.span_s = plan, device, day, span_s
        self.now = plan.begin
        self._dice = np.random.default_rng(plan.seed)
        self._chance = random.Random(plan.seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count()
        self._spans: list[Span] = []
        self._placing = [0.0, 0]

    def run(self) -> Outcome:
        """Blocks; nothing else may need this thread's event loop."""
        began = time.perf_counter()
        with _silent():
            asyncio.run(self._main())
        waits = [seconds for gateway in self._gateways for seconds in gateway.waited_s]
        beyond = max(0, *(worker.most - worker.places for worker in self._workers), 0)
        seconds, calls = self._placing
        return Outcome(self._spans, waits, beyond, time.perf_counter() - began, 1e6 * seconds / max(1, calls))

    async def _main(self) -> None:
        """Never lets the loop turn, so that the pools' own timers stay out of it."""
        plan = self.plan
        self._spans.append(Span(plan.begin))
        self._gateways = [
            GatewayPart(n, n % plan.zones, plan.max_sessions, lambda: self.now, self._moved, self._waits)
            for n in range(plan.gateways)
        ]
        self._workers = [WorkerPart(n, n % plan.zones, self.device.places, self._chance) for n in range(plan.workers)]
        for worker in self._workers:
            worker.start(self._gateways)
            for _ in range(3):
                worker.beat()  # until every gateway has its part
        for number, worker in enumerate(self._workers):
            self._at(plan.begin + plan.beat_s * number / plan.workers, self._beats(worker))
        self._at(plan.begin + self.span_s / 12, self._sample)
        if plan.zone_lost_at is not None:
            self._at(plan.zone_lost_at, self._lose_zone)
        if plan.upgrade_at is not None:
            self._at(plan.upgrade_at, self._upgrade)
        calls = self.day.calls(plan.begin, plan.end, self._dice)
        self._next_call(calls)
        while self._heap and self._heap[0][0] < plan.end:
            self.now, _, act = heapq.heappop(self._heap)
            act()
        self._close_span()

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), act))

    def _moved(self) -> None:
        self._spans[-1].moved += 1

    def _waits(self, session: Session) -> None:
        began = self.now

        def give_up() -> None:
            if session in session.gateway.waiting and session.waits_since == began:
                self._spans[-1].lost += 1
                self._end(session)

        self._at(self.now + PATIENCE_S, give_up)

    def _end(self, session: Session) -> None:
        session.gateway.sessions.pop(session, None)
        session.gateway.pool.leave(session)  # type: ignore[arg-type]

    # --- callers

    def _next_call(self, calls: Iterator[tuple[float, float]]) -> None:
        coming = next(calls, None)
        if coming is None:
            return
        at, length_s = coming

        def come() -> None:
            self._spans[-1].calls += 1
            self._knock(length_s, RETRIES)
            self._next_call(calls)

        self._at(at, come)

    def _knock(self, length_s: float, retries: int) -> None:
        alive = [gateway for gateway in self._gateways if gateway.alive]
        session = self._place(alive[self._chance.randrange(len(alive))]) if alive else None
        if session is None:
            self._spans[-1].refusals += 1
            if retries:
                delay_s = self.plan.retry_s * self._chance.uniform(0.5, 1.5)
                self._at(self.now + delay_s, lambda: self._knock(length_s, retries - 1))
            else:
                self._spans[-1].gave_up += 1
            return
        ends = self.now + length_s

        def hang_up() -> None:
            if not session.gateway.alive or session.gateway_life != session.gateway.life:
                return  # it was cut off, and went on elsewhere
            if session in session.gateway.sessions:
                self._end(session)

        session.ends = ends
        session.gateway.sessions[session] = None
        self._at(ends, hang_up)

    def _place(self, gateway: GatewayPart) -> Session | None:
        began = time.perf_counter()
        try:
            reservation = gateway.pool.reserve()
            try:
                worker = gateway.pool.pick(None, None)
                session = Session(next(self._numbers), gateway)
                gateway.pool.adopt(session, worker)  # type: ignore[arg-type]
            finally:
                reservation.release()
        except SessionError:
            return None
        self._placing[0] += time.perf_counter() - began
        self._placing[1] += 1
        return session

    # --- the fleet

    def _beats(self, worker: WorkerPart) -> Callable[[], None]:
        def beat() -> None:
            if worker.alive:
                worker.beat()
            self._at(self.now + self.plan.beat_s, beat)

        return beat

    def _lose_zone(self) -> None:
        """Zone 0: its gateways' callers are cut off, its workers' sessions go elsewhere once they are missed."""
        lost_workers = [worker for worker in self._workers if worker.zone == 0 and worker.alive]
        lost_gateways = [gateway for gateway in self._gateways if gateway.zone == 0 and gateway.alive]
        for gateway in lost_gateways:
            self._end_gateway(gateway, back_s=self.plan.zone_lost_s)

        def missed() -> None:
            for worker in lost_workers:
                worker.die(f"silent for {BROKEN_AFTER_S:g} s")

        self._at(self.now + BROKEN_AFTER_S, missed)
        for worker in lost_workers:
            self._at(self.now + self.plan.zone_lost_s + self.plan.restart_s, self._starts(worker))

    def _starts(self, worker: WorkerPart) -> Callable[[], None]:
        return lambda: worker.start(self._gateways)

    def _end_gateway(self, gateway: GatewayPart, back_s: float) -> None:
        sessions = list(gateway.sessions)
        gateway.sessions.clear()
        gateway.alive = False
        for worker, number in list(gateway.connections.values()):
            worker.leave(number)
        gateway.connections.clear()
        self._spans[-1].dropped += len(sessions)
        for session in sessions:
            left_s = session.ends - self.now
            self._at(self.now + self._chance.uniform(0, 2), partial(self._knock, left_s, RETRIES))
        self._at(self.now + back_s, lambda: self._begin_gateway(gateway))

    def _begin_gateway(self, gateway: GatewayPart) -> None:
        gateway.restart(self.plan.max_sessions)
        for worker in self._workers:
            if worker.alive and not worker.leaving:
                worker.join(gateway)

    def _upgrade(self) -> None:
        """Workers, a few at a time; then gateways one by one."""
        todo = list(self._workers)

        def next_workers() -> None:
            group = [todo.pop(0) for _ in range(min(self.plan.upgrade_at_once, len(todo)))]
            if not group:
                self._upgrade_gateways(list(self._gateways))
                return
            for worker in group:
                if worker.alive:
                    worker.say_goodbye()
                    self._at(self.now + _LEAVES_WITHIN_S, partial(worker.die, "it has left"))
                    self._at(self.now + _LEAVES_WITHIN_S + self.plan.restart_s, self._starts(worker))
            self._at(self.now + _LEAVES_WITHIN_S + self.plan.restart_s + 1, next_workers)

        next_workers()

    def _upgrade_gateways(self, todo: list[GatewayPart]) -> None:
        if todo:
            gateway = todo.pop(0)
            if gateway.alive:
                self._end_gateway(gateway, back_s=5.0)
            self._at(self.now + 15.0, lambda: self._upgrade_gateways(todo))

    # --- what is seen

    def _sample(self) -> None:
        span = self._spans[-1]
        for worker in self._workers:
            if worker.alive and worker.sessions:
                span.latency[worker.sessions] += worker.sessions
        self._at(self.now + self.span_s / 12, self._sample)
        if self.now - span.begin >= self.span_s - 1e-6:
            self._close_span()
            self._spans.append(Span(self.now))

    def _close_span(self) -> None:
        span = self._spans[-1]
        span.sessions = sum(len(gateway.pool.session_ids()) for gateway in self._gateways if gateway.alive)
        span.places = sum(worker.places for worker in self._workers if worker.alive and not worker.leaving)


def latency_of(span: Span, loads: list[Load]) -> tuple[float, float]:
    """Median and 95th percentile, in the mean over the span's sessions, from what a worker of that load was seen to
    do."""
    if not span.latency:
        return 0.0, 0.0
    counts = np.array([load.sessions for load in loads], float)
    had = np.array(list(span.latency), float)
    weights = np.array(list(span.latency.values()), float)
    p50 = np.interp(had, counts, [load.p50_ms for load in loads])
    p95 = np.interp(had, counts, [load.p95_ms for load in loads])
    return float(np.average(p50, weights=weights)), float(np.average(p95, weights=weights))


@contextmanager
def _silent() -> Iterator[None]:
    """A line for every session that moves would be most of the time."""
    logger.disable("gateway")
    logger.disable("worker")
    try:
        yield
    finally:
        logger.enable("gateway")
        logger.enable("worker")
