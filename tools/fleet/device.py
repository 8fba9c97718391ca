"""One worker's scheduler at full length: block latency by the number of sessions, on a virtual clock.

The scheduler, the planner and the cost model are the worker's own; sound and engine are not there, a batch takes the
time that was measured.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.messages import CREDIT, Audio, Chunk, Open, Opened
from tools.fleet.costs import Device
from worker.engine import NO_OPTIONS
from worker.geometry import Geometry
from worker.serving.scheduler import Scheduler
from worker.streaming.pool import BlockOut, Heard, Step

BUDGET_MS = 2000.0  # gateway.latency_budget_ms
_TURN_S = 0.1  # that an idle scheduler waits at most


@dataclass(frozen=True, slots=True)
class Load:
    """What `sessions` callers of one worker meet. Latency is from a block being complete to its answer."""

    sessions: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    steps: float  # mean of what was converted
    concealed: float  # share of blocks that were spoken


class _Engine:
    name = "simulated"
    limits = NO_OPTIONS

    def prepare(self, budget_s: float) -> bool:
        return False


class _Device:
    """What a scheduler knows as its pool. Time passes in `convert` alone."""

    def __init__(self, device: Device, sessions: int) -> None:
        self.now = 0.0
        self.engine, self.max_sessions = _Engine(), sessions
        self.geometry = Geometry.from_ms(block_ms=device.block_ms, left_ms=device.block_ms)
        self._cost = device.planner().cost
        self._silence = np.zeros(self.geometry.block_samples_out, np.int16)
        self._slots = 0
        self.rows = self.step_rows = 0

    def open(self, *_: object) -> int:
        self._slots += 1
        return self._slots - 1

    def close(self, slot: int) -> None:
        pass

    def listen(self, slots: list[int], blocks: list[Any]) -> list[Heard]:
        return [Heard(bool(block[0])) for block in blocks]

    def skip(self, slots: list[int]) -> Step:
        return Step([BlockOut(self._silence, False)] * len(slots), {})

    def convert(self, slots: list[int], steps: int) -> Step:
        self.now += self._cost.ms(len(slots), steps) / 1000
        self.rows += len(slots)
        self.step_rows += steps * len(slots)
        return Step([BlockOut(self._silence, True)] * len(slots), {})


def measure(device: Device, sessions: int, *, talk: float, seconds: float = 20.0, seed: int = 0) -> Load:
    """`sessions` callers who began at random moments; `talk` of their blocks are speech, in spells of a few blocks."""
    dice = np.random.default_rng(seed)
    block_s = device.block_ms / 1000
    pool = _Device(device, max(1, sessions))
    latencies: list[float] = []
    concealed = spoken = 0
    sent: dict[tuple[str, int], float] = {}
    waiting: dict[str, list[tuple[int, bool, float]]] = {}
    flying: dict[str, int] = {}

    def reply(gateway: int, message: object) -> None:
        nonlocal concealed, spoken
        if isinstance(message, Opened) or not isinstance(message, Audio):
            return
        complete = sent.pop((message.session, message.seq))
        latencies.append((pool.now - complete) * 1000)
        spoken += message.stats.speech or message.stats.concealed
        concealed += message.stats.concealed
        flying[message.session] -= 1
        send(message.session)

    scheduler = Scheduler(pool, reply, device.planner(), clock=lambda: pool.now)  # type: ignore[arg-type]
    speech, hush = (np.full(pool.geometry.block_samples_in, value, "<i2").tobytes() for value in (1, 0))

    def send(session: str) -> None:
        while waiting[session] and flying[session] < CREDIT:
            seq, speaks, complete = waiting[session].pop(0)
            flying[session] += 1
            left_ms = max(0.0, BUDGET_MS - (pool.now - complete) * 1000)
            scheduler.take(0, Chunk(session, 0, seq, speech if speaks else hush, left_ms))

    arrivals: list[tuple[float, str, int, bool]] = []
    for number in range(sessions):
        name, at, speaks = f"s{number}", dice.uniform(0, block_s), bool(dice.random() < talk)
        waiting[name], flying[name] = [], 0
        scheduler.take(0, Open(name, 0, "any"))
        for seq in range(int(seconds / block_s)):
            if dice.random() < 0.25:
                speaks = bool(dice.random() < talk)
            heapq.heappush(arrivals, (at + seq * block_s, name, seq, speaks))
    scheduler.turn(0.0)
    while arrivals or sent:
        while arrivals and arrivals[0][0] <= pool.now:
            at, name, seq, speaks = heapq.heappop(arrivals)
            sent[name, seq] = at
            waiting[name].append((seq, speaks, at))
            send(name)
        if not scheduler.turn(0.0):
            pool.now = max(pool.now, arrivals[0][0]) if arrivals else pool.now + _TURN_S
    steady = np.asarray(latencies[len(latencies) // 5 :] or [0.0])
    p50, p95, p99 = np.percentile(steady, (50, 95, 99))
    return Load(
        sessions,
        round(float(p50), 1),
        round(float(p95), 1),
        round(float(p99), 1),
        round(pool.step_rows / max(1, pool.rows), 2),
        round(concealed / max(1, spoken), 5),
    )


def table(device: Device, *, talk: float, most: int | None = None) -> list[Load]:
    """Loads from an idle worker to a full one."""
    places = device.places if most is None else most
    counts = sorted({max(1, round(places * share)) for share in (0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)})
    return [measure(device, count, talk=talk) for count in counts]
