"""A gateway on free ports and a worker that a test can make misbehave, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import zmq
import zmq.asyncio

from gateway.app import Gateway
from shared.config import Config
from shared.curve import Keys
from shared.messages import (
    PROTOCOL_VERSION,
    Audio,
    Chunk,
    ChunkStats,
    Close,
    GatewayHeartbeat,
    Goodbye,
    Heartbeat,
    Hello,
    Open,
    Opened,
    VoiceInfo,
    decode_from_gateway,
    encode,
)
from tests.support.waiting import PATIENCE_S, soon

KEY = "a-key-for-tests"
BLOCK_MS = 100
DELAY_MS = 20


@dataclass
class EchoWorker:
    """Answers a chunk with the sound DELAY_MS earlier, as an engine without a model would."""

    port: int
    worker_id: str = "echo"
    capacity: int = 8
    voices: tuple[str, ...] = ("one", "two")
    rate: int = 16_000
    model: str = "echo"
    answer: Callable[[EchoWorker, Chunk], bool] = lambda worker, chunk: True  # False: say nothing
    opens: list[Open] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    closes: list[Close] = field(default_factory=list)
    tails: dict[str, np.ndarray[Any, np.dtype[np.int16]]] = field(default_factory=dict)
    beats: bool = True
    reference_ms: int = 3000  # of callers' own voices
    options: dict[str, list[float]] = field(default_factory=dict)
    opens_sessions: bool = True  # False: leaves the answer to the test
    keys: Keys | None = None  # for a gateway that wants some

    async def start(self) -> EchoWorker:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        if self.keys is not None:
            self._socket.curve_publickey, self._socket.curve_secretkey = self.keys.public, self.keys.secret
            self._socket.curve_serverkey = self.keys.server
        self._socket.connect(f"tcp://127.0.0.1:{self.port}")
        await self.say_hello()
        self._tasks = [asyncio.create_task(self._serve()), asyncio.create_task(self._beat())]
        return self

    async def say_hello(self, protocol: int = PROTOCOL_VERSION) -> None:
        voices = [VoiceInfo(name) for name in self.voices]
        hello = Hello(
            protocol,
            self.worker_id,
            "host",
            1,
            "cpu",
            self.model,
            BLOCK_MS,
            DELAY_MS,
            200,
            self.rate,
            voices,
            self.capacity,
            self.reference_ms,
            self.options,
        )
        await self._socket.send(encode(hello))

    async def goodbye(self) -> None:
        await self._socket.send(encode(Goodbye("test")))

    async def die(self) -> None:
        """As a killed process: the connection breaks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close(0)
        self._context.term()

    async def send(self, message: Any) -> None:
        await self._socket.send(message if isinstance(message, bytes) else encode(message))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(0.3)
            if self.beats:
                await self._socket.send(encode(Heartbeat(len(self.tails), self.capacity, 0.0, 1)))

    async def _serve(self) -> None:
        while True:
            await self._take(decode_from_gateway(await self._socket.recv()))

    async def _take(self, message: Any) -> None:
        match message:
            case Open():
                self.opens.append(message)
                delay = DELAY_MS * 16
                past = np.frombuffer(message.history, "<i2")[-delay:]
                self.tails[message.session] = np.pad(past, (delay - len(past), 0))
                if self.opens_sessions:
                    await self._socket.send(encode(Opened(message.session, message.epoch)))
            case Chunk():
                self.chunks.append(message)
                wave = np.concatenate([self.tails[message.session], np.frombuffer(message.samples, "<i2")])
                self.tails[message.session] = wave[BLOCK_MS * 16 :]
                if self.answer(self, message):
                    await self.respond(message, wave[: BLOCK_MS * 16])
            case Close():
                self.closes.append(message)
                self.tails.pop(message.session, None)
            case GatewayHeartbeat(known=False):
                await self.say_hello()

    async def respond(self, chunk: Chunk, wave: np.ndarray[Any, np.dtype[np.int16]]) -> None:
        if self.rate != 16_000:
            wave = np.interp(np.arange(BLOCK_MS * self.rate // 1000) * 16_000 / self.rate, np.arange(len(wave)), wave)
        stats = ChunkStats(1.0, 1, 1, True, False, {"echo": 0.1})
        samples = wave.astype("<i2").tobytes()
        await self._socket.send(encode(Audio(chunk.session, chunk.epoch, chunk.seq, samples, stats)))


class Service:
    """A gateway and the workers a test gave it."""

    def __init__(self, gateway: Gateway, http: aiohttp.ClientSession) -> None:
        self.gateway, self.http = gateway, http
        self.url = f"http://127.0.0.1:{gateway.port}"
        self.workers: list[EchoWorker] = []

    async def worker(self, **options: Any) -> EchoWorker:
        worker = await EchoWorker(self.gateway.link.port, **options).start()
        self.workers.append(worker)
        await self.until(lambda: any(w.hello.worker_id == worker.worker_id for w in self.gateway.pool.workers.values()))
        return worker

    async def until(self, true: Callable[[], bool]) -> None:
        await soon(true)

    async def call(self, **config: Any) -> aiohttp.ClientWebSocketResponse:
        """A session that is ready."""
        socket = await self.http.ws_connect(self.url + "/ws")
        await socket.send_json({"type": "config", "api_key": KEY, **config})
        ready = await socket.receive_json(timeout=PATIENCE_S)
        assert ready["type"] == "ready", ready
        return socket

    def counter(self, name: str, **labels: str) -> float:
        return self.gateway.metrics.registry.get_sample_value(name, labels) or 0.0


async def hear(
    socket: aiohttp.ClientWebSocketResponse, timeout_s: float = PATIENCE_S
) -> tuple[bytes, list[dict[str, Any]], int | None]:
    """Everything up to the close: audio, control messages, close code."""
    audio, control = bytearray(), []
    async with asyncio.timeout(timeout_s):
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                audio += message.data
            elif message.type == aiohttp.WSMsgType.TEXT:
                control.append(message.json())
    return bytes(audio), control, socket.close_code


@pytest.fixture
def settings() -> dict[str, Any]:
    """What a test changes of the gateway's configuration: `@pytest.mark.parametrize("settings", ...)`."""
    return {}


@pytest.fixture
def sections() -> dict[str, Any]:
    """Other sections of the configuration, which a module's own fixture replaces."""
    return {}


@pytest.fixture
async def service(tmp_path: Path, settings: dict[str, Any], sections: dict[str, Any]) -> AsyncIterator[Service]:
    config = Config.model_validate(
        {
            "gateway": {
                "port": 0,
                "simple_protocol": True,
                "default_model": "echo",
                "latency_budget_ms": 20_000,  # a slow machine conceals nothing, where a test does not ask for it
                **settings,
            },
            "auth": {"api_keys": [KEY], "required": True},
            "link": {"port": 0},
            "serve": {"state_dir": tmp_path},
            "recording": {"dir": tmp_path / "outputs"},
            "voices": {"dir": tmp_path / "uploads"},
            **sections,
        },
        strict=False,
    )
    gateway = Gateway(config)
    await gateway.start()
    async with aiohttp.ClientSession() as http:
        service = Service(gateway, http)
        yield service
        await gateway.stop()
    for worker in service.workers:
        if not worker._socket.closed:
            await worker.die()
