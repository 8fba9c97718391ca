"""Where sessions begin: WebSocket upgrades, and the page that makes one."""

from __future__ import annotations

from aiohttp import web

from gateway.routes.page import page
from gateway.transports.upgrade import WebSocketUpgrades


def session_routes(upgrades: WebSocketUpgrades) -> list[web.RouteDef]:
    async def page_or_session(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await upgrades.handle(request)
        return page()

    return [web.get("/", page_or_session), web.get("/ws", upgrades.handle)]
