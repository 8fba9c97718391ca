"""A WebSocket of our own hands: bytes of RFC 6455 over a TCP socket, with no library that could be polite for us."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tests.support.waiting import PATIENCE_S

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(
    opcode: int, content: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = b"\1\2\3\4"
) -> bytes:
    """One frame (RFC 6455, 5.2). `mask` None: unmasked, as a client must not."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    flag = 0 if mask is None else 0x80
    if len(content) < 126:
        head += bytes([flag | len(content)])
    elif len(content) < 1 << 16:
        head += bytes([flag | 126]) + len(content).to_bytes(2, "big")
    else:
        head += bytes([flag | 127]) + len(content).to_bytes(8, "big")
    if mask is None:
        return head + content
    key = (mask * (len(content) // 4 + 1))[: len(content)]
    return head + mask + bytes(a ^ b for a, b in zip(content, key, strict=True))


@dataclass
class Heard:
    """What the server said up to the end of the connection."""

    frames: list[tuple[int, bytes]]

    @property
    def texts(self) -> list[dict[str, Any]]:
        return [json.loads(content) for opcode, content in self.frames if opcode == TEXT]

    @property
    def sound(self) -> bytes:
        return b"".join(content for opcode, content in self.frames if opcode == BINARY)

    @property
    def close_codes(self) -> list[int]:
        return [int.from_bytes(content[:2], "big") for opcode, content in self.frames if opcode == CLOSE]


class RawCaller:
    """Speaks frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int, path: str = "/ws", **headers: str) -> RawCaller:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        given = {
            "Host": "x",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            **headers,
        }
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items() if value), "", ""]
        writer.write("\r\n".join(lines).encode())
        caller = cls(reader, writer)
        caller.head = (await reader.readuntil(b"\r\n\r\n")).decode()
        return caller

    head = ""

    async def send(self, *frames: bytes, bytes_each: int | None = None) -> None:
        """All of it at once, or in pieces of `bytes_each` with the network's pause between them."""
        sent = b"".join(frames)
        step = bytes_each or max(1, len(sent))
        try:
            for at in range(0, len(sent), step):
                self._writer.write(sent[at : at + step])
                await self._writer.drain()
                if bytes_each:
                    await asyncio.sleep(0)
        except ConnectionError:
            pass  # the server has heard enough

    async def configure(self, **config: Any) -> dict[str, Any]:
        await self.send(frame(TEXT, json.dumps(config).encode()))
        opcode, content = await self.next()
        assert opcode == TEXT
        return json.loads(content)

    async def next(self) -> tuple[int, bytes]:
        async with asyncio.timeout(PATIENCE_S):
            first, second = await self._reader.readexactly(2)
            assert first & 0x80, "the server fragments"
            assert not first & 0x70, "the server sets reserved bits"
            assert not second & 0x80, "the server masks"
            size = second & 0x7F
            if size == 126:
                size = int.from_bytes(await self._reader.readexactly(2), "big")
            elif size == 127:
                size = int.from_bytes(await self._reader.readexactly(8), "big")
            return first & 0x0F, await self._reader.readexactly(size)

    async def hear(self) -> Heard:
        """Everything to the end; a close frame is answered, as it should be."""
        frames: list[tuple[int, bytes]] = []
        async with asyncio.timeout(20):
            try:
                while True:
                    opcode, content = await self.next()
                    frames.append((opcode, content))
                    if opcode == CLOSE:
                        await self.send(frame(CLOSE, content[:2]))
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
        self._writer.close()
        return Heard(frames)

    def abort(self) -> None:
        self._writer.transport.abort()
