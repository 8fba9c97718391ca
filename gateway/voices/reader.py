"""Recordings of strangers are decoded in a process of their own: what one does to a decoder ends no call.

The process lives as long as recordings come well; one that dies, or takes too long, is replaced with the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import struct
import sys
from typing import Any, BinaryIO, cast

from loguru import logger

from gateway.voices.clip import Clip, ClipError, Reason, read_clip

TIMEOUT_S = 20.0  # for one recording, a start included
_MAX_MEMORY_BYTES = 4 << 30  # of addresses: numpy's libraries reserve much that they never use
_LENGTH = struct.Struct("<Q")


class ClipReader:
    """Lives on one event loop. One recording at a time; others wait."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def read(self, data: bytes) -> Clip:
        """As `read_clip`."""
        async with self._turn:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    said, flac = await self._ask_twice(data)
            except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError) as error:
                logger.warning("a recording was too much for its reader: {}", type(error).__name__)
                await self._end()
                raise ClipError("unreadable", "cannot be read: send FLAC or WAV") from None
            except asyncio.CancelledError:
                await self._end()  # its answer would be taken for the next one's
                raise
        if "reason" in said:
            raise ClipError(cast(Reason, said["reason"]), said["message"])
        return Clip(flac, said["seconds"], said["rate"])

    async def stop(self) -> None:
        async with self._turn:
            await self._end()

    async def _ask_twice(self, data: bytes) -> tuple[dict[str, Any], bytes]:
        """A process that was there before may have died of something else."""
        if self._process is not None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                return await self._ask(data)
            await self._end()
        return await self._ask(data)

    async def _ask(self, data: bytes) -> tuple[dict[str, Any], bytes]:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "gateway.voices.reader"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # a terminal's Ctrl-C is the gateway's
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(_LENGTH.pack(len(data)) + data)
        await self._process.stdin.drain()
        head = await self._process.stdout.readexactly(2 * _LENGTH.size)
        first, second = _LENGTH.unpack(head[: _LENGTH.size])[0], _LENGTH.unpack(head[_LENGTH.size :])[0]
        said = json.loads(await self._process.stdout.readexactly(first))
        return said, await self._process.stdout.readexactly(second)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """The process: a recording in, what it is out, until the source ends with the gateway."""
    while len(head := source.read(_LENGTH.size)) == _LENGTH.size:
        data, flac = source.read(_LENGTH.unpack(head)[0]), b""
        said: dict[str, Any]
        try:
            clip = read_clip(data)
        except ClipError as error:
            said = {"reason": error.reason, "message": str(error)}
        except (MemoryError, ValueError, ArithmeticError) as error:
            said = {"reason": "unreadable", "message": f"cannot be read ({type(error).__name__}): send FLAC or WAV"}
        else:
            said, flac = {"seconds": clip.seconds, "rate": clip.rate}, clip.flac
        text = json.dumps(said).encode()
        sink.write(_LENGTH.pack(len(text)) + _LENGTH.pack(len(flac)) + text + flac)
        sink.flush()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin.buffer, sys.stdout.buffer)
