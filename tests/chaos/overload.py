"""Three times as many callers as a worker has places: who is let in is served, who is not is told at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np

from tests.chaos.processes import KEY, place
from tests.chaos.signals import check, voice_of
from tools.client.client import CallConfig, CallError
from tools.client.resuming import resuming_call
from tools.client.stats import call_stats

_TIMES = 3


@dataclass
class Overload:
    """What happened to whom."""

    places: int
    admitted: int
    refused: int
    refused_ms: float  # from the first message to the refusal: the slowest
    connected_ms: float  # the same from before the connection
    real_time_factor_p95: float  # of the slowest of those who were let in
    problems: list[str]


async def overload(folder: Path, *, places: int, seconds: float, forked: bool = False) -> Overload:
    """Every caller's blocks are complete at the same moments. forked: the service's processes are (see `Place`)."""
    settings = {"WORKER__MAX_SESSIONS": places, "GATEWAY__REFUSALS_PER_S": 1000}
    with place(folder, workers=1, settings=settings, forked=forked) as where:
        await where.until(lambda: where.workers_at() == 1)
        before = where.held()
        waves = [voice_of(number, seconds) for number in range(_TIMES * places)]
        refused: list[tuple[float, float, float]] = []
        made = {}

        async def call(number: int) -> None:
            async with aiohttp.ClientSession() as http:
                began = time.monotonic()
                async with http.ws_connect(where.url) as socket:
                    sent = time.monotonic()
                    await socket.send_json({"type": "config", "api_key": KEY, "session_id": f"probe-{number}"})
                    content = await socket.receive_json()
                    now = time.monotonic()
                if content["type"] == "error":
                    refused.append((now - sent, now - began, content["details"]["retry_after_s"]))

        async def talk(number: int) -> None:
            async with aiohttp.ClientSession() as http:
                made[number] = await resuming_call(http, CallConfig(where.url, KEY), waves[number])

        talking = [asyncio.create_task(talk(number)) for number in range(places)]
        await where.until(lambda: where.figure("fastvc_sessions") == places)
        await asyncio.gather(*(call(number) for number in range((_TIMES - 1) * places)))
        results = await asyncio.gather(*talking, return_exceptions=True)
        problems = [str(one) for one in results if isinstance(one, CallError | OSError)]
        factors = []
        for number, one in made.items():
            verdict = check(number, places, waves[number], one)
            problems += [f"caller {number}: {fault}" for fault in verdict.faults]
            problems += [f"caller {number}: block {block} concealed" for block in verdict.concealed]
            factors.append(float(np.nan_to_num(call_stats(one)["from_due"]["real_time_factor"]["p95"])))
        problems += [f"retry_after_s {retry}" for _, _, retry in refused if not retry > 0]
        problems += [f"{name} is gone" for name in before if name not in where.held()]
        return Overload(
            places,
            len(made),
            len(refused),
            1000 * max((one for one, _, _ in refused), default=0.0),
            1000 * max((one for _, one, _ in refused), default=0.0),
            max(factors, default=0.0),
            problems,
        )
