"""The operators' view: its page, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from gateway.auth.door import Door
from gateway.auth.principal import ADMIN
from gateway.auth.requests import principal_of
from gateway.overview import merged
from gateway.routes.page import is_at_hand, page
from gateway.siblings import Siblings


def overview_routes(
    door: Door, own: Callable[[], dict[str, Any]], siblings: Siblings | None, *, is_private: bool
) -> list[web.RouteDef]:
    """`/status` and `/tools/status`. is_private: only this machine reaches the gateway, and whoever is at it may see
    the figures, as in /metrics; elsewhere, and through a proxy, the scope `admin` is asked for."""

    async def document(request: web.Request) -> web.StreamResponse:
        return page("status.html")

    async def figures(request: web.Request) -> web.Response:
        if not (is_private and is_at_hand(request)):
            await principal_of(request, door, ADMIN)
        others = [] if siblings is None else await siblings.all_overviews()
        return web.json_response({"gateways": merged(others, own())}, headers={"Cache-Control": "no-store"})

    return [web.get("/status", document), web.get("/tools/status", figures)]
