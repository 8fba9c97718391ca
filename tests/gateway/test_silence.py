"""Whose silence it is: a caller's, or a process's that did not run."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from gateway.silence import SilenceWatch
from tests.support.waiting import soon

HOLD_S = 0.2


@pytest.mark.parametrize("idle_s", [60.0, HOLD_S])
async def test_nobody_is_silent_while_this_process_does_not_run(idle_s: float) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours)
    pauses: list[float] = []

    async def on_pause() -> None:
        pauses.append(time.monotonic())

    async def hear() -> str:
        watch = SilenceWatch(idle_s=idle_s, hold_s=HOLD_S, on_pause=on_pause)
        watch.heard(sound=True)
        rounds = 0
        try:
            while rounds < 3:
                watch.listen()
                theirs.send(b"sound")  # it is there, but this process is stopped before it looks
                time.sleep(2 * HOLD_S)  # noqa: ASYNC251
                await reader.read(100)
                watch.heard(sound=True)
                rounds += 1
                if pauses:
                    return "paused though the caller spoke"
            watch.listen()
            await reader.read(100)  # now the caller is silent
            return "heard something"
        except asyncio.CancelledError:
            return f"{'idle' if watch.idle else 'left'} after {rounds}"
        finally:
            await watch.stop()

    task = asyncio.create_task(hear())
    await soon(lambda: pauses or task.done())
    task.cancel()
    assert await task == ("idle after 3" if idle_s == HOLD_S else "left after 3")
    writer.close()
    await writer.wait_closed()
    theirs.close()
