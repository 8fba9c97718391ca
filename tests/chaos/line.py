"""A line between workers and gateways that a run may cut, delay and make lossy, as TCP lets its ends feel it."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

_AGAIN_S = 0.25  # TCP's shortest wait before it sends a lost part again, about


class Line:
    """One port for each gateway's link."""

    def __init__(self, rng: random.Random) -> None:
        self.delay_s = self.loss = 0.0
        self._rng = rng
        self._passes = asyncio.Event()
        self._to = 0
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, gateways: int) -> None:
        for number in range(gateways):
            self._servers.append(await asyncio.start_server(self._handler(number), "127.0.0.1", 0))

    def lead_to(self, link_port: int) -> None:
        """The first gateway's link."""
        self._to = link_port
        self._passes.set()

    def port_of(self, gateway: int) -> int:
        port: int = self._servers[gateway].sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        """Nothing passes any more; nobody is told."""
        self._passes.clear()

    def heal(self) -> None:
        """What was connected is broken now; what connects passes again."""
        self._passes.set()
        for writer in list(self._writers):
            writer.transport.abort()

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    def _handler(self, number: int):  # type: ignore[no-untyped-def]
        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.add(writer)
            try:
                await self._passes.wait()
                there = await asyncio.open_connection("127.0.0.1", self._to + number)
                self._writers.add(there[1])
                await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))
            except (OSError, asyncio.CancelledError):
                pass  # an end is gone, or the run is over
            finally:
                writer.transport.abort()
                self._writers.discard(writer)

        return pass_on

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """In order: what is late holds up what is behind it."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def send() -> None:
            while True:
                at, part = await due.get()
                if (ahead := at - loop.time()) > 0:
                    await asyncio.sleep(ahead)
                await self._passes.wait()
                if not writer.is_closing():
                    writer.write(part)

        sending = asyncio.create_task(send())
        try:
            with suppress(OSError):
                while part := await reader.read(16_384):
                    lost = self._rng.random() < self.loss
                    due.put_nowait((loop.time() + self.delay_s + lost * _AGAIN_S, part))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.transport.abort()
            self._writers.discard(writer)
