"""The page: its document, its modules, and the key that it may use without anybody typing it."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from shared.addresses import is_loopback
from shared.settings import DEMO_KEY, AuthConfig

_FOLDER = Path(__file__).parents[1] / "web"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".flac": "audio/flac"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes(auth: AuthConfig, *, is_private: bool) -> list[web.RouteDef]:
    """`/web/NAME` for each file of the page, and `/web/key`. The document itself is `page()`."""
    files = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _TYPES}

    async def part(request: web.Request) -> web.StreamResponse:
        path = files.get(request.match_info["name"])
        if path is None:
            raise web.HTTPNotFound
        return _file(path)

    async def key(request: web.Request) -> web.Response:
        demo = auth.takes_keys and is_private and DEMO_KEY in auth.api_keys
        content = {"required": not auth.is_open, "api_key": DEMO_KEY if demo and _is_local(request) else None}
        return web.json_response(content, headers={"Cache-Control": "no-store"})

    return [web.get("/web/key", key), web.get("/web/{name}", part)]


def page() -> web.StreamResponse:
    """The document."""
    return _file(_FOLDER / "index.html")


def _file(path: Path) -> web.FileResponse:
    response = web.FileResponse(path, headers=_HEADERS)
    response.content_type = _TYPES[path.suffix]
    response.charset = "utf-8" if path.suffix != ".flac" else None
    return response


def _is_local(request: web.Request) -> bool:
    """Whether the browser runs on this machine, where only this machine reaches the gateway: nothing forwarded the
    request, and the page goes by a name of this machine (a stranger's name may resolve to loopback)."""
    forwarded = any(name in request.headers for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"))
    return not forwarded and is_loopback(request.url.host or "")
