"""Watches how long a caller says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

_READ_FIRST_S = 0.02


class SilenceWatch:
    """Made by the task that reads a caller: has what is held sent on when no sound comes for `hold_s`, and cancels the
    task when there was no sign of life at all for `idle_s`. Only time in which the task waits for its caller counts.

    Nor does time in which this process was stopped or kept busy: before anything is done about a silence, what has come
    meanwhile is read.

    It looks once in a while instead of being set again with every message: a caller sends fifty a second.
    """

    def __init__(self, *, idle_s: float, hold_s: float, on_pause: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.idle = False  # the task was cancelled for it
        self.interrupted = False  # the task was cancelled by `interrupt_at`
        self.error: Exception | None = None  # of `on_pause`; the task was cancelled for it
        self.waiting = False  # for the caller; false while the caller's message is worked on
        self._idle_s, self._hold_s, self._on_pause = idle_s, hold_s, on_pause
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._alive_at = self._sound_at = self._loop.time()
        self._sounded = False  # the message that is worked on is sound
        self._holds = False  # sound that has not been sent on
        self._pausing: asyncio.Task[None] | None = None
        self._handle: asyncio.Handle = self._loop.call_later(min(idle_s, hold_s), self._look)

    def listen(self) -> None:
        """The task waits for its caller from now on."""
        self.waiting = True
        self._alive_at = self._loop.time()
        if self._sounded:
            self._sounded, self._holds = False, True
            self._sound_at = self._alive_at

    def heard(self, *, sound: bool) -> None:
        """A message has come; `paused` is to be waited for, where something `is_pausing`."""
        self.waiting = False
        self._sounded = sound

    @property
    def is_pausing(self) -> bool:
        """Whether what was held before the message may not be on its way yet."""
        return self._pausing is not None

    async def paused(self) -> None:
        """Until it is."""
        if self._pausing is not None:
            await self._pausing
            self._pausing = None

    async def interrupt_at(self, event: asyncio.Event) -> None:
        """Cancel the task at `event` if it waits for its caller; a message that is worked on is not torn."""
        await event.wait()
        if self.waiting:
            self.interrupted = True
            self._task.cancel()

    async def stop(self) -> None:
        """No more looking; what is being sent on is waited for."""
        self._handle.cancel()
        if self._pausing is not None:
            with suppress(Exception):  # it is in `error`
                await self._pausing

    def _look(self) -> None:
        now = self._loop.time()
        pausing = self._holds and now >= self._sound_at + self._hold_s
        if self.waiting and (pausing or now >= self._alive_at + self._idle_s):
            self._handle = self._loop.call_later(_READ_FIRST_S, self._look_last, self._alive_at)
        else:
            self._judge(self._alive_at)

    def _look_last(self, silent_since: float) -> None:
        self._handle = self._loop.call_soon(self._judge, silent_since)  # who was woken by what has come goes first

    def _judge(self, silent_since: float) -> None:
        if self._alive_at != silent_since:
            self._look()
            return
        now = self._loop.time()
        left_s = self._alive_at + self._idle_s - now if self.waiting else self._idle_s
        if left_s <= 0:
            self.idle = True
            self._task.cancel()
            return
        hold_left_s = self._sound_at + self._hold_s - now
        if self._holds and self.waiting and hold_left_s <= 0 and self._pausing is None:
            self._holds = False
            self._pausing = self._loop.create_task(self._pause())
        next_s = hold_left_s if self._holds and hold_left_s > 0 else self._hold_s
        self._handle = self._loop.call_later(min(left_s, next_s), self._look)

    async def _pause(self) -> None:
        try:
            await self._on_pause()
        except Exception as error:
            self.error = error
            if self.waiting:
                self._task.cancel()
            raise
