"""The Seed-VC engine through real processes, with networks of reduced size: many callers, options, a death."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import numpy as np
import pytest

import worker.main
from shared.addresses import free_port
from shared.config import load
from tests.support.forked import Forked
from tests.support.reduced import reduced, write_hub
from tools.client.client import Call, CallConfig, CallError, call, read_source
from worker.models.seedvc import spec

from ..support.room import when_there_is_room
from .conftest import KEY, SAMPLE, Serve

SETTINGS = {
    "WORKER__MODEL": "tiny",
    "WORKER__BLOCK_MS": 400,
    "WORKER__LEFT_MS": 600,
    "WORKER__DIT_LEFT_MS": 200,
    "WORKER__MAX_PROMPT_S": 1,
    "WORKER__STEPS": 2,
    "WORKER__GUIDANCE": 0.7,
    "WORKER__MIN_STEPS": 2,  # the load of other tests changes nothing
    "WORKER__MAX_BATCH": 4,
    "WORKER__VAD": "silero",
}


pytestmark = pytest.mark.serial  # one of them is, and they share what took long to start


def run_worker(link: str, name: str) -> int:
    """A worker whose tiny model is of reduced size."""
    spec.SPECS["tiny"] = reduced("tiny")
    return worker.main.run(load(), [link], "cpu", name)


class Pool(Serve):
    """A gateway and workers that were started apart."""

    settings: ClassVar[dict[str, Any]] = SETTINGS
    program = staticmethod(run_worker)

    def start_with(self, checkpoints: Path) -> Pool:
        self.port, self.link_port = free_port(), free_port()
        given = {
            "WORKER__CHECKPOINTS_DIR": checkpoints,
            "GATEWAY__PORT": self.port,
            "LINK__PORT": self.link_port,
            "AUTH__API_KEYS": json.dumps([KEY]),
            "SERVE__STATE_DIR": self.folder / "temp",
            "LOG__DIR": self.folder / "logs",
            **self.settings,
        }
        self.environ = os.environ | {f"FASTVC_{key}": str(value) for key, value in given.items()}
        self.process = self.spawn("gateway")
        self.working = [self.work(f"worker-{number}") for number in range(self.workers)]
        self.until(lambda: self.is_ready() and self.ready_workers() == self.workers, timeout_s=100)
        return self

    def work(self, name: str) -> Forked:
        link, out = f"tcp://127.0.0.1:{self.link_port}", self.folder / f"{name}.out"
        return Forked(self.program, link, name, environ=self.environ, out=out)

    def end(self) -> None:
        """Of all; some were killed before."""
        for process in (*self.working, self.process):
            process.send_signal(signal.SIGTERM)
        assert all(process.wait(30) in (0, -signal.SIGKILL) for process in (*self.working, self.process))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    checkpoints = tmp_path_factory.mktemp("hub")
    write_hub(checkpoints, reduced("tiny"))
    pool = Pool(tmp_path_factory.mktemp("pool"), workers=2).start_with(checkpoints)
    yield pool
    pool.end()


async def convert(pool: Pool, **options: Any) -> Call:
    """Calls again while all places are taken: how many there are follows from how fast this machine is."""
    config = CallConfig(pool.url, KEY, **{"real_time": False, **options})
    wave = read_source(SAMPLE, config.sample_rate)[: 3 * config.sample_rate]
    async with aiohttp.ClientSession() as http, asyncio.timeout(90):
        return await when_there_is_room(lambda: call(http, config, wave), tries=180, pause_s=0.5)


async def test_callers_of_several_voices_get_all_their_sound_at_the_rate_they_asked_for(pool: Pool) -> None:
    wanted = [("carlo", 16_000), ("june", 22_050), ("allison", 48_000), ("june", 8000)]
    made = await asyncio.gather(*(convert(pool, voice=voice, sample_rate_out=rate) for voice, rate in wanted))
    for one, (_, rate) in zip(made, wanted, strict=True):
        assert one.close_code == 1000
        assert one.complete is not None
        assert one.complete["concealed_chunks"] == 0
        assert abs(len(one.output()) - 3 * rate) <= 0.4 * rate
        assert np.abs(one.output()).max() > 300


async def test_a_session_may_choose_within_limits(pool: Pool) -> None:
    same = [await convert(pool, session_id="twice", voice="june") for _ in range(2)]
    assert np.array_equal(same[0].output(), same[1].output())  # its noise is its own
    assert same[0].complete is not None
    assert same[0].complete["min_steps"] == 2
    fewer = await convert(pool, session_id="twice", voice="june", options={"steps": 1, "guidance": 0.0})
    assert np.abs(fewer.output().astype(int) - same[0].output()).max() > 20
    for options, words in (
        ({"steps": 3}, "options.steps must be within 1 and 2"),
        ({"guidance": 9.0}, "options.guidance must be within 0 and 2"),
        ({"f0_shift": 1.0}, "options.f0_shift: this model knows steps, guidance"),
        ({"volume": 1.0}, "options.volume"),
    ):
        with pytest.raises(CallError, match="INVALID_CONFIG") as caught:
            await convert(pool, options=options)
        assert words in str(caught.value)


async def callers_with_room(pool: Pool, most: int = 3) -> int:
    """So many callers as one worker keeps with two thirds of its time to spare, on this machine as it is now."""
    made = await convert(pool)
    assert made.complete is not None
    ms_a_block = made.complete["session_ms"] / made.complete["chunks_processed"]
    return max(1, min(most, int(int(SETTINGS["WORKER__BLOCK_MS"]) / 3 / ms_a_block)))


async def test_a_worker_that_dies_loses_nobody(pool: Pool) -> None:
    """At most one concealed block is promised where capacity is there: so many callers as the other worker can keep."""
    config = CallConfig(pool.url, KEY, real_time=True)
    wave = read_source(SAMPLE, 16_000)[: 5 * 16_000]
    callers = await callers_with_room(pool)
    async with aiohttp.ClientSession() as http:
        calls = [asyncio.create_task(call(http, config, wave)) for _ in range(callers)]
        await asyncio.sleep(2.0)
        victim = pool.working[0]
        victim.kill()
        made = await asyncio.gather(*calls)
    victim.wait(10)
    for one in made:
        assert one.close_code == 1000
        assert abs(len(one.output()) - 5 * 16_000) <= 0.4 * 16_000
        assert one.complete is not None
        assert one.complete["concealed_chunks"] <= 1
