"""All calls of a gateway: who is let in, who has which session, and the end of them all."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from gateway.auth.door import Door
from gateway.call import Call, CallContext
from gateway.caller import Caller
from gateway.errors import SessionError, bad_field
from gateway.metrics import Metrics
from gateway.pool import Pool, Reservation
from gateway.recording.traces import Traces
from gateway.voices.references import References
from shared.config import Config


class Calls:
    """Transports ask for a place with `admit`, then have a caller served."""

    def __init__(
        self,
        config: Config,
        pool: Pool,
        metrics: Metrics,
        codec_threads: Executor,
        door: Door,
        traces: Traces,
        references: References,
    ) -> None:
        self._pool, self._metrics = pool, metrics
        self._draining = asyncio.Event()
        self._context = CallContext(
            config.gateway, door, pool, metrics, codec_threads, self._draining, metrics, traces, references
        )
        self._tasks: dict[asyncio.Task[object], Call] = {}
        self._by_session: dict[str, asyncio.Task[object]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

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

    async def serve(self, caller: Caller, reservation: Reservation) -> None:
        """One call, in the task that asks for it. The reservation is given up, whatever happens."""
        task = asyncio.current_task()
        assert task is not None
        call = Call(caller, self._context, self._claim)
        self._tasks[task] = call
        outcome = "cut off"
        self._metrics.sessions.inc()
        try:
            outcome = await call.run(reservation)
        finally:
            if call.replaced:
                outcome = "replaced"
            reservation.release()
            del self._tasks[task]
            for session_id in [key for key, owner in self._by_session.items() if owner is task]:
                del self._by_session[session_id]
            self._metrics.sessions.dec()
            self._metrics.ended.labels(outcome).inc()

    async def _claim(self, session_id: str) -> None:
        """The current call's from now on, unless a caller who still answers has it. Raises `SessionError`."""
        while (owner := self._by_session.get(session_id)) is not None:
            former = self._tasks[owner]
            if await former.caller.is_alive():
                raise bad_field("session_id", f"{session_id!r} is in use")
            if self._by_session.get(session_id) is owner:
                former.replaced = True
                owner.cancel()
                await asyncio.wait([owner])
        task = asyncio.current_task()
        assert task is not None
        self._by_session[session_id] = task

    async def drain(self, grace_s: float) -> None:
        """No new calls; those there are get their sound, then end. After `grace_s` they are cut off."""
        self._draining.set()
        if self._tasks:
            _, late = await asyncio.wait(list(self._tasks), timeout=grace_s)
            for call in late:
                call.cancel()
            await asyncio.gather(*late, return_exceptions=True)
