"""What a call hears: the caller's messages go to the session, until the caller's end or the gateway's."""

from __future__ import annotations

import asyncio
from typing import assert_never

from gateway.caller import Acknowledged, Cue, Heard, Lost
from gateway.errors import SessionError
from gateway.pace import Pace
from gateway.resume.line import Line
from gateway.session import Session
from gateway.silence import SilenceWatch
from shared.config import GatewayConfig


class Hearing:
    """Of one call; `run` belongs in a task of its own, which is cancelled for a caller who is silent for too long."""

    def __init__(
        self, line: Line, session: Session, pace: Pace, config: GatewayConfig, draining: asyncio.Event
    ) -> None:
        self._line, self._session, self._pace = line, session, pace
        self._config, self._draining = config, draining

    async def run(self) -> bool:
        """The caller's messages; True at their end, False where the gateway's end came first."""
        config, draining = self._config, self._draining
        watch = SilenceWatch(idle_s=config.idle_timeout_s, hold_s=config.hold_ms / 1000, on_pause=self._pause)
        interrupt = asyncio.create_task(watch.interrupt_at(draining))
        try:
            while not draining.is_set():
                if self._pace.is_ahead:
                    await self._pace.wait()
                watch.listen()
                heard = await self._line.hear()
                sound = heard if isinstance(heard, bytes) else b""
                watch.heard(sound=len(sound) > 0)
                if watch.is_pausing:
                    await watch.paused()
                if sound:  # fifty times a second
                    if self._session.take(sound):
                        await self._session.send_on()
                elif await self._take(heard):
                    return True
            return False
        except asyncio.CancelledError:
            if watch.error is not None:
                raise watch.error from None
            if watch.idle:
                raise SessionError("TIMEOUT", f"no message within {config.idle_timeout_s:g} s") from None
            if watch.interrupted:
                return False
            raise
        finally:
            interrupt.cancel()
            await watch.stop()

    async def _take(self, heard: Heard) -> bool:
        """Whether that was the end."""
        match heard:
            case bytes():
                pass  # no sound at all
            case Lost():
                for _ in range(heard.count):
                    if self._session.take(None):
                        await self._session.send_on()
            case Acknowledged():
                self._line.said.acknowledge(heard.samples)
            case Cue.END:
                return True
            case Cue.PING | Cue.ALIVE:
                pass
            case Cue.UNKNOWN:
                self._session.ignored += 1
            case _:
                assert_never(heard)
        return False

    async def _pause(self) -> None:
        """The caller says nothing: what is held goes on its way, if they are there to hear it."""
        if self._line.is_up:
            await self._session.pause()
