"""Messages that are written at once are heard one by one, and who does not read is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.transports.websocket import _Socket

Talk = Callable[[_Socket], Awaitable[None]]


async def listen(talk: Talk, http: aiohttp.ClientSession) -> tuple[aiohttp.ClientWebSocketResponse, TestServer]:
    """A listener to `talk`."""

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = _Socket(compress=False)
        await socket.prepare(request)
        await talk(socket)
        return socket

    app = web.Application()
    app.router.add_get("/", handle)
    server = TestServer(app)
    await server.start_server()
    return await http.ws_connect(server.make_url("/"), max_msg_size=0), server


@pytest.mark.parametrize("sizes", [[3], [0, 1, 125, 126, 127, 65_535, 65_536, 70_000, 5], [80] * 25], ids=len)
async def test_messages_of_any_size_arrive_one_by_one_in_order(sizes: list[int]) -> None:
    messages = [bytes([number]) * size for number, size in enumerate(sizes)]

    async def talk(socket: _Socket) -> None:
        await socket.send_all(messages)
        await socket.send_str("then this")
        await socket.close()

    async with aiohttp.ClientSession() as http:
        socket, server = await listen(talk, http)
        assert [await socket.receive_bytes() for _ in messages] == messages
        assert await socket.receive_str() == "then this"
        await socket.close()
        await server.close()


async def test_who_does_not_read_is_waited_for() -> None:
    unsent: list[int] = []
    stuck = asyncio.Event()

    async def talk(socket: _Socket) -> None:
        try:
            while True:
                async with asyncio.timeout(0.3):
                    await socket.send_all([bytes(1000)] * 100)
        except TimeoutError:
            assert socket._req is not None
            assert socket._req.transport is not None
            unsent.append(socket._req.transport.get_write_buffer_size())
            stuck.set()
            socket.cut()

    async with aiohttp.ClientSession() as http:
        socket, server = await listen(talk, http)
        await asyncio.wait_for(stuck.wait(), 20)
        assert unsent[0] < 500_000  # beyond what the system holds
        await socket.close()
        await server.close()


async def test_nothing_is_said_behind_a_goodbye() -> None:
    refused = asyncio.Event()

    async def talk(socket: _Socket) -> None:
        assert socket._writer is not None
        await socket._writer.close(1000, b"")
        with pytest.raises(ConnectionError):
            await socket.send_all([b"too", b"late"])
        refused.set()

    async with aiohttp.ClientSession() as http:
        socket, server = await listen(talk, http)
        assert (await socket.receive()).type == aiohttp.WSMsgType.CLOSE
        await asyncio.wait_for(refused.wait(), 5)
        await server.close()
