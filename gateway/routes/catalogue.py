"""What a caller may choose from."""

from __future__ import annotations

from aiohttp import web

from gateway.pool import Pool


def catalogue_routes(pool: Pool) -> list[web.RouteDef]:
    async def voices(request: web.Request) -> web.Response:
        known = pool.voices()
        listed = [{"name": voice.name, "description": voice.description} for voice in known]
        return web.json_response({"voices": listed, "default": known[0].name if known else None})

    return [web.get("/voices", voices)]
