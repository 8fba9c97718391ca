"""One call, over any transport: authenticate, open, carry sound both ways, drain, end with its statistics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gateway.audio.opus import OPUS
from gateway.auth.guard import guard
from gateway.auth.ledger import LimitReached, Ticket
from gateway.auth.principal import CredentialError
from gateway.context import CallContext
from gateway.errors import CallerGone, SessionError
from gateway.events import AnswerSent, SessionObserver
from gateway.hearing import Hearing
from gateway.opening import open_session
from gateway.pace import Pace
from gateway.pool import Reservation
from gateway.reception import Visit
from gateway.recording.folder import CallInfo
from gateway.request import SessionRequest
from gateway.resume.continuation import Continuation
from gateway.resume.line import Line
from gateway.resume.said import Said
from gateway.resume.same import check_same
from gateway.session import Session
from gateway.statistics import block_stats
from gateway.stream import Stream, StreamSpec
from shared.log import for_session

if TYPE_CHECKING:
    from loguru import Logger

_NOT_KEPT = ("api_key", "resume", "voice_audio")  # of a request, in a recording
Claim = Callable[[str], Awaitable[None]]


class Call:
    """Whatever happens is told to the caller, and logged."""

    def __init__(self, visit: Visit, context: CallContext, claim: Claim) -> None:
        """`claim` makes a session's id this call's own. Raises `SessionError` where another call has it."""
        self.replaced = False  # by another call of the same session
        self.rests = False  # its caller is away, and it has no worker
        self.principal, self._request = visit.principal, visit.request
        self.name, self._token = context.returns.issue(visit.request.session_id, visit.principal.name)
        resume = visit.request.resume
        self.line = Line(
            visit.caller,
            Said(visit.request.audio_out, 0 if resume is None else resume.heard or 0),
            window_s=context.config.resume_window_s if visit.caller.may_return else 0.0,
            draining=context.draining,
            on_rest=self._rest,
            on_return=self._wake,
        )
        self._context, self._claim = context, claim
        self._config, self._pool = context.config, context.pool
        self._now = asyncio.get_running_loop().time
        self._log: Logger = for_session(visit.request.session_id)
        self._session: Session | None = None
        self._stream: Stream | None = None  # while it has or may have a worker
        self._spec: StreamSpec | None = None
        self._continuation: Continuation | None = None
        self._drained = False  # the gateway's end cut the caller's sound short
        self._ticket: Ticket | None = None
        self._pace = Pace(context.config.max_audio_rate, self._now, context.metrics.paused.inc)

    async def run(self, reservation: Reservation) -> str:
        """To the close; returns how it ended: "complete", "gone", "cut off" or an error code."""
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
            self.line.close()
            if self._ticket is not None:
                self._ticket.leave()
        return outcome

    async def _run(self, reservation: Reservation) -> str:
        try:
            try:
                self._ticket = self._enter()
                await self._converse(reservation)
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
                await self.line.caller.refuse(error)
            return error.code

    def check_return(self, request: SessionRequest) -> None:
        """Raises `SessionError` INVALID_CONFIG for a caller who comes back and asks for another call than this."""
        check_same(self._request, self._spec, request)

    def give_up(self) -> None:
        """Another call needs what this one's limits leave; it is about to be cancelled."""
        if self._ticket is not None:
            self._ticket.leave()

    def _enter(self) -> Ticket:
        """The principal's place among their limits."""
        door, metrics = self._context.door, self._context.metrics
        try:
            try:
                return door.enter(self.principal)
            except LimitReached as error:
                if error.limit != "sessions" or not self._context.make_room(self.principal.name):
                    raise
                return door.enter(self.principal)
        except CredentialError as error:
            raise SessionError("AUTH_FAILED", str(error), {"fields": ["api_key"]}) from None
        except LimitReached as error:
            metrics.refused.labels(error.limit).inc()
            raise SessionError("TOO_MANY_SESSIONS", error.message, {"limit": error.limit}) from None

    async def _converse(self, reservation: Reservation) -> None:
        await self._claim(self._request.session_id)
        reference = await self._context.references.of(self._request, self.principal.name)
        opening = open_session(self._request, reference, self._context, self._observers)
        self._stream = stream = opening.stream
        self._spec = stream.spec
        reservation.release()
        try:
            await self._await_opened(stream)
            self._session = session = opening.session
            self._continuation = opening.continuation
            self._log.info("{}, voice {}, {}", self.line.caller.transport, stream.spec.voice, self._request)
            await self.line.caller.ready(self._details())
            await self._carry(session, stream)
        finally:
            self._pool.leave(stream)

    def _observers(self, spec: StreamSpec) -> list[SessionObserver]:
        request, layout = self._request, spec.layout
        asked = {name: value for name, value in asdict(request).items() if name not in _NOT_KEPT}
        info = CallInfo(
            request.session_id,
            self.principal.name,
            self.line.caller.transport,
            request.voice or spec.voice,
            spec.model,
            layout.block_ms,
            layout.rate_out,
            asked,
            opus_in=request.audio_in.encoding == OPUS.name,
            opus_out=request.audio_out.encoding == OPUS.name,
        )
        followers = self._context.traces.follow(info, self.principal.record, self._log)
        return [self._context.metrics.meter(layout.block_ms), self._pace, *followers]

    def _details(self) -> dict[str, Any]:
        """How the answer lies in time, and how to come back."""
        assert self._session is not None
        layout = self._session.layout
        details: dict[str, Any] = {
            "block_ms": layout.block_ms,
            "prefill_ms": layout.prefill_ms,
            "delay_ms": layout.delay_ms,
        }
        if self.line.may_return:
            details |= {"resume": self._token, "resume_within_s": self._config.resume_window_s}
        if (began := self._continuation) is not None:
            details |= {"resumed": True, "new_stream": True, "received": began.received, "heard": began.heard}
        return details

    async def _await_opened(self, stream: Stream) -> None:
        timeout_s = self._config.processing_timeout_s
        await _any(stream.opened, stream.failure, timeout_s=timeout_s)
        if stream.failure.done():
            raise stream.failure.result()
        if not stream.opened.done():
            raise SessionError("TIMEOUT", f"the worker did not open the session within {timeout_s:g} s")

    # --- sound both ways ------------------------------------------------------------------------------------

    async def _carry(self, session: Session, stream: Stream) -> None:
        """Until all sound is answered and the caller has it."""
        limit_s = self._config.max_session_s
        reader = asyncio.create_task(self._read_all(session))
        writer = asyncio.create_task(self._write_all(session))
        guarded = asyncio.create_task(self._guard(stream))
        try:
            async with asyncio.timeout(limit_s):
                await _until(writer, reader, stream.failure)
        except TimeoutError:
            raise SessionError("TIMEOUT", f"the session is longer than {limit_s:g} s") from None
        finally:
            for task in (reader, writer, guarded):
                task.cancel()
            await asyncio.gather(reader, writer, guarded, return_exceptions=True)
        self._stream = None
        self._pool.leave(stream)
        await self._conclude(session.summary())

    async def _conclude(self, stats: dict[str, Any]) -> None:
        """Say that this was all; again to a caller who comes back because the connection broke over it."""
        while not await self.line.caller.complete(stats, going_away=self._drained) and self.line.may_return:
            self.line.lose(self.line.caller, CallerGone())
            settled, attending = asyncio.create_task(self.line.settle()), asyncio.create_task(self._attend())
            try:
                await asyncio.wait((settled, attending), return_when=asyncio.FIRST_COMPLETED)
                if not settled.done():
                    return
            finally:
                settled.cancel()
                attending.cancel()
                await asyncio.gather(settled, attending, return_exceptions=True)

    # --- a caller who is away -------------------------------------------------------------------------------

    def _rest(self) -> bool:
        if self._stream is not None and self._stream.is_busy:
            return False
        if self._stream is not None:
            self._pool.rest(self._stream)
        self.rests = True
        self._log.info("the caller is away: the place is given up")
        return True

    def _wake(self) -> dict[str, Any]:
        assert self._session is not None
        if self.rests and self._stream is not None:
            self._pool.wake(self._stream)
        self.rests = False
        self._session.realign()
        self._context.metrics.resumed.labels("same").inc()
        began, rate = self._continuation, self._request.audio_in.rate
        received = (0 if began is None else began.received) + round(self._session.received_ms * rate / 1000)
        self._log.info("the caller is back, from sample {} on", received)
        return self._details() | {"resumed": True, "new_stream": False, "received": received}

    async def _guard(self, stream: Stream) -> None:
        """Ends the call when its caller may not go on."""
        assert self._ticket is not None
        stream.fail(await guard(self._context.door, self._ticket, self._warn))

    async def _warn(self, message: str, seconds_left: int) -> None:
        await self.line.tell(lambda caller: caller.warn(message, seconds_left))

    async def _read_all(self, session: Session) -> None:
        hearing = Hearing(self.line, session, self._pace, self._config, self._context.draining)
        if not await hearing.run():
            self._drained = True
            window_s = self._config.resume_window_s if self.line.may_return else 0.0
            await self.line.tell(lambda caller: caller.going_away(window_s))
        await session.finish()
        await self._attend()

    async def _attend(self) -> None:
        """Nothing more is expected, but the connection may break and the caller come back."""
        while True:
            await self.line.hear()

    async def _write_all(self, session: Session) -> None:
        await session.write(self._say, self._report if self._request.stats else None)
        await self.line.settle()

    async def _say(self, payloads: Sequence[bytes]) -> None:
        if payloads:
            await self._in_time(self.line.say(payloads))

    async def _report(self, event: AnswerSent) -> None:
        assert self._session is not None
        stats = {**block_stats(event), "padded_ms": round(self._session.padded_ms, 3)}
        await self._in_time(self.line.tell(lambda caller: caller.report(stats)))

    async def _in_time(self, saying: Awaitable[None]) -> None:
        timeout_s = self._config.send_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await saying
        except TimeoutError:
            raise SessionError("TIMEOUT", f"the caller read nothing for {timeout_s:g} s") from None


async def _until(writer: asyncio.Task[None], reader: asyncio.Task[None], failure: asyncio.Future[SessionError]) -> None:
    """Wait until all is said; raises what either side raises, or the stream's failure."""
    sides: set[asyncio.Future[Any]] = {writer, reader, failure}
    done, _ = await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
    if writer in done:
        writer.result()
    elif failure in done:
        raise failure.result()
    else:
        reader.result()


async def _any(*futures: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    """Wait until one is done, or the time is over; cancels none."""
    await asyncio.wait(list(futures), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
