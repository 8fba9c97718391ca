"""How fast a caller may send: so many seconds of sound a second. Who is faster is read more slowly; nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.events import AnswerSent, BlockSubmitted, PayloadReceived, SessionEnded

_BURST_S = 30.0  # of sound at once that costs no pause: a client that reconnects has some to catch up on


class Pace:
    """An observer of one session; its call waits for it before it reads on."""

    def __init__(
        self, rate: float, now: Callable[[], float], on_pause: Callable[[float], None] = lambda pause_s: None
    ) -> None:
        """rate: seconds of sound a second of the clock `now`. `on_pause` is told of every pause."""
        self._rate, self._now, self._on_pause = rate, now, on_pause
        self._left_s, self._counted_at = _BURST_S, now()

    @property
    def pause_s(self) -> float:
        """How long to read nothing."""
        return max(0.0, -self._left_s / self._rate - (self._now() - self._counted_at))

    @property
    def is_ahead(self) -> bool:
        """Whether there may be something to wait for."""
        return self._left_s < 0

    async def wait(self) -> None:
        if self.is_ahead and (pause_s := self.pause_s) > 0:
            self._on_pause(pause_s)
            await asyncio.sleep(pause_s)

    def on_payload(self, event: PayloadReceived) -> None:
        now = self._now()
        left_s = self._left_s + (now - self._counted_at) * self._rate
        self._left_s = (left_s if left_s < _BURST_S else _BURST_S) - event.audio_ms / 1000
        self._counted_at = now

    def on_block(self, event: BlockSubmitted) -> None:
        pass

    def on_answer(self, event: AnswerSent) -> None:
        pass

    def on_end(self, event: SessionEnded) -> None:
        pass
