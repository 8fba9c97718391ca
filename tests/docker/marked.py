"""Callers who come back by themselves, and workers in containers that mark what they convert: what is heard is judged
block by block, as in a chaos run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from tests.chaos.signals import MARK, Pcm, check, voice_of
from tools.client.client import CallConfig, CallError
from tools.client.resuming import ResumingCall, resuming_call

CALLERS = 10
# In place of the image's entry point.
PROGRAM = f"""
import worker.engines.passthrough as passthrough
from tools.service.cli import main

convert = passthrough.PassthroughEngine.convert

def marking(self, batch):
    samples, stages = convert(self, batch)
    return samples * {MARK}, stages

passthrough.PassthroughEngine.convert = marking
main()
"""
ENTRY = ["python", "/marking.py"]
CHEAP = {  # many calls fit, whatever else the machine does
    "FASTVC_ENV": "shift",
    "FASTVC_WORKER__MODEL": "passthrough",
    "FASTVC_WORKER__RMS_MIX_RATE": "1",
    "FASTVC_WORKER__MAX_SESSIONS": "64",
}
PATIENT = {  # a machine that is busy conceals nothing and takes no caller's wait for a pause: what is missing was lost
    "FASTVC_GATEWAY__LATENCY_BUDGET_MS": "30000",
    "FASTVC_GATEWAY__HOLD_MS": "8000",
}


async def keep_calling(url: str, key: str, seconds: float, trouble: Callable[[], None]) -> list[ResumingCall]:
    """What ten callers heard in calls of `seconds`, one after the other for as long as `trouble` lasts, in a thread."""
    waves = [voice_of(number, seconds) for number in range(CALLERS)]
    over = asyncio.Event()
    heard: set[int] = set()
    everybody = asyncio.Event()

    def on_answer(number: int) -> None:
        heard.add(number)
        if len(heard) == CALLERS:
            everybody.set()

    async def caller(number: int) -> list[ResumingCall]:
        made = []
        await asyncio.sleep(0.05 * number)
        while not over.is_set():
            config = CallConfig(url, key, session_id=f"caller-{number}-{len(made)}", timeout_s=20)
            try:
                async with aiohttp.ClientSession() as http:
                    on_mine = lambda ms: on_answer(number)  # noqa: E731
                    made.append(await resuming_call(http, config, waves[number], on_mine, give_up_after_s=120))
            except CallError as error:
                if not _not_let_in(error):
                    raise
                await asyncio.sleep(0.5)
                continue
            check_exact(number, waves[number], made[-1])
        return made

    calling = [asyncio.create_task(caller(number)) for number in range(CALLERS)]
    try:
        async with asyncio.timeout(60):
            await everybody.wait()
        await asyncio.sleep(2)
        await asyncio.to_thread(trouble)
    finally:
        over.set()
    return [one for several in await asyncio.gather(*calling) for one in several]


def check_exact(number: int, wave: Pcm, made: ResumingCall) -> None:
    """Every sample at its place, once, converted; where another stream began, faded in."""
    verdict = check(number, CALLERS, wave, made)
    assert not verdict.faults, (made.breaks, verdict.faults[:5])
    assert (verdict.concealed, made.concealed) == ([], 0), (verdict, made.breaks)
    assert len(verdict.joined) <= len(made.breaks)


def report(what: str, calls: list[ResumingCall]) -> None:
    """For whoever runs pytest with -rP."""
    away = [gap.back_at - gap.at for made in calls for gap in made.breaks]
    print(
        f"{what}: {len(calls)} calls, {len(away)} times somebody came back, within {max(away, default=0):.1f} s, "
        f"{sum(gap.new_stream for made in calls for gap in made.breaks)} times to a new stream"
    )


def _not_let_in(error: CallError) -> bool:
    """Nobody was cut off: a service that is full, or was just left, before the call began."""
    said = str(error)
    return "not made anew" not in said and ("OVERLOADED" in said or "before the session was ready" in said)
