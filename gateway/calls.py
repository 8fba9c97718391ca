"""All calls of a gateway: who is let in, who has which session, who comes back to theirs, and the end of them all."""

from __future__ import annotations

import asyncio
import contextlib

from gateway.audio.threads import CodecThreads
from gateway.auth.door import Door
from gateway.call import Call
from gateway.caller import Caller
from gateway.context import CallContext
from gateway.errors import CallerGone, SessionError, bad_field
from gateway.metrics import Metrics
from gateway.pool import Pool, Reservation
from gateway.reception import Visit, identify, introduce
from gateway.recording.traces import Traces
from gateway.resume.returns import Returns, Where, late
from gateway.voices.references import References
from shared.config import Config
from shared.log import for_session

_TURNED_AWAY_S = 2.0  # that a caller has for whom there is no place, to show which protocol it speaks


class Calls:
    """Transports ask for a place with `admit`, then have a caller served."""

    def __init__(
        self,
        config: Config,
        pool: Pool,
        metrics: Metrics,
        codec_threads: CodecThreads,
        door: Door,
        traces: Traces,
        references: References,
        returns: Returns,
    ) -> None:
        self._config, self._pool, self._metrics, self._door, self._returns = (
            config.gateway,
            pool,
            metrics,
            door,
            returns,
        )
        self._draining = asyncio.Event()
        self._context = CallContext(
            config.gateway,
            door,
            pool,
            metrics,
            codec_threads,
            self._draining,
            metrics,
            traces,
            references,
            returns,
            self._make_room,
        )
        self._arriving: set[asyncio.Task[object]] = set()  # callers whose first message is awaited
        self._forwarded: set[asyncio.Task[object]] = set()  # callers whom another process serves
        self._tasks: dict[asyncio.Task[object], Call] = {}
        self._by_session: dict[str, asyncio.Task[object]] = {}
        self._by_name: dict[str, Call] = {}

    def __len__(self) -> int:
        return len(self._arriving) + len(self._tasks)

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    def admit(self) -> Reservation:
        """A place for a caller who is about to be served. Raises `SessionError` where there is none."""
        try:
            if self.draining:
                raise SessionError("OVERLOADED", "the gateway is shutting down")
            return self._pool.reserve()
        except SessionError as error:
            self.refused(error.code)
            raise

    def refused(self, reason: str) -> None:
        """A caller was turned away before a session, for counting."""
        self._metrics.refused.labels(reason).inc()

    async def serve(self, caller: Caller, place: Reservation | SessionError) -> None:
        """One connection, to its end: of a call that begins, or of one that a caller comes back to.

        place: what `admit` gave, which is given up whatever happens; or why it gave none: then only who comes back is
        served.
        """
        task = asyncio.current_task()
        assert task is not None
        self._arriving.add(task)
        try:
            visit = await self._receive(caller, place)
            if visit is not None:
                self._arriving.discard(task)
                await self._begin(visit, place)
        finally:
            self._arriving.discard(task)
            if isinstance(place, Reservation):
                place.release()

    # --- who comes ------------------------------------------------------------------------------------------

    async def _receive(self, caller: Caller, place: Reservation | SessionError) -> Visit | None:
        """Whose call is to begin; None where there is none. Whoever is refused is told."""
        log = for_session("-")
        turned_away = isinstance(place, SessionError)
        try:
            try:
                request = await introduce(caller, _TURNED_AWAY_S if turned_away else self._config.config_timeout_s)
                log = for_session(request.session_id)
                if isinstance(place, SessionError) and request.resume is None:
                    raise place
                visit = Visit(caller, request, await identify(caller, request, self._door))
                if request.resume is not None and await self._go_on(visit):
                    return None
                if isinstance(place, SessionError):
                    raise place
                return visit
            except SessionError as error:
                error = place if isinstance(place, SessionError) and error.code != "INVALID_CONFIG" else error
                if not turned_away:
                    log.warning("{}: {}", error.code, error.message)
                    self._metrics.ended.labels(error.code).inc()
                await caller.refuse(error)
        except (CallerGone, ConnectionError):
            if not turned_away:
                self._metrics.ended.labels("gone").inc()
        return None

    async def _go_on(self, visit: Visit) -> bool:
        """Serve a caller who comes back, to the end of the connection; False where only a new stream is left.

        Raises `SessionError` where there is nothing to come back to.
        """
        resume, session_id = visit.request.resume, visit.request.session_id
        assert resume is not None
        found = await asyncio.to_thread(self._returns.find, resume.token, session_id, visit.principal.name)
        if found.where is Where.HERE:
            call = self._by_name.get(found.call)
            if call is not None:
                call.check_return(visit.request)
            if call is None or not await call.line.take(visit.caller, resume.heard):
                raise late(self._config.resume_window_s)
            return True
        if found.where is Where.BESIDE and found.port is not None:
            with contextlib.suppress(CallerGone):
                await self._forward(visit.caller, found.port)
                return True
        self._metrics.resumed.labels("new").inc()
        for_session(session_id).info("the caller comes from a process that is {}", found.where.name.lower())
        return False

    async def _forward(self, caller: Caller, port: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._forwarded.add(task)
        self._metrics.resumed.labels("forwarded").inc()
        try:
            await caller.forward(port)
        finally:
            self._forwarded.discard(task)

    # --- calls ----------------------------------------------------------------------------------------------

    async def _begin(self, visit: Visit, place: Reservation | SessionError) -> None:
        """A call, which may outlive this connection; returns at the connection's end."""
        assert isinstance(place, Reservation)
        self._bound_resting()
        call = Call(visit, self._context, self._claim)
        task = asyncio.create_task(self._run(call, place))
        self._tasks[task] = call
        self._by_name[call.name] = call
        left = asyncio.create_task(call.line.until_left())
        try:
            await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            left.cancel()

    async def _run(self, call: Call, reservation: Reservation) -> None:
        """The reservation is given up, whatever happens."""
        task = asyncio.current_task()
        assert task is not None
        outcome = "cut off"
        self._metrics.sessions.inc()
        try:
            outcome = await call.run(reservation)
        finally:
            if call.replaced:
                outcome = "replaced"
            reservation.release()
            del self._tasks[task], self._by_name[call.name]
            for session_id in [key for key, owner in self._by_session.items() if owner is task]:
                del self._by_session[session_id]
            self._metrics.sessions.dec()
            self._metrics.ended.labels(outcome).inc()

    async def _claim(self, session_id: str) -> None:
        """The current call's from now on, unless a caller who still answers has it, or somebody else, who may be about
        to come back. Raises `SessionError`."""
        task = asyncio.current_task()
        assert task is not None
        while (owner := self._by_session.get(session_id)) is not None:
            former = self._tasks[owner]
            if former.principal.name != self._tasks[task].principal.name or await former.line.is_alive():
                raise bad_field("session_id", f"{session_id!r} is in use")
            if self._by_session.get(session_id) is owner:
                former.replaced = True
                owner.cancel()
                await asyncio.wait([owner])
        self._by_session[session_id] = task

    def _make_room(self, principal: str) -> bool:
        """Who is here goes before who is away."""
        for task, call in self._tasks.items():
            if not call.line.is_up and call.principal.name == principal:
                call.give_up()
                task.cancel()
                return True
        return False

    def _bound_resting(self) -> None:
        resting = [task for task, call in self._tasks.items() if call.rests]
        if len(resting) >= self._config.max_sessions:
            resting[0].cancel()

    async def drain(self, grace_s: float) -> None:
        """No new calls; those there are get their sound, then end. After `grace_s` they are cut off. Who is served by
        another process is sent to it."""
        self._draining.set()
        for task in self._forwarded:
            task.cancel()
        if waiting := [*self._arriving, *self._tasks]:
            _, late_ones = await asyncio.wait(waiting, timeout=grace_s)
            for task in late_ones:
                task.cancel()
            await asyncio.gather(*late_ones, return_exceptions=True)
