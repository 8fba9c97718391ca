"""Two gateways and one worker's link, over real sockets: together they never admit more than the worker measured."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gateway.app import Gateway
from shared.config import Config
from shared.messages import PROTOCOL_VERSION, Chunk, Close, Hello, Open, Opened, VoiceInfo
from tests.support.waiting import PATIENCE_S, soon
from worker.serving.link import WorkerLink

KEY = "a-key-for-the-quota"
PLACES = 7
CALLERS = (18, 6)  # at the first gateway and the second: places have to follow them


class CountingScheduler:
    """In place of a scheduler: opens whatever comes, and notes the most that were open at once."""

    capacity = PLACES
    steps, queue_ms, refused = 1, 0.0, 0

    def __init__(self) -> None:
        self.link: WorkerLink | None = None
        self.most = self.opened = 0
        self._open: set[tuple[int, str]] = set()
        self._lock = threading.Lock()

    def take(self, gateway: int, message: Open | Chunk | Close) -> None:
        assert self.link is not None
        with self._lock:
            if isinstance(message, Open):
                self._open.add((gateway, message.session))
                self.most, self.opened = max(self.most, len(self._open)), self.opened + 1
                self.link.reply(gateway, Opened(message.session, message.epoch))
            elif isinstance(message, Close):
                self._open.discard((gateway, message.session))

    def drop_gateway(self, gateway: int) -> None:
        with self._lock:
            self._open = {key for key in self._open if key[0] != gateway}

    def sessions_of(self, gateway: int) -> int:
        with self._lock:
            return sum(key[0] == gateway for key in self._open)

    def stuck_for(self) -> float:
        return 0.0


def gateway_at(folder: Path) -> Gateway:
    config = {
        "gateway": {"port": 0, "default_model": "echo", "refusals_per_s": 1000},
        "auth": {"api_keys": [KEY]},
        "link": {"port": 0},
        "serve": {"state_dir": folder / "temp"},
        "recording": {"dir": folder / "outputs"},
    }
    return Gateway(Config.model_validate(config))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[tuple[list[Gateway], CountingScheduler]]:
    """Two gateways that the worker is joined to."""
    gateways = [gateway_at(tmp_path / str(number)) for number in range(2)]
    for gateway in gateways:
        await gateway.start()
    hello = Hello(
        PROTOCOL_VERSION, "counting", "here", 1, "cpu", "echo", 100, 20, 200, 16_000, [VoiceInfo("one", "")], PLACES
    )
    scheduler = CountingScheduler()
    endpoints = [f"tcp://127.0.0.1:{gateway.link.port}" for gateway in gateways]
    scheduler.link = link = WorkerLink(endpoints, hello, None, 5.0)
    link.start(scheduler)  # type: ignore[arg-type]
    await soon(lambda: sum(gateway.pool.free for gateway in gateways) == PLACES)
    yield gateways, scheduler
    await asyncio.gather(*(gateway.stop() for gateway in gateways))
    await asyncio.to_thread(link.stop)


async def call_until_served(http: aiohttp.ClientSession, url: str, held_s: float, scheduler: CountingScheduler) -> None:
    """Knock again and again; once there is a place, keep it for a while, and until all have been taken at once."""
    while True:
        try:
            async with http.ws_connect(url) as socket:
                await socket.send_json({"type": "config", "api_key": KEY})
                answer = json.loads((await socket.receive()).data)
                if answer["type"] == "ready":
                    await asyncio.sleep(held_s)
                    await soon(lambda: scheduler.most >= PLACES)
                    return
                assert answer["error_code"] == "OVERLOADED", answer
        except aiohttp.WSServerHandshakeError as error:
            if error.status != 503:
                raise
        await asyncio.sleep(0.25)  # a slow machine has to hear its links, too


async def test_callers_of_both_never_fill_more_places_than_there_are(
    house: tuple[list[Gateway], CountingScheduler],
) -> None:
    gateways, scheduler = house
    dice = random.Random(12)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, asyncio.timeout(PATIENCE_S):
        await asyncio.gather(
            *(
                call_until_served(http, f"ws://127.0.0.1:{gateway.port}/ws", dice.uniform(0.3, 0.9), scheduler)
                for gateway, callers in zip(gateways, CALLERS, strict=True)
                for _ in range(callers)
            )
        )
    assert scheduler.opened >= sum(CALLERS)  # who lost a link for a while came again
    assert scheduler.most == PLACES  # every place was used, and none twice
