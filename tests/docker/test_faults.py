"""Workers that are killed and scaled away, and a gateway that is replaced, while ten callers speak."""

from __future__ import annotations

import asyncio

import aiohttp
import numpy as np
import pytest

from tools.client.client import Call, CallConfig, call, read_source

from .conftest import KEY, SAMPLE, Stack, docker, until
from .marked import CALLERS, keep_calling, report

CALLS = 10
KILL_WORKERS = (
    "import os\n"
    "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
    "    if int(pid) not in (1, os.getpid()): os.kill(int(pid), 9)"
)


async def ten_calls(stack: Stack) -> list[asyncio.Task[Call]]:
    """Running, half a block apart."""
    wave = np.tile(read_source(SAMPLE, 16_000), 2)[: 16_000 * 12]

    async def one(number: int) -> Call:
        await asyncio.sleep(0.05 * number)
        async with aiohttp.ClientSession() as http:
            return await call(http, CallConfig(stack.url, KEY, session_id=f"caller-{number}"), wave)

    return [asyncio.create_task(one(number)) for number in range(CALLS)]


def check_exact(made: Call, most_concealed: int) -> None:
    assert made.complete is not None
    assert made.close_code == 1000
    assert made.complete["concealed_chunks"] <= most_concealed
    rate, block_ms = made.config.sample_rate_out, made.ready["block_ms"]
    blocks = -(-made.input_ms // block_ms)
    assert len(made.output()) in (
        (made.input_ms + made.lead_ms) * rate // 1000,
        (blocks * block_ms + made.ready["prefill_ms"]) * rate // 1000,
    )


@pytest.mark.timeout(300)
async def test_a_worker_killed_among_three_costs_ten_callers_a_block_at_most_and_comes_back(cheap: Stack) -> None:
    """Ten calls of 12 s in real time, and three workers to start."""
    cheap.up(workers=3)
    calls = await ten_calls(cheap)
    await asyncio.sleep(4)
    victim = cheap.containers("worker")[0]
    assert cheap.ready()["sessions"] == CALLS
    await asyncio.to_thread(docker, "exec", victim, "python", "-c", KILL_WORKERS, check=False)
    for made in await asyncio.gather(*calls):
        check_exact(made, most_concealed=1)
    await asyncio.to_thread(until, lambda: cheap.ready()["workers"] == 3)
    restarts = [one["RestartCount"] for one in cheap.inspect("worker")]
    assert sum(restarts) == 1


@pytest.mark.timeout(300)
async def test_scaling_from_three_to_one_costs_nobody_anything(cheap: Stack) -> None:
    """Ten calls of 12 s in real time, and three workers to start."""
    cheap.up(workers=3)
    calls = await ten_calls(cheap)
    await asyncio.sleep(4)
    await asyncio.to_thread(cheap.compose, "up", "--detach", "--no-build", "--scale", "worker=1")
    for made in await asyncio.gather(*calls):
        check_exact(made, most_concealed=1)
    assert cheap.ready()["workers"] == 1


@pytest.mark.timeout(300)
async def test_the_only_gateway_is_replaced_and_its_callers_come_back(marked: Stack) -> None:
    """Ten calls of 20 s in real time: the new container knows nothing of them but the key it signs with."""
    marked.up(workers=2)
    calls = await keep_calling(marked.url, KEY, 20, lambda: marked.recreate("gateway"))
    report("docker compose up --no-deps --force-recreate gateway", calls)
    assert sum(len(made.breaks) for made in calls) >= CALLERS
    assert all(gap.new_stream for made in calls for gap in made.breaks)
    until(lambda: marked.ready()["sessions"] == 0)
