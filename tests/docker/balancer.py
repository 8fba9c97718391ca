"""What stands in front of several gateways' hosts: it spreads TCP connections and knows nothing of calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

_TIMEOUT_S = 1.0


class Balancer:
    """`start`, then call `url`. Each connection goes to the next host, and past those that do not answer."""

    def __init__(self, hosts: Sequence[str], port: int) -> None:
        self._hosts, self._port = hosts, port
        self._turn = 0
        self._busy: set[asyncio.Task[None]] = set()
        self.turned_away = 0  # connections that no host took

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/ws"

    async def stop(self) -> None:
        self._server.close()
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await self._connect()
            ways = [asyncio.create_task(_pass(*way)) for way in ((reader, there), (back, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait(ways, timeout=_TIMEOUT_S)
            finally:
                for way in ways:
                    way.cancel()
        except OSError:
            self.turned_away += 1
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises `OSError` where nobody answers."""
        self._turn = (self._turn + 1) % len(self._hosts)
        for host in (*self._hosts[self._turn :], *self._hosts[: self._turn]):
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    return await asyncio.open_connection(host, self._port)
            except (OSError, TimeoutError):
                continue
        raise ConnectionRefusedError


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while part := await reader.read(65_536):
            writer.write(part)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()
