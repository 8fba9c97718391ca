"""What comes over the network, byte by byte: WebSocket frames, HTTP requests, link frames. A call beside it goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import zmq
import zmq.asyncio

from tests.gateway.conftest import KEY, Service, hear, sections, service, settings
from tests.gateway.test_sessions import LEAD_MS, noise, say
from tests.gateway.transports.raw import BINARY, TEXT, frame

from .mutations import EXAMPLES, SEED, mutate
from .readers import FROM_WORKER

__all__ = ["sections", "service", "settings"]
_CONNECTIONS = EXAMPLES if EXAMPLES > 1000 else 30  # of each kind; each takes many bytes
_AT_ONCE = 16
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /voices HTTP/1.1\r\nHost: x\r\n"
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
REQUESTS = [
    GET + b"\r\n",
    UPGRADE + b"\r\n",
    UPGRADE + b"Content-Length: 5\r\n\r\nhello",
    UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    POST + b"Content-Length: 3\r\n\r\nabc",
    POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
]
AMBIGUOUS = [  # a proxy in front may see one request in them, and a server behind it two
    POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    POST + b"Content-Length: 0\r\nContent-Length: 30\r\n\r\n" + SMUGGLED,
    POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    POST + b"Content-Length: +3\r\n\r\nabc" + SMUGGLED,
    POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    POST + b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    UPGRADE + b"Content-Length: 36\r\n\r\n" + SMUGGLED,
]


async def send(port: int, content: bytes) -> bytes:
    """What is answered within moments."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    with suppress(ConnectionError, TimeoutError):
        writer.write(content)
        async with asyncio.timeout(0.05):
            while part := await reader.read(65_536):
                answer += part
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return answer


async def together(one: Callable[[], Awaitable[None]]) -> None:
    """`one` for each connection, some at a time."""

    async def some(count: int) -> None:
        for _ in range(count):
            await one()

    async with asyncio.TaskGroup() as group:
        for number in range(_AT_ONCE):
            group.create_task(some(len(range(number, _CONNECTIONS, _AT_ONCE))))


async def beside_a_call(service: Service, work: Callable[[], Awaitable[None]]) -> None:
    """The call has all its sound, and nothing is left of the others."""
    await service.worker()
    socket = await service.call(session_id="undisturbed")
    wave = noise(800)
    hearing = asyncio.create_task(hear(socket, timeout_s=3600))
    await say(socket, wave[:6400])
    await work()
    await say(socket, wave[6400:])
    await socket.send_json({"type": "end"})
    audio, _, code = await hearing
    assert code == 1000
    heard = np.frombuffer(audio, "<i2")
    np.testing.assert_array_equal(heard[LEAD_MS * 16 :][:6400], wave[:6400])
    assert service.counter("fastvc_sessions_ended_total", outcome="INTERNAL_ERROR") == 0
    await service.until(lambda: not service.gateway.pool.session_ids() and not len(service.gateway.calls))
    assert service.gateway.pool.reserved == 0


@pytest.mark.parametrize("settings", [{"resume_window_s": 0, "config_timeout_s": 0.5, "idle_timeout_s": 3600}])
async def test_websocket_frames(service: Service) -> None:
    rng = random.Random(f"{SEED} websocket")
    config = frame(TEXT, b'{"type":"config","api_key":"%s"}' % KEY.encode())
    whole = [
        config + frame(BINARY, bytes(640)) * 3 + frame(TEXT, b'{"type":"end"}'),
        config + frame(BINARY, bytes(640), fin=False) + frame(0, bytes(640)),
    ]

    async def one() -> None:
        await send(service.gateway.port, UPGRADE + b"\r\n" + mutate(rng, whole))

    await beside_a_call(service, lambda: together(one))


@pytest.mark.parametrize("settings", [{"resume_window_s": 0, "config_timeout_s": 0.5, "idle_timeout_s": 3600}])
async def test_http_requests(service: Service) -> None:
    rng = random.Random(f"{SEED} http")

    async def one() -> None:
        answer = await send(service.gateway.port, mutate(rng, REQUESTS))
        assert b" 500 " not in answer.split(b"\r\n")[0]

    await beside_a_call(service, lambda: together(one))


@pytest.mark.parametrize("request_bytes", AMBIGUOUS)
async def test_no_second_request_is_smuggled_in(service: Service, request_bytes: bytes) -> None:
    answer = await send(service.gateway.port, request_bytes)
    assert b"fastvc_" not in answer


async def test_a_key_of_other_letters_is_no_fault_of_ours(service: Service) -> None:
    answer = await send(service.gateway.port, UPGRADE.replace(b"dGhl", "d\u00e9".encode()) + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400")


async def test_link_frames(service: Service) -> None:
    rng = random.Random(f"{SEED} link")

    async def work() -> None:
        context: zmq.asyncio.Context[Any] = zmq.asyncio.Context()
        stranger = context.socket(zmq.DEALER)
        stranger.linger = 0
        stranger.connect(f"tcp://127.0.0.1:{service.gateway.link.port}")
        before = service.counter("fastvc_link_frames_refused_total")
        for number in range(EXAMPLES):
            await stranger.send(mutate(rng, FROM_WORKER[1:]))
            if number % 50 == 0:
                await asyncio.sleep(0)
        await service.until(lambda: service.counter("fastvc_link_frames_refused_total") > before + EXAMPLES / 4)
        stranger.close(0)
        context.term()

    await beside_a_call(service, work)
