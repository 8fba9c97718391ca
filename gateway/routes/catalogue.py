"""What a caller may choose from."""

from __future__ import annotations

from aiohttp import web

from gateway.origins import Origins
from gateway.pool import Pool

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "600",
}


def catalogue_routes(pool: Pool, origins: Origins) -> list[web.RouteDef]:
    async def voices(request: web.Request) -> web.Response:
        known = pool.voices()
        listed = [{"name": voice.name, "description": voice.description} for voice in known]
        content = {"voices": listed, "default": known[0].name if known else None}
        return web.json_response(content, headers=origins.headers(request))

    async def models(request: web.Request) -> web.Response:
        content = {"models": pool.models(), "default": pool.default_model}
        return web.json_response(content, headers=origins.headers(request))

    async def preflight(request: web.Request) -> web.Response:
        """A browser asks before it sends a credential from a page of another site."""
        allowed = {**origins.headers(request), **_PREFLIGHT} if origins.admit(request) else origins.headers(request)
        return web.Response(status=204, headers=allowed)

    catalogue = {"/voices": voices, "/models": models}
    return [
        *(web.get(path, handler) for path, handler in catalogue.items()),
        *(web.options(path, preflight) for path in catalogue),
    ]
