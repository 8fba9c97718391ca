"""WebSocket upgrades: who is let in becomes a call, who is not is told why.

A refused upgrade cannot be read by a browser, so it is accepted, the reason is said in the caller's own protocol, and
the connection closed. That costs more than an HTTP error: refusals beyond a rate are answered with 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from gateway.auth.door import Door
from gateway.auth.principal import Principal
from gateway.auth.requests import address_of, credential_of, failure, principal_of
from gateway.calls import Calls
from gateway.errors import SessionError
from gateway.origins import Origins
from gateway.pool import Reservation
from gateway.transports.websocket import WebSocketCaller
from shared.config import GatewayConfig

RETRY_AFTER_S = 5


class Allowance:
    """So many a second, on average and at once."""

    def __init__(self, per_s: float, clock: Callable[[], float]) -> None:
        self._per_s, self._clock = per_s, clock
        self._left = per_s
        self._at = clock()

    def take(self) -> bool:
        """Whether one more is within the rate."""
        now = self._clock()
        self._left = min(self._per_s, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class WebSocketUpgrades:
    """The handler of the routes that serve sessions."""

    def __init__(self, config: GatewayConfig, calls: Calls, door: Door, origins: Origins) -> None:
        self._config, self._calls, self._door, self._origins = config, calls, door, origins
        self._refusals = Allowance(config.refusals_per_s, asyncio.get_running_loop().time)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One upgrade, to the end of its call. A credential that comes with it is looked at before."""
        if request.body_exists:
            self._calls.refused("body")
            raise failure(400, "INVALID_CONFIG", "an upgrade has no body")
        if not self._origins.admit(request):
            self._calls.refused("origin")
            raise failure(403, "AUTH_FAILED", "Origin: pages of this site may not call here (gateway.allowed_origins)")
        principal = await principal_of(request, self._door) if credential_of(request) else None
        place: Reservation | SessionError
        try:
            place = self._calls.admit()
        except SessionError as error:
            place = _with_retry(error)
            if not self._refusals.take():
                body = {"error_code": place.code, "message": place.message, "details": place.details}
                return web.json_response(body, status=503, headers={"Retry-After": str(RETRY_AFTER_S)})
        try:
            caller = self._caller(request, principal)
            try:
                socket = await caller.accept(request)
            except ValueError:  # of aiohttp, for headers that are not text
                raise failure(400, "INVALID_CONFIG", "the upgrade's headers cannot be read") from None
            await self._calls.serve(caller, place)
            return socket
        finally:
            if isinstance(place, Reservation):
                place.release()

    def _caller(self, request: web.Request, principal: Principal | None = None) -> WebSocketCaller:
        return WebSocketCaller(
            max_message_bytes=self._config.max_message_bytes,
            allow_simple=self._config.allows_simple,
            address=address_of(request),
            principal=principal,
            subprotocols=[name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")],
        )


def _with_retry(error: SessionError) -> SessionError:
    details = {**(error.details or {}), "retry_after_s": RETRY_AFTER_S}
    return SessionError(error.code, error.message, details, error.close_code)
