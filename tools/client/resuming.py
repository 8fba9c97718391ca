"""A call that outlives its connections: `call` with the protocol's words for coming back.

What was not answered is sent again and what was not heard is asked for again, by position in samples; a service that is
stopped, killed or cut off costs its callers the time that it is away.
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tools.client.client import Call, CallConfig, CallError, Pcm, Sent, encode_source, error_text

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_ACK_INTERVAL_S = 1.0
_LATER = ("OVERLOADED", "TOO_MANY_SESSIONS", "WORKER_LOST", "TIMEOUT")  # codes after which trying again may help
_LOST = (aiohttp.ClientError, OSError, TimeoutError)  # what a broken connection raises


@dataclass(frozen=True, slots=True)
class Break:
    """One time that the connection was lost. Seconds of the monotonic clock."""

    at: float
    back_at: float
    new_stream: bool
    attempts: int


@dataclass(slots=True)
class ResumingCall(Call):
    """What happened, over all connections and streams; `complete` is the last stream's."""

    breaks: list[Break] = field(default_factory=list)
    concealed: int = 0  # blocks, as they were announced


async def resuming_call(
    http: aiohttp.ClientSession,
    config: CallConfig,
    wave: Pcm,
    on_answer: Callable[[float], None] = lambda ms: None,
    *,
    give_up_after_s: float = 30.0,
) -> ResumingCall:
    """As `tools.client.client.call`; a lost connection is made anew for `give_up_after_s`. Raises `CallError`."""
    messages = await asyncio.to_thread(encode_source, wave, config)
    made = ResumingCall(config, messages[-1][1] if messages else 0.0)
    await _Resuming(http, config, messages, made, on_answer).run(give_up_after_s)
    return made


class _Resuming:
    def __init__(
        self,
        http: aiohttp.ClientSession,
        config: CallConfig,
        messages: list[tuple[bytes, float]],
        made: ResumingCall,
        on_answer: Callable[[float], None],
    ) -> None:
        self._http, self._config, self._messages = http, config, messages
        self._made, self._on_answer = made, on_answer
        self._ends = [audio_ms for _, audio_ms in messages]
        self._token: str | None = None
        self._session_id = config.session_id
        self._heard = 0  # samples at the output's rate
        self._acknowledged_at = 0.0
        self._padded_ms = 0.0
        self._started: float | None = None
        self._going_away = False

    async def run(self, give_up_after_s: float) -> None:
        broke_at: float | None = None
        attempts = 0
        while True:
            try:
                async with self._http.ws_connect(self._config.url, max_msg_size=0) as socket:
                    ready = await self._open(socket)
                    if broke_at is not None:
                        new = bool(ready.get("new_stream"))
                        self._made.breaks.append(Break(broke_at, time.monotonic(), new, attempts))
                        broke_at, attempts = None, 0
                    if await self._talk(socket, ready):
                        return
                reason = "the service goes away" if self._going_away else f"closed with {socket.close_code}"
            except _LOST as error:
                reason = str(error) or type(error).__name__
            if self._token is None:
                raise CallError(f"connection lost before the session was ready: {reason}")
            broke_at = broke_at or time.monotonic()
            if time.monotonic() - broke_at > give_up_after_s:
                raise CallError(f"connection lost, and not made anew within {give_up_after_s:g} s: {reason}")
            await asyncio.sleep(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempts))
            attempts += 1

    async def _open(self, socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
        """The answer to the first message. Raises `CallError`, or what a lost connection raises."""
        self._going_away = False
        first = self._config.first_message() | {"stats": True}
        if self._token is not None:
            first |= {"session_id": self._session_id, "resume": self._token, "padded_ms": self._padded_ms}
            first |= {"heard": self._heard, "kept": 0}
        await socket.send_json(first)
        content = await self._control(socket)
        if content["type"] == "error":
            if content.get("error_code") in _LATER and self._token is not None:
                raise ConnectionError(error_text(content))
            raise CallError(error_text(content))
        if self._token is None:
            self._made.ready = content
        self._token, self._session_id = content.get("resume"), content["session_id"]
        return content

    async def _control(self, socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
        async with asyncio.timeout(self._config.timeout_s):
            message = await socket.receive()
        if message.type != aiohttp.WSMsgType.TEXT:
            raise ConnectionError(f"closed with {socket.close_code} before it was ready")
        content: dict[str, Any] = json.loads(message.data)
        return content

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse, ready: dict[str, Any]) -> bool:
        """Until the call is complete, or the connection is not; which of the two."""
        sending = asyncio.create_task(self._send(socket, int(ready.get("received", 0))))
        try:
            return await self._receive(socket)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, socket: aiohttp.ClientWebSocketResponse, received: int) -> None:
        """From sample `received` on."""
        real_time, rate = self._config.real_time, self._config.sample_rate
        if self._started is None:
            self._started = time.monotonic()
        from_ms = received / rate * 1000
        first = bisect_right(self._ends, from_ms + 1e-6)
        for index in range(first, len(self._messages)):
            payload, audio_ms = self._messages[index]
            if index == first and self._config.encoding != "OPUS":
                missing = round((audio_ms - from_ms) * rate / 1000)
                payload = payload[-2 * missing :]
            due = self._started + audio_ms / 1000 if real_time else time.monotonic()
            if (ahead := due - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            await socket.send_bytes(payload)
            if not self._made.sent or self._made.sent[-1].audio_ms < audio_ms:
                self._made.sent.append(Sent(due, time.monotonic(), audio_ms))
        self._made.end_due = self._made.sent[-1].due if self._made.sent else self._started
        await socket.send_json({"type": "end"})

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> bool:
        complete: dict[str, Any] | None = None
        while True:
            async with asyncio.timeout(self._config.timeout_s):
                message = await socket.receive()
            if message.type == aiohttp.WSMsgType.BINARY:
                await self._take(socket, message.data)
            elif message.type == aiohttp.WSMsgType.TEXT:
                content = json.loads(message.data)
                match content.get("type"):
                    case "stats":
                        self._padded_ms = float(content.get("padded_ms", 0.0))
                        self._made.concealed += bool(content.get("concealed"))
                    case "going_away":
                        self._going_away = True
                    case "complete":
                        complete = content.get("stats", {})
                    case "error" if content.get("error_code") not in _LATER:
                        raise CallError(error_text(content))
            else:
                break
        if complete is None or (self._going_away and self._is_short):
            return False
        self._made.complete, self._made.close_code = complete, socket.close_code
        return True

    async def _take(self, socket: aiohttp.ClientWebSocketResponse, payload: bytes) -> None:
        now = time.monotonic()
        self._made.received.append((now, payload))
        ms = self._made.message_ms(payload)
        self._heard += round(ms * self._config.sample_rate_out / 1000)
        self._on_answer(ms)
        if now - self._acknowledged_at > _ACK_INTERVAL_S:
            self._acknowledged_at = now
            await socket.send_json({"type": "ack", "heard": self._heard})

    @property
    def _is_short(self) -> bool:
        """Whether the service left before it had heard all."""
        heard_ms = self._heard / self._config.sample_rate_out * 1000 - self._padded_ms - self._made.lead_ms
        return heard_ms < self._made.input_ms - 1
