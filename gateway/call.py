"""One call, over any transport: authenticate, open, carry sound both ways, drain, end with its statistics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, assert_never

from gateway.audio.opus import OPUS
from gateway.audio.table import find_codec
from gateway.auth.door import Door
from gateway.auth.guard import guard
from gateway.auth.ledger import LimitReached, Ticket
from gateway.auth.principal import ANYBODY, CredentialError
from gateway.blocks import BlockLayout
from gateway.caller import Caller, Cue, Heard, Lost
from gateway.errors import CallerGone, SessionError
from gateway.events import AnswerSent, SessionObserver
from gateway.metrics import Metrics
from gateway.pace import Pace
from gateway.pool import Pool, Reservation
from gateway.recording.folder import CallInfo
from gateway.recording.traces import Traces
from gateway.request import SessionRequest
from gateway.session import Session
from gateway.silence import SilenceWatch
from gateway.statistics import block_stats
from gateway.stream import Stream, StreamCounters, StreamSpec
from gateway.voices.references import Reference, References
from shared.config import GatewayConfig
from shared.log import for_session

if TYPE_CHECKING:
    from loguru import Logger

_NOT_KEPT = ("api_key", "voice_audio")  # of a request, in a recording
Claim = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class CallContext:
    """What all calls of a gateway share."""

    config: GatewayConfig
    door: Door
    pool: Pool
    counters: StreamCounters
    codec_threads: Executor
    draining: asyncio.Event  # set: calls get their sound, and end
    metrics: Metrics
    traces: Traces
    references: References


class Call:
    """Whatever happens is told to the caller, and logged."""

    def __init__(self, caller: Caller, context: CallContext, claim: Claim) -> None:
        """`claim` makes a session's id this call's own. Raises `SessionError` where another call has it."""
        self.caller = caller
        self.replaced = False  # by another call of the same session
        self._context, self._claim = context, claim
        self._config, self._pool = context.config, context.pool
        self._now = asyncio.get_running_loop().time
        self._log: Logger = for_session("-")
        self._session: Session | None = None
        self._ticket: Ticket | None = None
        self._pace = Pace(context.config.max_audio_rate, self._now)

    async def run(self, reservation: Reservation) -> str:
        """From the first message to the close; returns how it ended: "complete", "gone", "cut off" or an error code."""
        outcome = "cut off"
        try:
            outcome = await self._run(reservation)
        except asyncio.CancelledError:
            outcome = "replaced" if self.replaced else "cut off"
            self._log.warning("{}", "another connection goes on" if self.replaced else "the gateway's grace is over")
            raise
        finally:
            if self._session is not None:
                self._log.info("{}: {}", outcome, self._session.end(outcome))
            if self._ticket is not None:
                self._ticket.leave()
        return outcome

    async def _run(self, reservation: Reservation) -> str:
        try:
            try:
                request = await self._introduce()
                await self._converse(request, reservation)
                return "complete"
            except (CallerGone, ConnectionError, SessionError):
                raise
            except Exception as error:
                self._log.exception("session failed")
                raise SessionError("INTERNAL_ERROR", "the gateway failed; see its log") from error
        except (CallerGone, ConnectionError):
            return "gone"
        except SessionError as error:
            self._log.warning("{}: {}", error.code, error.message)
            with contextlib.suppress(CallerGone, ConnectionError):
                await self.caller.refuse(error)
            return error.code

    async def _introduce(self) -> SessionRequest:
        timeout_s = self._config.config_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                request = await self.caller.introduce()
        except TimeoutError:
            raise SessionError("TIMEOUT", f"no configuration within {timeout_s:g} s") from None
        self._log = for_session(request.session_id)
        self._ticket = await self._enter(request)
        return request

    async def _enter(self, request: SessionRequest) -> Ticket:
        """Who calls, and their place among their limits."""
        door, principal = self._context.door, self.caller.principal
        try:
            if principal is None and request.api_key is None:
                principal = ANYBODY  # the protocol carries no key
            elif principal is None:
                principal = await door.identify(request.api_key or "", self.caller.address)
            return door.enter(principal)
        except CredentialError as error:
            raise SessionError("AUTH_FAILED", str(error), {"fields": ["api_key"]}) from None
        except LimitReached as error:
            self._context.metrics.refused.labels(error.limit).inc()
            raise SessionError("TOO_MANY_SESSIONS", error.message, {"limit": error.limit}) from None

    async def _converse(self, request: SessionRequest, reservation: Reservation) -> None:
        await self._claim(request.session_id)
        assert self._ticket is not None
        reference = await self._context.references.of(request, self._ticket.principal.name)
        session, stream = self._open(request, reference)
        reservation.release()
        try:
            await self._await_opened(stream)
            self._session = session
            self._log.info("{}, voice {}, {}", self.caller.transport, stream.spec.voice, request)
            layout = stream.spec.layout
            details = {"block_ms": layout.block_ms, "prefill_ms": layout.prefill_ms, "delay_ms": layout.delay_ms}
            await self.caller.ready(details)
            drained = await self._carry(session, stream, stats=request.stats)
            await self.caller.complete(session.summary(), going_away=drained)
        finally:
            self._pool.leave(stream)

    def _open(self, request: SessionRequest, reference: Reference | None) -> tuple[Session, Stream]:
        config = self._config
        codec_in, codec_out = find_codec(request.audio_in.encoding), find_codec(request.audio_out.encoding)
        assert codec_in is not None
        assert codec_out is not None
        decoder = codec_in.decoder(request.audio_in)
        worker = self._pool.pick(request.voice, request.model, brings_voice=reference is not None)
        hello = worker.hello
        layout = BlockLayout.fit(
            hello.block_ms, hello.delay_ms, hello.sample_rate_out, config.prefill_ms, decoder.lag_ms
        )
        voice = reference.id if reference else request.voice or hello.voices[0].name
        flac = reference.flac if reference else b""
        spec = StreamSpec(request.session_id, voice, hello.model, layout, request.options, flac)
        budget_s = config.latency_budget_ms / 1000
        stream = Stream(spec, budget_s=budget_s, counters=self._context.counters, clock=self._now)
        session = Session(
            stream,
            decoder,
            codec_out.encoder(request.audio_out, layout.rate_out),
            self._context.codec_threads,
            max_waiting=config.max_waiting_blocks,
            observers=[self._context.metrics.meter(layout.block_ms), self._pace, *self._follow(request, spec)],
        )
        self._pool.adopt(stream, worker)
        return session, stream

    def _follow(self, request: SessionRequest, spec: StreamSpec) -> list[SessionObserver]:
        assert self._ticket is not None
        principal, layout = self._ticket.principal, spec.layout
        asked = {name: value for name, value in asdict(request).items() if name not in _NOT_KEPT}
        info = CallInfo(
            request.session_id,
            principal.name,
            self.caller.transport,
            request.voice or spec.voice,
            spec.model,
            layout.block_ms,
            layout.rate_out,
            asked,
            opus_in=request.audio_in.encoding == OPUS.name,
            opus_out=request.audio_out.encoding == OPUS.name,
        )
        return self._context.traces.follow(info, principal.record, self._log)

    async def _await_opened(self, stream: Stream) -> None:
        timeout_s = self._config.processing_timeout_s
        await _any(stream.opened, stream.failure, timeout_s=timeout_s)
        if stream.failure.done():
            raise stream.failure.result()
        if not stream.opened.done():
            raise SessionError("TIMEOUT", f"the worker did not open the session within {timeout_s:g} s")

    # --- sound both ways ------------------------------------------------------------------------------------

    async def _carry(self, session: Session, stream: Stream, *, stats: bool) -> bool:
        """Until all sound is answered; True if the gateway's end cut the input short."""
        limit_s = self._config.max_session_s
        reader = asyncio.create_task(self._read_all(session))
        writer = asyncio.create_task(session.write(self._say, self._report if stats else None))
        guarded = asyncio.create_task(self._guard(stream))
        failure = stream.failure
        try:
            async with asyncio.timeout(limit_s):
                await _both(reader, writer, failure)
                return not reader.result()
        except TimeoutError:
            raise SessionError("TIMEOUT", f"the session is longer than {limit_s:g} s") from None
        finally:
            for task in (reader, writer, guarded):
                task.cancel()
            await asyncio.gather(reader, writer, guarded, return_exceptions=True)

    async def _guard(self, stream: Stream) -> None:
        """Ends the call when its caller may not go on."""
        assert self._ticket is not None
        stream.fail(await guard(self._context.door, self._ticket, self.caller.warn))

    async def _read_all(self, session: Session) -> bool:
        ended = await self._read(session)
        await session.finish()
        return ended

    async def _read(self, session: Session) -> bool:
        """The caller's messages; True at their end, False where the gateway's end came first."""
        config, draining = self._config, self._context.draining
        watch = SilenceWatch(idle_s=config.idle_timeout_s, hold_s=config.hold_ms / 1000, on_pause=session.pause)
        interrupt = asyncio.create_task(watch.interrupt_at(draining))
        try:
            while not draining.is_set():
                await self._pace.wait()
                watch.listen()
                heard = await self.caller.hear()
                await watch.heard(sound=isinstance(heard, bytes) and len(heard) > 0)
                if await self._take(heard, session):
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

    async def _take(self, heard: Heard, session: Session) -> bool:
        """Whether that was the end."""
        match heard:
            case bytes():
                if heard:
                    await session.feed(heard)
            case Lost():
                for _ in range(heard.count):
                    await session.feed(None)
            case Cue.END:
                return True
            case Cue.PING | Cue.ALIVE:
                pass
            case Cue.UNKNOWN:
                session.ignored += 1
            case _:
                assert_never(heard)
        return False

    async def _say(self, payload: bytes) -> None:
        await self._in_time(self.caller.say(payload))

    async def _report(self, event: AnswerSent) -> None:
        assert self._session is not None
        stats = {**block_stats(event), "padded_ms": round(self._session.padded_ms, 3)}
        await self._in_time(self.caller.report(stats))

    async def _in_time(self, saying: Awaitable[None]) -> None:
        timeout_s = self._config.send_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await saying
        except TimeoutError:
            raise SessionError("TIMEOUT", f"the caller read nothing for {timeout_s:g} s") from None


async def _both(reader: asyncio.Task[bool], writer: asyncio.Task[None], failure: asyncio.Future[SessionError]) -> None:
    """Wait until both sides are done; raises what either raises, or the stream's failure."""
    running: set[asyncio.Future[Any]] = {reader, writer}
    while running:
        done, _ = await asyncio.wait({*running, failure}, return_when=asyncio.FIRST_COMPLETED)
        if failure in done:
            raise failure.result()
        for task in done:
            task.result()
        running -= done


async def _any(*futures: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    """Wait until one is done, or the time is over; cancels none."""
    await asyncio.wait(list(futures), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
