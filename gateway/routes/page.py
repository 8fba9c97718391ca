"""The pages: their documents and modules, and the token that they may use without anybody typing one."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from gateway.auth.door import Door
from gateway.auth.passes import LIFETIME_S
from gateway.origins import Origins
from shared.addresses import is_loopback

_FOLDER = Path(__file__).parents[1] / "web"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".flac": "audio/flac"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes(door: Door, origins: Origins, *, is_private: bool) -> list[web.RouteDef]:
    """`/web/NAME` for each file of the pages, and `/web/token`. The documents themselves are `page()`.

    Modules are lent to pages of other sites that may call (CORS); tokens are not. is_private: only this machine
    reaches the gateway.
    """
    files = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _TYPES}

    async def part(request: web.Request) -> web.StreamResponse:
        path = files.get(request.match_info["name"])
        if path is None:
            raise web.HTTPNotFound
        response = _file(path)
        response.headers.update(origins.headers(request))
        return response

    async def token(request: web.Request) -> web.Response:
        given = door.issue_pass() if is_private and is_at_hand(request) else None
        content = {"required": not door.is_open, "token": given, "expires_in_s": LIFETIME_S if given else None}
        return web.json_response(content, headers={"Cache-Control": "no-store"})

    return [web.get("/web/token", token), web.get("/web/{name}", part)]


def page(name: str = "index.html") -> web.StreamResponse:
    """A document."""
    return _file(_FOLDER / name)


def _file(path: Path) -> web.FileResponse:
    response = web.FileResponse(path, headers=_HEADERS)
    response.content_type = _TYPES[path.suffix]
    response.charset = "utf-8" if path.suffix != ".flac" else None
    return response


def is_at_hand(request: web.Request) -> bool:
    """Whether the browser runs on this machine, where only this machine reaches the gateway: nothing forwarded the
    request, and the page goes by a name of this machine (a stranger's name may resolve to loopback)."""
    forwarded = any(name in request.headers for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"))
    return not forwarded and is_loopback(request.url.host or "")
