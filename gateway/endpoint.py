"""The WebSocket endpoint: from the upgrade to the close, for both protocols."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any

from aiohttp import WSMsgType, web

from gateway.auth import is_allowed
from gateway.blocks import Layout
from gateway.metrics import Metrics
from gateway.pool import Pool, Reservation
from gateway.protocols import (
    CLOSE_CODES,
    ClientProtocol,
    SessionError,
    is_simple,
    parse_first,
    simple_error,
    standard_error,
)
from gateway.session import Session
from gateway.stream import Stream
from shared.audio import LINK_RATE, RESAMPLER_LAG_MS
from shared.config import Config
from shared.log import for_session

_PING_INTERVAL_S = 15.0  # notices a caller whose network is gone
_CLOSE_TIMEOUT_S = 2.0  # for the caller's side of the closing handshake
_GOING_AWAY = 1001


class CallerGone(Exception):
    """The caller closed or lost the connection before the session was over."""


class CallerSocket(web.WebSocketResponse):
    """A WebSocket that says why before it closes on a message it cannot accept."""

    def __init__(self, max_message_bytes: int) -> None:
        super().__init__(
            max_msg_size=max_message_bytes, heartbeat=_PING_INTERVAL_S, compress=False, timeout=_CLOSE_TIMEOUT_S
        )
        self._max_message_bytes = max_message_bytes
        self.explain: Callable[[SessionError], str] = standard_error
        self.fault: SessionError | None = None

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        """As the base class; it also calls this itself for a message that is too large or malformed."""
        if code in (1002, 1007, 1009) and not self.closed and self.fault is None:
            reason = f"a message exceeds {self._max_message_bytes} bytes" if code == 1009 else "malformed message"
            self.fault = SessionError("INVALID_AUDIO", reason)
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                await asyncio.wait_for(self._refuse(self.fault, code), _CLOSE_TIMEOUT_S)
        return await super().close(code=code, message=message, drain=drain)

    async def _refuse(self, fault: SessionError, code: int) -> None:
        """Error and close frame, then let the rest of the message run in: a reset would overtake them."""
        await self.send_str(self.explain(fault))
        assert self._writer is not None
        assert self._req is not None
        await self._writer.close(code, fault.code.encode())
        while self._req.transport is not None and not self._req.transport.is_closing():  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


class IdleTimer:
    """Cancels the task that made it when nothing was heard for too long while it waits.

    It looks once in a while instead of being set again with every message: a caller sends fifty a second.
    """

    def __init__(self, timeout_s: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.timeout_s = timeout_s
        self.expired = False
        self.waiting = True  # for the caller; false while the caller's message is worked on
        self._task = task
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.heard_at = self.now()
        self._handle = self._loop.call_later(timeout_s, self._look)

    def stop(self) -> None:
        self._handle.cancel()

    def _look(self) -> None:
        left_s = self.heard_at + self.timeout_s - self.now() if self.waiting else self.timeout_s
        if left_s > 0:
            self._handle = self._loop.call_later(left_s, self._look)
        else:
            self.expired = True
            self._task.cancel()


class Endpoint:
    """Serves sessions until it is told to drain."""

    def __init__(self, config: Config, pool: Pool, metrics: Metrics, codec_threads: Executor) -> None:
        self._config = config
        self._pool = pool
        self._metrics = metrics
        self._threads = codec_threads
        self._draining = asyncio.Event()
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    async def drain(self, grace_s: float) -> None:
        """No new sessions; those there are get their audio, then close 1001. After `grace_s` they are cut off."""
        self._draining.set()
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=grace_s)
            for call in late:
                call.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """A WebSocket upgrade. Refused with 503 and a JSON body where there is no place."""
        try:
            if self.draining:
                raise SessionError("OVERLOADED", "the gateway is shutting down")
            reservation = self._pool.reserve()
        except SessionError as error:
            self._metrics.refused.labels(error.code).inc()
            return web.json_response({"error_code": error.code, "message": error.message}, status=503)
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            socket = CallerSocket(self._config.gateway.max_message_bytes)
            await socket.prepare(request)
            await self._call(socket, reservation)
            return socket
        finally:
            reservation.release()
            self._calls.discard(task)

    async def _call(self, socket: CallerSocket, reservation: Reservation) -> None:
        """One caller, from the first message to the close; whatever happens is told, counted and logged."""
        protocol: ClientProtocol | None = None
        log = for_session("-")
        outcome = "complete"
        try:
            try:
                protocol = await self._introduce(socket)
                log = for_session(protocol.request.session_id)
                self._authenticate(protocol)
                await self._converse(socket, protocol, reservation, log)
            except CallerGone:
                raise
            except (ConnectionError, SessionError):
                raise
            except Exception as error:
                log.exception("session failed")
                raise SessionError("INTERNAL_ERROR", "the gateway failed; see its log") from error
        except (CallerGone, ConnectionError):
            outcome = "INVALID_AUDIO" if socket.fault else "gone"
            log.info("{}", socket.fault.message if socket.fault else "caller is gone")
        except SessionError as error:
            outcome = error.code
            log.warning("{}: {}", error.code, error.message)
            await self._tell(socket, socket.explain(error))
            await socket.close(code=CLOSE_CODES[error.code], message=error.code.encode())
        except asyncio.CancelledError:
            outcome = "cut off"
            log.warning("cut off: the gateway's grace is over")
            raise
        finally:
            self._metrics.ended.labels(outcome).inc()

    async def _introduce(self, socket: CallerSocket) -> ClientProtocol:
        """The first message, checked. Sets how errors are put from here on."""
        timeout_s = self._config.gateway.config_timeout_s
        try:
            message = await asyncio.wait_for(socket.receive(), timeout_s)
        except TimeoutError:
            raise SessionError("TIMEOUT", f"no configuration within {timeout_s:g} s") from None
        if message.type == WSMsgType.BINARY:
            raise SessionError("INVALID_CONFIG", "the first message must be text: a JSON object, not audio")
        if message.type != WSMsgType.TEXT:
            raise CallerGone
        if is_simple(message.data):
            socket.explain = lambda error: simple_error(error, None)
            if not self._config.gateway.allows_simple:
                raise SessionError("AUTH_FAILED", "the simple protocol carries no key and is not allowed here")
        protocol = parse_first(message.data)
        socket.explain = protocol.error
        return protocol

    def _authenticate(self, protocol: ClientProtocol) -> None:
        key = protocol.request.api_key
        if key is not None and not is_allowed(key, self._config.auth):
            raise SessionError("AUTH_FAILED", "api_key: not a known key")

    async def _converse(
        self, socket: CallerSocket, protocol: ClientProtocol, reservation: Reservation, log: Any
    ) -> None:
        session, stream = self._open(protocol)
        reservation.release()
        with contextlib.closing(stream):
            self._metrics.sessions.inc()
            try:
                await self._await_opened(stream)
                log.info("{} protocol, voice {}, {}", protocol.name, stream.voice, protocol.request)
                layout = session.layout
                details = {
                    "block_ms": layout.block_ms,
                    "prefill_ms": layout.prefill_ms,
                    "delay_ms": layout.delay_ms,
                }
                if (ready := protocol.ready(details)) is not None:
                    await socket.send_str(ready)
                drained = await self._carry(socket, protocol, session, stream)
                stats = session.stats.summary(stream.reopened)
                log.info("complete: {}", stats)
                await self._tell(socket, protocol.complete(stats))
                await socket.close(code=_GOING_AWAY if drained else 1000)
            finally:
                self._metrics.sessions.dec()

    def _open(self, protocol: ClientProtocol) -> tuple[Session, Stream]:
        request, config = protocol.request, self._config.gateway
        worker = self._pool.pick(request.voice, request.model)
        hello = worker.hello
        lag_ms = RESAMPLER_LAG_MS if not request.opus_in and request.rate_in != LINK_RATE else 0
        layout = Layout.fit(hello.block_ms, hello.delay_ms, hello.sample_rate_out, config.prefill_ms, lag_ms)
        session = Session(request, layout, self._threads, config.max_waiting_blocks)
        voice = request.voice or hello.voices[0].name
        stream = Stream(self._pool, request.session_id, voice, hello.model, layout, session.on_answer, request.options)
        session.stream = stream
        self._pool.adopt(stream, worker)
        return session, stream

    async def _await_opened(self, stream: Stream) -> None:
        timeout_s = self._config.gateway.processing_timeout_s
        await _any(stream.opened, stream.failure, timeout_s=timeout_s)
        if stream.failure.done():
            raise stream.failure.result()
        if not stream.opened.done():
            raise SessionError("TIMEOUT", f"the worker did not open the session within {timeout_s:g} s")

    async def _carry(self, socket: CallerSocket, protocol: ClientProtocol, session: Session, stream: Stream) -> bool:
        """Audio both ways until all of it is answered; True if the gateway's end cut the input short."""
        limit_s = self._config.gateway.max_session_s
        reader = asyncio.create_task(self._read(socket, protocol, session))
        writer = asyncio.create_task(session.write(self._sender(socket)))
        failure = stream.failure
        try:
            async with asyncio.timeout(limit_s):
                drained = await self._until_input_ends(reader, writer, failure)
                if drained:
                    await session.finish()
                await _first_of(writer, failure)
                return drained
        except TimeoutError:
            raise SessionError("TIMEOUT", f"the session is longer than {limit_s:g} s") from None
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _until_input_ends(
        self, reader: asyncio.Task[None], writer: asyncio.Task[None], failure: asyncio.Future[SessionError]
    ) -> bool:
        draining = asyncio.create_task(self._draining.wait())
        try:
            await _any(reader, writer, failure, draining)
            if failure.done():
                raise failure.result()
            if writer.done():
                writer.result()  # raises: before the input's end it cannot end well
            if reader.done():
                reader.result()
                return False
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            return True
        finally:
            draining.cancel()

    async def _read(self, socket: CallerSocket, protocol: ClientProtocol, session: Session) -> None:
        """The caller's messages up to its `end`, and what follows from that."""
        idle = IdleTimer(self._config.gateway.idle_timeout_s)
        try:
            while True:
                idle.waiting = True
                message = await socket.receive()
                idle.waiting = False
                if message.type == WSMsgType.BINARY:
                    await session.feed(message.data)
                elif message.type != WSMsgType.TEXT:
                    raise CallerGone
                elif protocol.is_end(message.data):
                    await session.finish()
                    return
                else:
                    raise SessionError("INVALID_AUDIO", "expected binary audio or the end message, got text")
                idle.heard_at = idle.now()
        except asyncio.CancelledError:
            if not idle.expired:
                raise
            raise SessionError("TIMEOUT", f"no message within {idle.timeout_s:g} s") from None
        finally:
            idle.stop()

    def _sender(self, socket: CallerSocket) -> Callable[[bytes], Awaitable[None]]:
        timeout_s = self._config.gateway.send_timeout_s

        async def send(message: bytes) -> None:
            try:
                async with asyncio.timeout(timeout_s):
                    await socket.send_bytes(message)
            except TimeoutError:
                raise SessionError("TIMEOUT", f"the caller read nothing for {timeout_s:g} s") from None

        return send

    async def _tell(self, socket: CallerSocket, text: str) -> None:
        """A last word; a caller who cannot take it is not waited for."""
        if not socket.closed:
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                await asyncio.wait_for(socket.send_str(text), _CLOSE_TIMEOUT_S)


async def _any(*futures: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    """Wait until one is done, or the time is over; cancels none."""
    await asyncio.wait(list(futures), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


async def _first_of(writer: asyncio.Task[None], failure: asyncio.Future[SessionError]) -> None:
    await _any(writer, failure)
    if writer.done():
        writer.result()
    else:
        raise failure.result()
