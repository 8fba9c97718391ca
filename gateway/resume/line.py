"""A call's line to its caller: it may break, and the caller may come back over another connection.

The task that reads the caller is also the one that welcomes a caller who comes back, between two messages, so that
what was taken of the sound is known to the sample. What is said while nobody is there is kept, and said then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.caller import Caller, Heard
from gateway.errors import CallerGone, SessionError, bad_field
from gateway.resume.said import Said

_REST_AFTER_S = 3.0  # without its caller a call needs no worker


@dataclass(frozen=True, slots=True)
class _Newcomer:
    caller: Caller
    heard: int | None
    left: asyncio.Future[bool]


class Line:
    """As its call sees it, a caller. `hear` must be waited for as long as the call lasts."""

    def __init__(
        self,
        caller: Caller,
        said: Said,
        *,
        window_s: float,
        draining: asyncio.Event,
        on_rest: Callable[[], bool],
        on_return: Callable[[], dict[str, Any]],
    ) -> None:
        """`on_rest`: the caller has been away for a while; false: not yet, ask again. `on_return`: the caller is back;
        what to tell. window_s: how long they may stay away; 0: not at all."""
        self.caller = caller  # the latest
        self.said = said
        self._window_s, self._draining = window_s, draining
        self._on_rest, self._on_return = on_rest, on_return
        self._loop = asyncio.get_running_loop()
        self._up = True
        self._position = said.end  # up to here was said over this connection
        self._newcomer: _Newcomer | None = None
        self._left: asyncio.Future[bool] = self._loop.create_future()  # by the present caller
        self._came = asyncio.Event()
        self._speaking = asyncio.Lock()
        self._moved = asyncio.Event()
        self._resting: asyncio.TimerHandle | None = None

    @property
    def is_up(self) -> bool:
        return self._up

    @property
    def may_return(self) -> bool:
        return self._window_s > 0

    async def is_alive(self) -> bool:
        """Whether the caller answers within moments."""
        return self._up and await self.caller.is_alive()

    # --- who comes back -------------------------------------------------------------------------------------

    async def take(self, caller: Caller, heard: int | None) -> bool:
        """`caller` is the call's from now on; returns when it is no more, False if the call was over before.

        heard: the position up to which it has heard; None: as it acknowledged, or all that was said. Raises
        `SessionError` where what follows cannot be said again.
        """
        if heard is not None:
            self._check(heard)
        left = self._loop.create_future()
        if self._newcomer is not None:
            _release(self._newcomer.left, served=False)
        self._newcomer = _Newcomer(caller, heard, left)
        if self._up:
            self.caller.cut()  # whoever hears them notices
        self._came.set()
        return await left

    async def until_left(self) -> None:
        """Until the present caller is no longer the call's."""
        await asyncio.shield(self._left)

    def close(self) -> None:
        """The call is over."""
        self._cancel_rest()
        _release(self._left)
        if self._newcomer is not None:
            _release(self._newcomer.left, served=False)

    # --- as a caller ----------------------------------------------------------------------------------------

    async def hear(self) -> Heard:
        """The next payload or cue, of whichever connection. Raises `CallerGone` when nobody comes back in time."""
        while True:
            if self._newcomer is not None:
                await self._welcome(self._newcomer)
            elif not self._up:
                await self._wait()
            else:
                caller = self.caller
                try:
                    return await caller.hear()
                except (CallerGone, ConnectionError) as error:
                    self.lose(caller, error)
                    if self._newcomer is None and (not self.may_return or _hung_up(error)):
                        raise

    async def say(self, payloads: Sequence[bytes]) -> None:
        """Now, or when the caller is back."""
        for payload in payloads:
            self.said.add(payload)
        await self._speak()

    async def settle(self) -> None:
        """Wait until everything was said."""
        while not (self._up and self._position >= self.said.end):
            self._moved.clear()
            await self._moved.wait()

    async def tell(self, words: Callable[[Caller], Any]) -> None:
        """Something that is of no use to who is not there."""
        if self._up:
            with contextlib.suppress(CallerGone, ConnectionError):
                await words(self.caller)

    # --- within ---------------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        async with self._speaking:
            caller = self.caller
            while self._up and caller is self.caller and self._position < self.said.end:
                messages, self._position = self.said.after(self._position)  # on its way when this is cancelled
                try:
                    if messages:  # else the caller has acknowledged what it was not told yet
                        await caller.say(messages)
                except (CallerGone, ConnectionError) as error:
                    self.lose(caller, error)
                    if not self.may_return:
                        raise
            self._moved.set()

    def _check(self, heard: int) -> None:
        begin, end = self.said.begin, self.said.end
        if not begin <= heard <= end:
            raise bad_field("heard", f"samples {begin} to {end} can be said again, not those from {heard} on")

    async def _welcome(self, newcomer: _Newcomer) -> None:
        self._newcomer = None
        self._came.clear()
        said = self.said
        heard = newcomer.heard
        if heard is None:
            heard = said.end if said.acknowledged is None else said.acknowledged
        try:
            self._check(heard)
        except SessionError as error:  # it was still kept when they came
            with contextlib.suppress(CallerGone, ConnectionError):
                await newcomer.caller.refuse(error)
            _release(newcomer.left)
            return
        self.lose(self.caller, CallerGone())
        self._cancel_rest()
        async with self._speaking:
            self.caller, self._left, self._position, self._up = newcomer.caller, newcomer.left, heard, True
            try:
                await newcomer.caller.ready(self._on_return() | {"heard": heard})
            except (CallerGone, ConnectionError) as error:
                self.lose(newcomer.caller, error)
        await self._speak()

    async def _wait(self) -> None:
        waits = [asyncio.ensure_future(self._came.wait()), asyncio.ensure_future(self._draining.wait())]
        try:
            await asyncio.wait(waits, timeout=self._window_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._newcomer is None:
            raise CallerGone

    def lose(self, caller: Caller, error: Exception) -> None:
        """This connection is no more."""
        if not self._up or caller is not self.caller:
            return
        self._up = False
        _release(self._left)
        if _hung_up(error):
            return
        caller.cut()
        if self.may_return:
            self._resting = self._loop.call_later(_REST_AFTER_S, self._rest)

    def _rest(self) -> None:
        if not self._on_rest():
            self._resting = self._loop.call_later(_REST_AFTER_S, self._rest)

    def _cancel_rest(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None


def _release(left: asyncio.Future[bool], *, served: bool = True) -> None:
    if not left.done():
        left.set_result(served)


def _hung_up(error: Exception) -> bool:
    return isinstance(error, CallerGone) and error.hung_up
