"""Callers over WebSocket: one text message configures, text is control from then on, binary is sound."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from aiohttp import WebSocketError, WSMessage, WSMsgType, web

from gateway.auth.principal import Principal
from gateway.caller import Cue, Heard
from gateway.errors import CallerGone, SessionError
from gateway.protocols.contract import ClientProtocol
from gateway.protocols.first import error_writer, parse_first
from gateway.protocols.standard import standard_error
from gateway.request import SessionRequest
from gateway.transports.relay import relay

PING_INTERVAL_S = 15.0  # notices a caller whose network is gone
CLOSE_TIMEOUT_S = 2.0  # for the caller's side of the closing handshake
_QUIET_S = 0.2  # without data: the caller has heard that nobody listens
ALIVE_TIMEOUT_S = 2.0  # for any sign of life, when somebody asks
_LONGEST_CONTROL_BYTES = 256  # of a control message that is sent as binary by mistake
_GOING_AWAY = 1001
_MESSAGE_TOO_BIG = 1009
_GOODBYES = (0, 1000, 1005)  # close codes of who hangs up; with others something ended the connection
_BROKEN = 1006
_PUT_OFF_S = 0.5  # so much too early a heartbeat may be
_BINARY = WSMsgType.BINARY
_WHOLE_BINARY = 0x80 | _BINARY  # a frame that is a whole message
_MESSAGES = frozenset((WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG))
_FAULTS = (1002, 1007, _MESSAGE_TOO_BIG)


class _Socket(web.WebSocketResponse):
    """A WebSocket that leaves it to its owner to answer a message that cannot be accepted."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.reading = False
        self.data_came = asyncio.Event()
        self._put_off_at = 0.0  # loop time at which the heartbeat was, at the latest

    def _on_data_received(self) -> None:
        """Fifty times a second: the base class need not put its heartbeat off each time, if it waits for no pong."""
        self.data_came.set()
        assert self._loop is not None
        now = self._loop.time()
        if self._pong_response_cb is None and now < self._put_off_at + _PUT_OFF_S:
            return
        self._put_off_at = now
        super()._on_data_received()

    @property
    def is_backed_up(self) -> bool:
        """Whether what came is not read, because it came faster than it is worked on."""
        return self._req is not None and self._req.protocol._reading_paused

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        """As the base class, which calls this itself while it reads such a message."""
        if self.reading and code in _FAULTS:
            return True
        return await super().close(code=code, message=message, drain=drain)

    async def send_all(self, messages: Sequence[bytes]) -> None:
        """As `send_bytes` of each, but written at once: the kernel is called and the event loop told a single time."""
        writer = self._writer
        if writer is not None and len(messages) > 1 and not (writer._closing or writer.transport.is_closing()):
            frames = b"".join([_head(len(message)) + message for message in messages[:-1]])
            writer.transport.write(frames)
            writer._output_size += len(frames)  # it waits for a caller who has so much to read yet
        await self.send_bytes(messages[-1])

    async def hang_up(self, code: int, reason: bytes) -> None:
        """Close frame, and what the caller has to say to it."""
        await self.close(code=code, message=reason)

    def cut(self) -> None:
        """No more words."""
        if self._req is not None and self._req.transport is not None:
            self._req.transport.abort()

    async def break_off(self, code: int, reason: bytes) -> None:
        """Close frame at once; then let the rest of a broken message run in: a reset would overtake what was said."""
        if self._writer is None or self._req is None or self._req.transport is None:
            return
        await self._writer.close(code, reason)
        transport = self._req.transport
        remains = _Remains(self._req.protocol)
        transport.set_protocol(remains)
        transport.resume_reading()
        while not transport.is_closing() and remains.came.is_set():
            remains.came.clear()
            await asyncio.sleep(_QUIET_S)
        self._set_closed()
        transport.close()


def _head(size: int) -> bytes:
    """Of a whole binary message as a server sends it (RFC 6455, 5.2)."""
    if size < 126:
        return bytes((_WHOLE_BINARY, size))
    return (
        struct.pack("!BBH", _WHOLE_BINARY, 126, size)
        if size < 1 << 16
        else struct.pack("!BBQ", _WHOLE_BINARY, 127, size)
    )


class _Remains(asyncio.Protocol):
    """Takes what a connection still brings, for nobody."""

    def __init__(self, former: asyncio.BaseProtocol) -> None:
        self.came = asyncio.Event()
        self.came.set()
        self._former = former

    def data_received(self, data: bytes) -> None:
        self.came.set()

    def pause_writing(self) -> None:
        self._former.pause_writing()

    def resume_writing(self) -> None:
        self._former.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._former.connection_lost(exc)


class WebSocketCaller:
    """A `Caller` over one WebSocket."""

    transport = "WebSocket"

    def __init__(
        self,
        *,
        max_message_bytes: int,
        allow_simple: bool,
        address: str,
        principal: Principal | None,
        subprotocols: Sequence[str] = (),
    ) -> None:
        """`principal`: whose credential came with the upgrade; `subprotocols`: what it offered, of which the first is
        echoed, for a browser hangs up on a server that takes none."""
        self.address, self.principal = address, principal
        # aiohttp refuses what is as long as its limit; ours may be reached
        self._socket = _Socket(
            max_msg_size=max_message_bytes + 1,
            heartbeat=PING_INTERVAL_S,
            autoping=False,
            compress=False,
            timeout=CLOSE_TIMEOUT_S,
            protocols=subprotocols[:1],
        )
        self._max_message_bytes = max_message_bytes
        self._allow_simple = allow_simple
        self._explain: Callable[[SessionError], str] = standard_error
        self._protocol: ClientProtocol | None = None
        self._broken = False  # a message could not be accepted: nothing more can be read
        self._now = asyncio.get_running_loop().time
        self._frame_at = self._now()  # of the latest frame
        self._silent_s = 0.0  # before it

    async def accept(self, request: web.Request) -> web.WebSocketResponse:
        """The upgrade."""
        self._request = request
        await self._socket.prepare(request)
        return self._socket

    async def introduce(self) -> SessionRequest:
        while (message := await self._next()).type in (WSMsgType.PING, WSMsgType.PONG):
            await self._beat(message)
        if message.type == WSMsgType.BINARY:
            raise SessionError("INVALID_CONFIG", "the first message must be text: a JSON object, not audio")
        self._first: str = message.data
        self._explain = error_writer(message.data)
        self._protocol = parse_first(message.data, allow_simple=self._allow_simple)
        self._explain = self._protocol.error
        self.transport = f"WebSocket, {self._protocol.name} protocol"
        return self._protocol.request

    @property
    def may_return(self) -> bool:
        """Whether this caller's protocol has words for coming back."""
        return self._protocol is not None and self._protocol.may_return

    async def ready(self, details: dict[str, Any]) -> None:
        assert self._protocol is not None
        if (text := self._protocol.ready(details)) is not None:
            await self._socket.send_str(text)

    async def hear(self) -> Heard:
        assert self._protocol is not None
        while True:
            message = await self._next()
            if message.type is _BINARY:
                sound: bytes = message.data
                is_text = sound.startswith(b"{") and len(sound) <= _LONGEST_CONTROL_BYTES
                return Cue.END if is_text and self._is_end(sound) else sound
            if message.type is WSMsgType.TEXT:
                heard = self._protocol.read(message.data)
                if heard is Cue.PING:
                    await self._socket.send_str(self._protocol.pong())
                return heard
            if (cue := await self._beat(message)) is not None:
                return cue

    async def say(self, payloads: Sequence[bytes]) -> None:
        await self._socket.send_all(payloads)

    async def warn(self, message: str, seconds_left: int) -> None:
        assert self._protocol is not None
        if (text := self._protocol.warning(message, seconds_left)) is not None:
            with contextlib.suppress(ConnectionError):  # whoever reads notices
                await self._socket.send_str(text)

    async def report(self, stats: dict[str, Any]) -> None:
        assert self._protocol is not None
        if (text := self._protocol.report(stats)) is not None:
            await self._socket.send_str(text)

    async def going_away(self, resume_within_s: float) -> None:
        assert self._protocol is not None
        if (text := self._protocol.going_away(resume_within_s)) is not None:
            await self._socket.send_str(text)

    async def complete(self, stats: dict[str, Any], *, going_away: bool) -> bool:
        assert self._protocol is not None
        return await self._end(self._protocol.complete(stats), _GOING_AWAY if going_away else 1000, b"")

    async def refuse(self, error: SessionError) -> None:
        await self._end(self._explain(error), error.close_code, error.code.encode())

    async def forward(self, port: int) -> None:
        await relay(self._socket, self._first, self._request, port)

    def cut(self) -> None:
        self._socket.cut()

    async def is_alive(self) -> bool:
        if self._socket.closed or self._socket.is_backed_up:
            return not self._socket.closed
        self._socket.data_came.clear()
        with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
            async with asyncio.timeout(ALIVE_TIMEOUT_S):
                await self._socket.ping()
                await self._socket.data_came.wait()
                return True
        return False

    # --- within ---------------------------------------------------------------------------------------------

    async def _next(self) -> WSMessage:
        """A text, binary, ping or pong message. Raises `CallerGone`, or `SessionError` for what cannot be accepted."""
        socket = self._socket
        socket.reading = True
        try:
            message = await socket.receive()
        finally:
            socket.reading = False
        if message.type is _BINARY or message.type in _MESSAGES:
            now = self._now()
            self._silent_s, self._frame_at = now - self._frame_at, now
            return message
        if message.type == WSMsgType.ERROR and isinstance(message.data, WebSocketError):
            self._broken = True
            code = int(message.data.code)
            reason = f"a message exceeds {self._max_message_bytes} bytes" if code == _MESSAGE_TOO_BIG else (
                f"malformed message: {message.data}"
            )  # fmt: skip
            raise SessionError("INVALID_AUDIO", reason[:200], close_code=code)
        raise CallerGone(hung_up=message.type == WSMsgType.CLOSE and message.data in _GOODBYES)

    async def _beat(self, message: WSMessage) -> Cue | None:
        """What a ping or pong means: nothing at all if it only answers our own ping, which we sent for want of any
        other frame."""
        if message.type == WSMsgType.PING:
            await self._socket.pong(message.data)
        elif not message.data and self._silent_s >= PING_INTERVAL_S - 1:
            return None
        return Cue.ALIVE

    def _is_end(self, sound: bytes) -> bool:
        assert self._protocol is not None
        try:
            return self._protocol.read(sound.decode()) is Cue.END
        except (UnicodeDecodeError, SessionError):
            return False

    async def _end(self, last_word: str, code: int, reason: bytes) -> bool:
        """Whether the caller took it. Who cannot is not waited for: then the connection is cut."""
        if self._socket.closed:
            return False
        said = await _within(self._socket.send_str(last_word), CLOSE_TIMEOUT_S)
        close = self._socket.break_off if self._broken else self._socket.hang_up
        if not said or not await _within(close(code, reason), 2 * CLOSE_TIMEOUT_S):
            self._socket.cut()
            return False
        return self._socket.close_code != _BROKEN


async def _within(work: Coroutine[Any, Any, object], timeout_s: float) -> bool:
    """Whether `work` came to a good end in time. It has its own task: aiohttp may cancel whoever waits for a caller."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=timeout_s)
    finally:
        if not task.done():
            task.cancel()
    return task.done() and not task.cancelled() and task.exception() is None
