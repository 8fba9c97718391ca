"""Where calls over WebRTC begin and end."""

from __future__ import annotations

from aiohttp import web

from gateway.transports.offers import PATH, NoWebRtc, WebRtcOffers


def webrtc_routes(offers: WebRtcOffers | NoWebRtc) -> list[web.RouteDef]:
    one = PATH + "/{call}"
    if isinstance(offers, NoWebRtc):
        return [web.route("*", PATH, offers.refuse), web.route("*", one, offers.refuse)]
    return [
        web.post(PATH, offers.offer),
        web.options(PATH, offers.options),
        web.delete(one, offers.end),
        web.options(one, offers.options_of_call),
    ]
