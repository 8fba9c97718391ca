"""Where sessions begin: WebSocket upgrades, and the page that makes one."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from gateway.transports.upgrade import WebSocketUpgrades

_PAGE = Path(__file__).parents[1] / "web" / "index.html"


def session_routes(upgrades: WebSocketUpgrades) -> list[web.RouteDef]:
    async def page_or_session(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await upgrades.handle(request)
        return web.FileResponse(_PAGE)

    return [web.get("/", page_or_session), web.get("/ws", upgrades.handle)]
