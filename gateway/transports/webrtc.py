"""Callers over WebRTC: sound as RTP both ways, and a data channel for the standard protocol's control messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gateway.auth.principal import Principal
from gateway.caller import Cue, Heard, Lost
from gateway.errors import CallerGone, SessionError
from gateway.protocols.reading import read_object
from gateway.protocols.standard import StandardProtocol, standard_error
from gateway.request import SessionRequest
from gateway.rtp.jitter import JitterBuffer
from gateway.rtp.offer import Offer
from gateway.rtp.peer import Peer
from gateway.rtp.playout import FRAME_MS, Playout
from shared.settings import IceServer

ALIVE_TIMEOUT_S = 2.0  # for any sign of life, when somebody asks
_FLUSH_TIMEOUT_S = 2.0  # for the last word to arrive
_LAST_PACKETS_S = 0.2  # on their way when the last word is said
_MAX_UNHEARD = 1000  # packets and messages that the call has not taken: 20 s of sound
_MAX_UNSENT = 250  # packets that wait for their slots: 5 s
_MAX_RATE = 48_000
_FORMAT = {"encoding": "OPUS", "encoding_out": "OPUS", "sample_rate": _MAX_RATE, "opus_frame_duration": FRAME_MS}
_WINDOW_S = 2.0  # in which several answers come, besides one block


class WebRtcCaller:
    """A `Caller`. Its first message is the data channel's first, or `config`, what came with the offer."""

    transport = "WebRTC"
    may_return = True

    def __init__(
        self,
        *,
        address: str,
        principal: Principal | None,
        ice_servers: Sequence[IceServer],
        config: dict[str, Any] | None,
    ) -> None:
        """`principal`: whose credential came with the offer. Raises `ImportError` without the extra."""
        self.address, self.principal = address, principal
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._jitter = JitterBuffer()
        self._timer: asyncio.TimerHandle | None = None
        self._playout = Playout()
        self._inbox: deque[Heard | str] = deque()
        self._unheard = 0  # packets that found no room there
        self._came = asyncio.Event()
        self._sent = asyncio.Event()
        self._gone = self._hung_up = self._ended = False
        self._protocol: StandardProtocol | None = None
        self._peer = Peer(ice_servers, self, self._playout)

    async def accept(self, offer: Offer) -> str:
        """The answer. Raises `SessionError` for an offer that cannot be used."""
        return await self._peer.answer(offer)

    async def hang_up(self) -> None:
        """Nothing more is said or heard."""
        self.on_gone(hung_up=True)
        if self._timer is not None:
            self._timer.cancel()
        await self._peer.close()

    # --- what the call asks for -----------------------------------------------------------------------------

    async def introduce(self) -> SessionRequest:
        if self._config is not None:
            content = self._config
            await self._peer.until_connected()
        else:
            while not isinstance(first := await self._next(), str):
                pass
            content = read_object(first)
        if not content:
            raise SessionError("INVALID_CONFIG", "the first message must be a JSON object that configures the session")
        content = {"type": "config", **content, **_FORMAT}
        content["sample_rate_out"] = content.get("sample_rate_out") or _MAX_RATE
        self._protocol = StandardProtocol(content)
        request = self._protocol.request
        return replace(request, audio_out=replace(request.audio_out, redundant=True))

    async def ready(self, details: dict[str, Any]) -> None:
        assert self._protocol is not None
        self._playout.window_s = _WINDOW_S + details["block_ms"] / 1000
        await self._tell(self._protocol.ready(details))

    async def hear(self) -> Heard:
        assert self._protocol is not None
        heard = await self._next()
        if not isinstance(heard, str):
            return heard
        cue = self._protocol.read(heard)
        if cue is Cue.PING:
            await self._tell(self._protocol.pong())
        if cue is Cue.END:
            await self._hear_the_rest()
            return await self.hear() if self._inbox else Cue.END
        return Cue.UNKNOWN if isinstance(cue, Lost) else cue  # RTP knows better

    async def say(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            while len(self._playout) >= _MAX_UNSENT and not self._gone:
                await self._until_sent()
            if self._gone:
                raise CallerGone
            self._playout.put(payload, self._loop.time())
            self._peer.wake()

    async def warn(self, message: str, seconds_left: int) -> None:
        assert self._protocol is not None
        await self._tell(self._protocol.warning(message, seconds_left))

    async def report(self, stats: dict[str, Any]) -> None:
        assert self._protocol is not None
        await self._tell(self._protocol.report(stats))

    async def going_away(self, resume_within_s: float) -> None:
        assert self._protocol is not None
        await self._tell(self._protocol.going_away(resume_within_s))

    async def complete(self, stats: dict[str, Any], *, going_away: bool) -> bool:
        assert self._protocol is not None
        while len(self._playout) and not self._gone:
            await self._until_sent()
        await asyncio.sleep(_LAST_PACKETS_S)
        await self._tell(self._protocol.complete(stats))
        return await self._peer.flush(_FLUSH_TIMEOUT_S) or self._hung_up  # who has heard it may hang up first

    async def refuse(self, error: SessionError) -> None:
        explain = standard_error if self._protocol is None else self._protocol.error
        await self._tell(explain(error))
        await self._peer.flush(_FLUSH_TIMEOUT_S)

    async def forward(self, port: int) -> None:
        raise CallerGone  # packets cannot be passed on: the caller gets a new stream here

    def cut(self) -> None:
        self.on_gone(hung_up=False)

    async def is_alive(self) -> bool:
        return not self._gone and await self._peer.answers(ALIVE_TIMEOUT_S)

    async def _until_sent(self) -> None:
        """One packet more, or nobody is there."""
        self._sent.clear()
        await self._sent.wait()

    async def _tell(self, text: str | None) -> None:
        if text is not None:
            await self._peer.send_text(text)

    # --- what arrives ---------------------------------------------------------------------------------------

    def on_packet(self, sequence: int, timestamp: int, ssrc: int, payload: bytes) -> None:
        if not self._ended and payload:
            self._take(self._jitter.push(sequence, timestamp, ssrc, payload, self._loop.time()))
            self._set_timer()

    def on_text(self, text: str | None) -> None:
        if len(self._inbox) < _MAX_UNHEARD:
            self._inbox.append(Cue.UNKNOWN if text is None else text)
            self._came.set()

    def on_sent(self) -> None:
        self._sent.set()

    def on_gone(self, *, hung_up: bool) -> None:
        if not self._gone:
            self._gone, self._hung_up = True, hung_up
        self._came.set()
        self._sent.set()

    def _take(self, released: Sequence[bytes | Lost]) -> None:
        for one in released:
            if len(self._inbox) >= _MAX_UNHEARD:
                self._unheard += one.count if isinstance(one, Lost) else 1
                continue
            if self._unheard:
                self._inbox.append(Lost(self._unheard))
                self._unheard = 0
            self._inbox.append(one)
        if released:
            self._came.set()

    def _set_timer(self) -> None:
        due = self._jitter.due
        if due is not None and self._timer is None:
            self._timer = self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._take(self._jitter.expire(self._loop.time()))
        self._set_timer()

    async def _next(self) -> Heard | str:
        while not self._inbox:
            if self._gone:
                raise CallerGone(hung_up=self._hung_up)
            self._came.clear()
            await self._came.wait()
        return self._inbox.popleft()

    async def _hear_the_rest(self) -> None:
        """Sound that was sent before the end, and is still on its way."""
        await asyncio.sleep(self._jitter.wait_s)
        self._ended = True
        self._take(self._jitter.flush())
        if self._inbox:
            self._inbox = deque([one for one in self._inbox if not isinstance(one, str)])
            self._inbox.append(Cue.END)
