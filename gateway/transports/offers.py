"""Calls over WebRTC begin with an HTTP request, in the manner of WHIP (RFC 9725): an SDP offer comes in, an answer goes
out with the address of the call, and a DELETE of that address ends it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from loguru import logger

from gateway.auth.door import Door
from gateway.auth.principal import Principal
from gateway.auth.requests import address_of, credential_of, failure, principal_of
from gateway.calls import Calls
from gateway.errors import SessionError
from gateway.origins import Origins
from gateway.rtp.offer import MAX_OFFER_BYTES, Offer, read_offer
from gateway.transports.upgrade import RETRY_AFTER_S
from gateway.transports.webrtc import WebRtcCaller
from shared.settings import IceServer, WebRtcConfig

SDP = "application/sdp"
PATH = "/webrtc"
_END_TIMEOUT_S = 0.5  # for a call to be over; it may have to wait for its worker
_CLOSE_TIMEOUT_S = 3.0
_QUERY = ("session_id", "voice", "model")  # of the first message, for callers who have no data channel
EndElsewhere = Callable[[int, str], Awaitable[bool]]  # a call of another process on this port, by number and id


class WebRtcOffers:
    """The handlers of `/webrtc`, and the calls that came from there."""

    def __init__(
        self,
        config: WebRtcConfig,
        calls: Calls,
        door: Door,
        origins: Origins,
        number: int = 0,
        end_elsewhere: EndElsewhere | None = None,
    ) -> None:
        """number: of this process, among those that share the port."""
        self._config, self._calls, self._door, self._origins = config, calls, door, origins
        self._number, self._end_elsewhere = number, end_elsewhere
        self._live: dict[str, tuple[WebRtcCaller, asyncio.Task[None]]] = {}

    async def offer(self, request: web.Request) -> web.Response:
        """POST: a call begins."""
        if not self._origins.admit(request):
            self._calls.refused("origin")
            raise failure(403, "AUTH_FAILED", "Origin: pages of this site may not call here (gateway.allowed_origins)")
        if request.content_type != SDP:
            raise failure(415, "INVALID_CONFIG", f"Content-Type: must be {SDP}", {"Accept": SDP})
        principal = await principal_of(request, self._door) if credential_of(request) else None
        try:
            offer = read_offer(await self._body(request))
            if not offer.has_channel and principal is None:
                principal = await principal_of(request, self._door)  # nothing else will be said of who calls
            key, answer = await self._begin(request, principal, offer)
        except SessionError as error:
            raise _refusal(error) from None
        headers = self._headers(request) | {"Location": f"{PATH}/{self._number}.{key}"}
        response = web.Response(text=answer, status=201, content_type=SDP, headers=headers)
        if principal is not None:
            self._name_servers(response)
        return response

    async def options(self, request: web.Request) -> web.Response:
        """OPTIONS: what is accepted here; with a credential, which ICE servers there are."""
        headers = self._preflight(request, "POST, OPTIONS") | {"Accept-Post": SDP}
        response = web.Response(status=204, headers=headers)
        if self._door.is_open or credential_of(request):
            await principal_of(request, self._door)
            self._name_servers(response)
        return response

    async def options_of_call(self, request: web.Request) -> web.Response:
        """OPTIONS of a call's address: it can be ended."""
        return web.Response(status=204, headers=self._preflight(request, "DELETE, OPTIONS"))

    async def end(self, request: web.Request) -> web.Response:
        """DELETE: a call ends. Its address, which nobody can guess, is all that this asks for."""
        number, _, key = request.match_info["call"].partition(".")
        if number == str(self._number):
            ended = await self.end_own(key)
        else:
            elsewhere = self._end_elsewhere if number.isdecimal() and len(number) < 4 else None
            ended = elsewhere is not None and await elsewhere(int(number), key)
        if not ended:
            raise failure(404, "INVALID_CONFIG", "there is no such call, or it is over")
        return web.Response(status=200, headers=self._headers(request))

    async def end_own(self, key: str) -> bool:
        """End a call of this process. False: there is none by this id."""
        if (live := self._live.get(key)) is None:
            return False
        caller, task = live
        await caller.hang_up()
        await asyncio.wait([task], timeout=_END_TIMEOUT_S)
        return True

    async def close(self) -> None:
        """After the last call: until everybody has been hung up on."""
        if self._live:
            await asyncio.wait([task for _, task in self._live.values()], timeout=_CLOSE_TIMEOUT_S)

    # --- within ---------------------------------------------------------------------------------------------

    async def _body(self, request: web.Request) -> bytes:
        body = bytearray()
        async for part in request.content.iter_any():
            body += part
            if len(body) > MAX_OFFER_BYTES:
                raise SessionError("INVALID_CONFIG", f"sdp: longer than {MAX_OFFER_BYTES} bytes", {"fields": ["sdp"]})
        return bytes(body)

    async def _begin(self, request: web.Request, principal: Principal | None, offer: Offer) -> tuple[str, str]:
        reservation = self._calls.admit()
        caller = None
        try:
            caller = WebRtcCaller(
                address=address_of(request),
                principal=principal,
                ice_servers=self._config.ice_servers,
                config=None if offer.has_channel else {name: request.query.get(name) for name in _QUERY},
            )
            answer = await caller.accept(offer)
        except BaseException:
            reservation.release()
            if caller is not None:
                await caller.hang_up()
            raise
        key = secrets.token_urlsafe(24)

        async def serve() -> None:
            try:
                await self._calls.serve(caller, reservation)
            finally:
                await caller.hang_up()
                del self._live[key]

        self._live[key] = caller, asyncio.create_task(serve())
        return key, answer

    def _headers(self, request: web.Request) -> dict[str, str]:
        headers = {"Cache-Control": "no-store", **self._origins.headers(request)}
        if "Access-Control-Allow-Origin" in headers:
            headers["Access-Control-Expose-Headers"] = "Location, Link, Accept-Post"
        return headers

    def _preflight(self, request: web.Request, methods: str) -> dict[str, str]:
        headers = self._headers(request) | {"Allow": methods}
        if "Access-Control-Allow-Origin" in headers:
            headers["Access-Control-Allow-Methods"] = methods
            headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        return headers

    def _name_servers(self, response: web.Response) -> None:
        for server in self._config.ice_servers:
            for link in _links(server):
                response.headers.add("Link", link)


class NoWebRtc:
    """In the place of `WebRtcOffers` where there are none: says why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def refuse(self, request: web.Request) -> web.Response:
        if request.method == "OPTIONS":  # who only looks meets no error
            return web.Response(status=204, headers={"Allow": "OPTIONS", "Cache-Control": "no-store"})
        raise failure(501, "INVALID_CONFIG", self._reason)

    async def end_own(self, key: str) -> bool:
        """As `WebRtcOffers.end_own`: there is none."""
        return False

    async def close(self) -> None:
        """There is nothing to wait for."""


def open_offers(config: WebRtcConfig, make: Callable[[WebRtcConfig], WebRtcOffers]) -> WebRtcOffers | NoWebRtc:
    """What serves `/webrtc`: what `make` makes, where the configuration and what is installed allow it."""
    if not config.enabled:
        return NoWebRtc("WebRTC is switched off here (webrtc.enabled); WebSocket calls are served at /ws")
    try:
        import aiortc  # noqa: F401 - loaded now: it takes half a second
    except ImportError as error:
        logger.info("no WebRTC: {}", error)
        return NoWebRtc("WebRTC is not installed here (pip install 'fast-vc-pool[webrtc]'); calls are served at /ws")
    return make(config)


def _refusal(error: SessionError) -> web.HTTPException:
    fields: list[Any] = (error.details or {}).get("fields", [])
    if error.code == "INVALID_CONFIG":
        return failure(400, error.code, error.message, field=next(iter(fields), None))
    return failure(503, error.code, error.message, {"Retry-After": str(RETRY_AFTER_S)})


def _links(server: IceServer) -> list[str]:
    """Of one ICE server, as RFC 9725, 4.6, has them."""
    words = ""
    if server.username is not None and server.credential is not None:
        words = f'; username="{server.username}"; credential="{server.credential}"; credential-type="password"'
    return [f'<{url}>; rel="ice-server"{words}' for url in server.urls]
