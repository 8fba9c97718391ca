"""The service as an operator meets it: status, a killed worker, a second start, stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest

from tools.client.client import Call, CallConfig, call, read_source

from ..support.room import when_there_is_room
from .conftest import KEY, SAMPLE, Serve, is_alive


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A service with two workers. The tests that break them wait until there are two again; the last one ends it."""
    serve = Serve(tmp_path_factory.mktemp("pair"), workers=2)
    serve.start(WORKER__MODEL="passthrough", WORKER__RMS_MIX_RATE=1)
    yield serve
    if serve.process.poll() is None:
        serve.stop()


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A service with two kinds of workers. The last of its tests kills it."""
    workers = [{"profile": "shift", "device": "cpu"}, {"profile": "default"}]
    serve = Serve(tmp_path_factory.mktemp("kinds"), 2, workers)
    serve.start(ENV="default", WORKER__MAX_BATCH=1, WORKER__MAX_SESSIONS=2)
    yield serve
    if serve.process.poll() is None:
        serve.stop()


async def talk(serve: Serve, wave: np.ndarray[Any, Any]) -> Call:
    async with aiohttp.ClientSession() as http:
        return await call(http, CallConfig(serve.url, KEY), wave)


@pytest.mark.serial
async def test_nothing_is_left_behind_by_200_short_sessions(pair: Serve) -> None:
    processes = [psutil.Process(pid) for pid in pair.pids("gateway", "worker")]
    wave = read_source(SAMPLE, 16_000)[:3200]

    def held() -> list[tuple[int, int]]:
        return [(process.num_fds(), process.num_threads()) for process in processes]

    async def eight(encoding: str) -> None:
        config = CallConfig(pair.url, KEY, encoding=encoding, real_time=False)
        async with aiohttp.ClientSession() as http:
            one = partial(call, http, config, wave)
            made = await asyncio.gather(*(when_there_is_room(one) for _ in range(8)))
        assert all(one.complete is not None for one in made)

    for encoding in ("PCM", "OPUS"):
        await eight(encoding)  # opens what stays open: log files, threads
    before = held()
    for start in range(0, 200, 8):
        await eight("OPUS" if start % 16 else "PCM")
    pair.until(lambda: pair.get("/ready")[1]["sessions"] == 0)
    await asyncio.sleep(1.0)
    after = held()
    assert all(now[0] <= then[0] + 2 and now[1] <= then[1] + 1 for then, now in zip(before, after, strict=True))


@pytest.mark.serial
async def test_a_worker_killed_in_a_call_costs_at_most_a_block_and_comes_back(pair: Serve) -> None:
    wave = read_source(SAMPLE, 16_000)[: 16_000 * 5]
    undisturbed = await talk(pair, wave)
    calls = [asyncio.create_task(talk(pair, wave)) for _ in range(4)]
    await asyncio.sleep(2.0)
    before = await asyncio.to_thread(pair.pids, "worker")
    victim = before[0]
    os.kill(victim, signal.SIGKILL)
    for made in await asyncio.gather(*calls):
        assert made.complete is not None
        assert made.complete["concealed_chunks"] <= 1
        out, expected = made.output().astype(int), undisturbed.output().astype(int)
        assert len(out) == len(expected)
        different = np.flatnonzero(np.abs(out - expected) > 40)
        block = made.ready["block_ms"] * 16
        assert len(different) == 0 or np.ptp(different) <= 2 * block  # around the place where it moved, nowhere else
    pair.until(lambda: pair.ready_workers() == 2)
    after = pair.pids("worker")
    assert len(after) == 2
    assert victim not in after
    assert f"(pid {victim}) ended with SIGKILL" in (pair.folder / "logs" / "serve.log").read_text()


@pytest.mark.serial
async def test_a_worker_that_is_asked_to_leave_costs_nothing_and_is_replaced(pair: Serve) -> None:
    """Calls of 5 s in real time, and processes that start anew."""
    wave = read_source(SAMPLE, 16_000)[: 16_000 * 5]
    calls = [asyncio.create_task(talk(pair, wave)) for _ in range(4)]
    await asyncio.sleep(2.0)
    victim = (await asyncio.to_thread(pair.pids, "worker"))[0]
    os.kill(victim, signal.SIGTERM)
    for made in await asyncio.gather(*calls):
        assert made.complete is not None
        assert made.complete["concealed_chunks"] == 0
        assert made.complete["reopened"] <= 1
        assert made.missing_ms <= 0
    await asyncio.to_thread(pair.until, lambda: pair.ready_workers() == 2)
    assert f"(pid {victim}) ended with exit code 0" in (pair.folder / "logs" / "serve.log").read_text()


@pytest.mark.serial
def test_status_and_a_second_start(pair: Serve) -> None:
    pair.until(lambda: len(pair.status()["workers"]) == 2)
    status = pair.status()
    assert status["running"]
    assert sorted(p["role"] for p in status["processes"]) == ["gateway", "serve", "worker", "worker"]
    for process in status["processes"]:
        assert {"role", "pid", "host", "port", "sessions"} <= set(process)
        assert psutil.pid_exists(process["pid"])
    text = pair.command("status").stdout
    assert "gateway" in text
    assert "worker-1" in text
    second = pair.command("serve", "--port", str(pair.port))
    assert second.returncode == 1
    assert f"port {pair.port} is already in use by fast-vc serve (pid {pair.process.pid})" in second.stderr
    refused = pair.command("clean", "-y")
    assert refused.returncode == 1
    assert "running" in refused.stderr


@pytest.mark.serial
async def test_a_stopped_service_gives_its_sessions_their_audio_and_leaves_nothing(pair: Serve) -> None:
    calling = asyncio.create_task(talk(pair, read_source(SAMPLE, 16_000)))
    await asyncio.sleep(1.5)
    stopped = await asyncio.to_thread(pair.command, "stop")
    assert stopped.returncode == 0, stopped.stderr
    made = await calling
    assert made.close_code == 1001
    assert made.complete is not None
    heard_ms = made.complete["total_processed_ms"]
    assert 1000 < heard_ms < 4000
    assert len(made.output()) / 16 == pytest.approx(heard_ms + made.lead_ms, abs=1)
    assert pair.process.wait(5) == 0
    assert pair.command("status").returncode == 1
    assert pair.command("clean", "-y").returncode == 0
    assert not (pair.folder / "temp").exists()
    assert not (pair.folder / "logs").exists()


def test_a_wrong_setting_is_one_message_and_exit_2(tmp_path: Path) -> None:
    serve = Serve(tmp_path)
    serve.environ = os.environ | {"FASTVC_WORKER__BLOCK_MS": "201", "FASTVC_SERVE__STATE_DIR": str(tmp_path)}
    for command in ("serve", "gateway", "worker", "status"):
        result = serve.command(command)
        assert result.returncode == 2
        assert "worker.block_ms" in result.stderr
        assert "Traceback" not in result.stderr


async def test_different_models_side_by_side_are_chosen_by_name(kinds: Serve) -> None:
    """Two kinds of workers of one service; who names no model gets the first kind's. Two processes load torch: 10 s."""
    _, listed = await asyncio.to_thread(kinds.get, "/models")
    assert listed["default"] == "shift"
    assert {model["name"]: model["block_ms"] for model in listed["models"]} == {"shift": 200, "nano": 240}
    wave = read_source(SAMPLE, 16_000)[:32_000]
    async with aiohttp.ClientSession() as http:
        for model, block_ms in (("nano", 240), ("shift", 200), (None, 200)):
            made = await call(http, CallConfig(kinds.url, KEY, model=model, real_time=False), wave)
            assert (made.close_code, made.ready["block_ms"]) == (1000, block_ms)


def test_stop_force_kills_everything(kinds: Serve) -> None:
    children = kinds.pids("gateway", "worker")
    assert len(children) == 3
    assert kinds.command("stop", "--force").returncode == 0
    assert kinds.process.wait(5) == -signal.SIGKILL
    assert not any(is_alive(pid) for pid in children)
