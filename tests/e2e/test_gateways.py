"""`fast-vc serve --gateways 3`: one port, one pool of places, one answer whoever is asked."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest

from shared.addresses import free_ports
from shared.state import GatewayState, read_states
from tests.support.waiting import until
from tools.client.client import Call, CallConfig, CallError, call, read_source
from tools.client.resuming import ResumingCall, resuming_call

from ..support.room import when_there_is_room
from .conftest import KEY, SAMPLE, Serve, is_alive

GATEWAYS = 3
PLACES = 16  # of the one worker: worker.max_sessions


pytestmark = pytest.mark.serial  # one of them is, and they share what took long to start


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """The last of its tests kills it."""
    serve = Serve(tmp_path_factory.mktemp("several")).start(
        WORKER__MODEL="passthrough",
        WORKER__RMS_MIX_RATE=1,
        GATEWAY__PROCESSES=GATEWAYS,
        LINK__PORT=free_ports(GATEWAYS),
    )
    yield serve
    if serve.process.poll() is None:
        serve.stop()


def gateways(serve: Serve) -> list[GatewayState]:
    return [state for state in read_states(serve.folder / "temp") if isinstance(state, GatewayState)]


def quotas(serve: Serve) -> list[int]:
    return [sum(worker.capacity for worker in state.workers) for state in gateways(serve)]


def metrics(serve: Serve) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{serve.port}/metrics", timeout=5) as response:
        text: str = response.read().decode()
    return text


async def talk(serve: Serve, seconds: float) -> Call:
    wave = np.tile(read_source(SAMPLE, 16_000), 3)[: int(16_000 * seconds)]
    async with aiohttp.ClientSession() as http:
        return await when_there_is_room(lambda: call(http, CallConfig(serve.url, KEY), wave))


async def talk_through_breaks(serve: Serve, wave: np.ndarray[Any, Any]) -> ResumingCall:
    async with aiohttp.ClientSession() as http:
        return await when_there_is_room(lambda: resuming_call(http, CallConfig(serve.url, KEY), wave))


def test_whoever_is_asked_speaks_for_all(several: Serve) -> None:
    share = PLACES // GATEWAYS

    def shared_out() -> bool:  # before the last has met the worker, the others have all of it
        held = quotas(several)
        return len(held) == GATEWAYS and sum(held) == PLACES and all(quota in (share, share + 1) for quota in held)

    several.until(shared_out)
    for _ in range(8):  # the kernel hands connections to all three
        status, body = several.get("/ready")
        assert (status, body["workers"], body["free"]) == (200, 1, PLACES)
        text = metrics(several)
        assert set(re.findall(r'^fastvc_sessions\{process="(\d)"\}', text, re.MULTILINE)) == {"0", "1", "2"}
        assert text.count("# TYPE fastvc_sessions gauge") == 1
    status = several.status()
    assert sorted(p["role"] for p in status["processes"]) == ["gateway"] * GATEWAYS + ["serve", "worker"]
    assert [worker["capacity"] for worker in status["workers"]] == [PLACES]


async def test_a_killed_gateway_costs_its_own_callers_alone_and_comes_back(several: Serve) -> None:
    """Nine calls of 12 s in real time: it takes long to start, to kill and to see the new process.

    Three others come back by themselves, and lose nothing.
    """
    await asyncio.to_thread(several.until, lambda: sum(quotas(several)) == PLACES and min(quotas(several)) >= 5)
    calls = []
    for _ in range(9):
        calls.append(asyncio.create_task(talk(several, 12)))
        await asyncio.sleep(0.2)
    wave = np.tile(read_source(SAMPLE, 16_000), 3)[: 16_000 * 12]
    coming_back = [asyncio.create_task(talk_through_breaks(several, wave)) for _ in range(3)]
    await asyncio.to_thread(several.until, lambda: sum(state.sessions for state in gateways(several)) == 12)
    victim = max(gateways(several), key=lambda state: state.sessions)
    others = sorted(state.pid for state in gateways(several) if state.pid != victim.pid)
    killed_at = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    lost = 0
    for made in await asyncio.gather(*coming_back):
        lost += len(made.breaks)
        assert all(gap.new_stream for gap in made.breaks)
        assert made.sent[0].at < killed_at  # nobody began anew
        assert abs(made.missing_ms + made.lead_ms) <= 1
        assert made.close_code == 1000
    for made in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(made, CallError | aiohttp.ClientError):
            lost += 1
        elif isinstance(made, BaseException):
            raise made
        elif made.complete is None:
            lost += 1
        else:
            assert made.sent[0].at < killed_at
            assert made.missing_ms <= 0
            assert made.complete["concealed_chunks"] == 0
    assert lost == victim.sessions
    await asyncio.to_thread(several.until, lambda: len(gateways(several)) == GATEWAYS)
    assert set(others) < {state.pid for state in gateways(several)}
    assert not psutil.pid_exists(victim.pid)
    await asyncio.to_thread(several.until, lambda: sum(quotas(several)) == PLACES and min(quotas(several)) > 0)


def test_a_killed_serve_leaves_no_child(several: Serve) -> None:
    children = several.pids("gateway", "worker")
    assert len(children) == GATEWAYS + 1
    several.process.kill()
    several.process.wait()
    until(lambda: not any(is_alive(pid) for pid in children))
    assert not several.status()["running"]
