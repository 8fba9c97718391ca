"""What may go wrong under calls in real time, one function each, and what of it a caller may notice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import zmq

from shared.link import connect_dealer
from shared.messages import PROTOCOL_VERSION, Audio, ChunkStats, Hello, VoiceInfo, encode
from tests.chaos.line import Line
from tests.chaos.processes import KEY, Place, faketime_is_there, place
from tests.chaos.signals import check, voice_of
from tests.support.room import when_there_is_room
from tools.client.client import CallConfig
from tools.client.resuming import ResumingCall, resuming_call

_STEADY_S = 1.5  # of calls before the trouble begins, and after it ends
_DESCRIPTORS, _THREADS = 4, 4  # that a process may have more at the end: log files, pools that fill


@dataclass
class Trouble:
    """What a scenario does to a place, and what it has done."""

    place: Place
    rng: random.Random
    seconds: float
    line: Line | None = None
    faults: int = 0  # that were made
    recovered_s: list[float] = field(default_factory=list)

    async def back(self) -> None:
        """Until all workers are there again."""
        with suppress(TimeoutError):
            self.recovered_s.append(await self.place.until(lambda: self.place.workers_at() >= self.place.workers, 30))


@dataclass(frozen=True)
class Scenario:
    """concealed: blocks that each caller may lose for each fault."""

    name: str
    does: Callable[[Trouble], Awaitable[None]]
    concealed: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    through_a_line: bool = False  # of the test's, between workers and gateways
    seconds: float = 12.0
    needs_faketime: bool = False


@dataclass
class Result:
    """A row of the table."""

    name: str
    callers: int
    seconds: float
    faults: int
    breaks: int  # connections of callers that were lost and made anew
    away_s: float  # the longest of those
    recovered_s: float  # until all workers were there again
    concealed: int  # blocks, of all callers
    most: int  # of one caller
    blocks: int
    problems: list[str]

    @property
    def held(self) -> bool:
        return not self.problems


# --- troubles -------------------------------------------------------------------------------------------------------


async def replace(trouble: Trouble, name: str) -> None:
    """A process that was ended is started again, and what it served is back."""
    trouble.faults += 1
    await trouble.place.restart(name)
    await trouble.back()


async def kill_a_worker(trouble: Trouble) -> None:
    name = trouble.rng.choice(trouble.place.names("worker"))
    trouble.place.kill(name)
    await replace(trouble, name)


async def freeze_a_worker(trouble: Trouble) -> None:
    name = trouble.rng.choice(trouble.place.names("worker"))
    trouble.place.signal(name, signal.SIGSTOP)
    trouble.faults += 1
    await asyncio.sleep(4)
    trouble.place.signal(name, signal.SIGCONT)
    await trouble.back()


async def die_within_a_batch(trouble: Trouble) -> None:
    name = trouble.rng.choice(trouble.place.names("worker"))
    (trouble.place.folder / f"{name}.die").touch()
    await replace(trouble, name)


async def ask_a_worker_to_leave(trouble: Trouble) -> None:
    name = trouble.rng.choice(trouble.place.names("worker"))
    trouble.place.signal(name, signal.SIGTERM)
    await replace(trouble, name)


async def slow_a_worker_down(trouble: Trouble) -> None:
    slow = trouble.place.folder / "worker-0.slow"
    slow.write_text("250")
    trouble.faults += 1
    await asyncio.sleep(4)
    slow.unlink()


async def talk_nonsense(trouble: Trouble) -> None:
    """A worker that is none: garbage, and sound for sessions that others have."""
    context: zmq.Context[Any] = zmq.Context()
    sockets = [
        connect_dealer(context, f"tcp://127.0.0.1:{trouble.place.link_port + number}", None, "liar")
        for number in range(trouble.place.gateways)
    ]
    hello = Hello(
        PROTOCOL_VERSION, "liar", "h", 1, "cpu", "liar", 200, 80, 200, 16_000, [VoiceInfo("none")], capacity=0
    )
    stats = ChunkStats(0.0, 1, 1, True, False, {})
    end = time.monotonic() + 4
    try:
        while time.monotonic() < end:
            for socket in sockets:
                sound = trouble.rng.randbytes(6400)
                told = f"caller-{trouble.rng.randrange(50)}"
                frames = [
                    encode(hello),
                    encode(Audio(told, trouble.rng.randrange(3), trouble.rng.randrange(80), sound, stats)),
                    trouble.rng.randbytes(trouble.rng.randrange(1, 2000)),
                ]
                for frame in frames:
                    with suppress(zmq.Again):
                        socket.send(frame, zmq.NOBLOCK)
                        trouble.faults += 1
            await asyncio.sleep(0.02)
    finally:
        context.destroy(linger=0)


async def kill_a_gateway(trouble: Trouble) -> None:
    name = trouble.rng.choice(trouble.place.names("gateway"))
    trouble.place.kill(name)
    await replace(trouble, name)


async def roll_a_gateway(trouble: Trouble) -> None:
    name = trouble.rng.choice(trouble.place.names("gateway"))
    trouble.place.signal(name, signal.SIGTERM)
    await replace(trouble, name)


async def kill_anyone(trouble: Trouble) -> None:
    """One every 5 s."""
    end = time.monotonic() + trouble.seconds - 2 * _STEADY_S - 4
    while time.monotonic() < end:
        began = time.monotonic()
        names = trouble.place.names("worker") + trouble.place.names("gateway")
        name = trouble.rng.choice(names)
        trouble.place.kill(name)
        trouble.faults += 1
        await trouble.place.restart(name)
        await trouble.back()
        await asyncio.sleep(max(0.0, 5 - (time.monotonic() - began)))


async def cut_the_link(trouble: Trouble) -> None:
    assert trouble.line is not None
    trouble.line.cut()
    trouble.faults += 1
    await asyncio.sleep(1)
    trouble.line.heal()
    await trouble.back()


async def slow_the_link(trouble: Trouble) -> None:
    """100 ms later each way, and one part in twenty as late as TCP is when it must send it again."""
    assert trouble.line is not None
    trouble.line.delay_s, trouble.line.loss = 0.1, 0.05
    trouble.faults += 1
    await asyncio.sleep(max(3.0, trouble.seconds - 2 * _STEADY_S - 2))
    trouble.line.delay_s, trouble.line.loss = 0.0, 0.0


async def step_the_clock(trouble: Trouble) -> None:
    for step in ("+3600", "-7200", "+0"):
        trouble.place.clock.write_text(step)
        trouble.faults += 1
        await asyncio.sleep(1.5)


async def fill_the_disk(trouble: Trouble) -> None:
    """The calls' recordings do, and what states and logs want from then on has no room either."""
    trouble.faults += 1
    if trouble.place.has_disk:
        await trouble.place.until(lambda: os.statvfs(trouble.place.disk).f_bavail == 0, trouble.seconds)


async def everything(trouble: Trouble) -> None:
    nonsense = asyncio.create_task(talk_nonsense(Trouble(trouble.place, trouble.rng, trouble.seconds)))
    end = time.monotonic() + trouble.seconds - 15
    for does in (kill_a_worker, cut_the_link, roll_a_gateway, die_within_a_batch, kill_a_gateway, freeze_a_worker):
        if time.monotonic() < end:
            await does(trouble)
            await asyncio.sleep(1)
    await nonsense


async def a_bit_of_everything(trouble: Trouble) -> None:
    """What `make test` has time for: one every 2 s, whether or not the one before has a successor."""
    others = [asyncio.create_task(talk_nonsense(Trouble(trouble.place, trouble.rng, trouble.seconds)))]
    for name, number in (
        ("worker-0", signal.SIGKILL),
        ("gateway-0", signal.SIGKILL),
        ("worker-1", signal.SIGTERM),
        ("gateway-1", signal.SIGTERM),
    ):
        trouble.place.signal(name, number)
        trouble.faults += 1
        others.append(asyncio.create_task(trouble.place.restart(name)))
        await asyncio.sleep(2)
    await asyncio.gather(*others)


SELECTION = Scenario("a bit of everything", a_bit_of_everything, options={"gateways": 2, "workers": 3, "forked": True})
RECORDED = {"RECORDING__ENABLED": "true"}
SCENARIOS = (
    Scenario("a worker is killed", kill_a_worker),
    Scenario("a worker is frozen for 4 s", freeze_a_worker),
    Scenario("a worker exits within a batch", die_within_a_batch),
    Scenario("a worker is asked to leave", ask_a_worker_to_leave, concealed=0),
    Scenario("a worker becomes slow", slow_a_worker_down, concealed=10, seconds=16),
    Scenario("a worker talks nonsense", talk_nonsense, concealed=0),
    Scenario("the gateway is killed", kill_a_gateway, concealed=0),
    Scenario("a gateway of two is killed", kill_a_gateway, concealed=0, options={"gateways": 2}),
    Scenario("a gateway of two is rolled", roll_a_gateway, concealed=0, options={"gateways": 2}),
    Scenario("the link is cut for 1 s", cut_the_link, concealed=1, through_a_line=True),
    Scenario("the link is late and lossy", slow_the_link, concealed=0, through_a_line=True),
    Scenario("the clock is stepped", step_the_clock, concealed=0, options={"stepped_clock": True}, needs_faketime=True),
    Scenario("the disk is full", fill_the_disk, concealed=0, options={"small_disk": True, "settings": RECORDED}),
    Scenario("anyone is killed, every 5 s", kill_anyone, options={"gateways": 2, "workers": 3}, seconds=120),
    Scenario("all together", everything, options={"gateways": 2, "workers": 3}, through_a_line=True, seconds=90),
)


# --- a run ----------------------------------------------------------------------------------------------------------


async def run(scenario: Scenario, folder: Path, *, seed: int, callers: int, seconds: float | None = None) -> Result:
    """One scenario under `callers` calls in real time. What did not hold is in the result's problems."""
    seconds = scenario.seconds if seconds is None else seconds
    rng = random.Random(f"{seed} {scenario.name}")
    line = Line(rng) if scenario.through_a_line else None
    options = {**scenario.options, **({} if line is None else {"link_of": line.port_of})}
    if line is not None:
        await line.start(options.get("gateways", 1))
    try:
        with place(folder, **options) as where:
            if line is not None:
                line.lead_to(where.link_port)
            await where.until(lambda: where.workers_at() >= where.workers)
            trouble = Trouble(where, rng, seconds, line)
            return await _calls(scenario, trouble, callers)
    finally:
        if line is not None:
            await line.stop()


async def _calls(scenario: Scenario, trouble: Trouble, callers: int) -> Result:
    where, seconds = trouble.place, trouble.seconds
    waves = [voice_of(number, seconds) for number in range(callers)]
    before = await _settled(where)

    async def call(number: int) -> ResumingCall:
        await asyncio.sleep(trouble.rng.random() * 0.5)
        config = CallConfig(where.url, KEY, session_id=f"caller-{number}", real_time=True, timeout_s=20)
        async with aiohttp.ClientSession() as http:
            one = partial(resuming_call, http, config, waves[number])
            return await when_there_is_room(one, tries=10, pause_s=0.5)  # each gateway has to learn how many it has

    calls = [asyncio.create_task(call(number)) for number in range(callers)]
    await asyncio.sleep(_STEADY_S)
    problems = []
    try:
        await scenario.does(trouble)
    except (TimeoutError, OSError) as error:
        problems.append(f"the trouble itself: {error}")
    made = await asyncio.gather(*calls, return_exceptions=True)
    concealed, blocks, breaks = [], 0, []
    for number, one in enumerate(made):
        if isinstance(one, BaseException):
            problems.append(f"caller {number}: {type(one).__name__} {one}")
            continue
        verdict = check(number, callers, waves[number], one)
        problems += [f"caller {number}: {fault}" for fault in verdict.faults]
        concealed.append(len(verdict.concealed))
        blocks += verdict.converted + len(verdict.concealed)
        breaks += one.breaks
        if len(verdict.joined) > trouble.faults:
            problems.append(f"caller {number}: blocks {verdict.joined} are joined from two workers")
        allowed = scenario.concealed * max(1, trouble.faults)
        if len(verdict.concealed) > allowed:
            problems.append(f"caller {number}: {len(verdict.concealed)} blocks concealed, allowed are {allowed}")
    problems += await _leaks(where, before)
    return Result(
        scenario.name,
        callers,
        seconds,
        trouble.faults,
        len(breaks),
        max((gap.back_at - gap.at for gap in breaks), default=0.0),
        max(trouble.recovered_s, default=0.0),
        sum(concealed),
        max(concealed, default=0),
        blocks,
        problems,
    )


async def _settled(where: Place) -> dict[str, tuple[int, int]]:
    """What each process holds, once that does not change: on a busy machine links are made, and left, for a while."""
    held = where.held()
    for _ in range(20):
        await asyncio.sleep(1)
        before, held = held, where.held()
        if held == before:
            break
    return held


async def _leaks(where: Place, before: dict[str, tuple[int, int]]) -> list[str]:
    """Sessions, slots, descriptors and threads that are still there."""
    problems = []
    for name in ("fastvc_sessions", "fastvc_worker_sessions"):
        try:
            await where.until(lambda name=name: where.figure(name) == 0, 10)  # type: ignore[misc]
        except (TimeoutError, OSError):
            problems.append(f"{name} is not 0 at the end")
    for name, (descriptors, threads) in (await _settled(where)).items():
        if name in before:
            more = descriptors - before[name][0], threads - before[name][1]
            if more[0] > _DESCRIPTORS or more[1] > _THREADS:
                problems.append(f"{name}: {more[0]} descriptors and {more[1]} threads more than before")
    return problems


def can_run(scenario: Scenario) -> bool:
    return faketime_is_there() or not scenario.needs_faketime
