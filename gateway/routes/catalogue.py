"""Which models a caller may choose from."""

from __future__ import annotations

from aiohttp import web

from gateway.origins import Origins
from gateway.pool import Pool
from gateway.routes.voices import preflight


def catalogue_routes(pool: Pool, origins: Origins) -> list[web.RouteDef]:
    async def models(request: web.Request) -> web.Response:
        content = {"models": pool.models(), "default": pool.default_model}
        return web.json_response(content, headers=origins.headers(request))

    return [web.get("/models", models), web.options("/models", preflight(origins))]
