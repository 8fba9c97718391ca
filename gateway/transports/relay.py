"""A caller who comes back to a call that another process of this host has: everything passes through, both ways."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
from aiohttp import WSMsgType, web

from gateway.errors import CallerGone

_CONNECT_S = 2.0
_GOING_AWAY, _BROKEN = 1001, 1006
_PASSED_ON = ("Authorization",)  # of the headers; as the query, it may say who they are

Side = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def relay(caller: web.WebSocketResponse, first: str, request: web.Request, port: int) -> None:
    """Between `caller`, who has said `first`, and the process whose door is at `port` on loopback, to the end of both.

    Raises `CallerGone` where that process cannot be reached, and has not answered.
    """
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_S)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        try:
            url = f"http://127.0.0.1:{port}/ws?{request.query_string}"
            there = await http.ws_connect(url, headers=headers, max_msg_size=0, autoping=False)
        except (aiohttp.ClientError, TimeoutError):
            raise CallerGone from None
        await there.send_str(first)
        ways = [asyncio.create_task(_pass(caller, there)), asyncio.create_task(_pass(there, caller))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await _close(caller, there)


async def _pass(source: Side, sink: Side) -> None:
    """Messages, pings and pongs, until the source closes or either breaks."""
    with contextlib.suppress(ConnectionError, aiohttp.ClientError):
        while True:
            message = await source.receive()
            match message.type:
                case WSMsgType.BINARY:
                    await sink.send_bytes(message.data)
                case WSMsgType.TEXT:
                    await sink.send_str(message.data)
                case WSMsgType.PING:
                    await sink.ping(message.data)
                case WSMsgType.PONG:
                    await sink.pong(message.data)
                case _:
                    return


async def _close(caller: web.WebSocketResponse, there: aiohttp.ClientWebSocketResponse) -> None:
    """Whoever is still there hears how the other ended; a break is passed on as one."""
    if not caller.closed and not there.closed:  # this process stops
        await _break(there)
        await caller.close(code=_GOING_AWAY)
    for ended, other in ((there, caller), (caller, there)):
        if ended.closed and not other.closed:
            code = ended.close_code
            if code is None or code == _BROKEN:
                await _break(other)
            else:
                with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                    await other.close(code=code)


async def _break(side: Side) -> None:
    if isinstance(side, web.WebSocketResponse):
        if side._req is not None and side._req.transport is not None:
            side._req.transport.abort()
    elif side._response.connection is not None and side._response.connection.transport is not None:
        side._response.connection.transport.abort()
