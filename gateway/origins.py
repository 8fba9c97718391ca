"""Which sites' pages may use the gateway: a browser says where a page came from, and cannot be made to lie."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from aiohttp import web
from loguru import logger

from gateway.seldom import Seldom
from shared.addresses import is_loopback

_SAY_AGAIN_S = 60.0
_SHOWN_CHARACTERS = 200


class Origins:
    """The gateway's own pages always may, and what names no origin, for it is no browser."""

    def __init__(self, allowed: Sequence[str], *, is_private: bool) -> None:
        """`allowed`: origins (``https://app.example``), ``null`` for pages of files, or ``*`` for all.

        `is_private`: only this machine reaches the gateway, so that a page which calls it by a public name was lent
        that name by somebody else's DNS (rebinding).
        """
        self._private = is_private
        self._seldom = Seldom(_SAY_AGAIN_S)
        self._all = "*" in allowed
        self._allowed = {_as_browsers_write(origin) for origin in allowed}

    def admit(self, request: web.Request) -> bool:
        """Whether the page that sent `request` may use the gateway. If not, the log says so now and then: a page is not
        told why its call fails."""
        origin = request.headers.get("Origin")
        if origin is None or self._may(origin, request.headers.get("Host", "").lower()):
            return True
        shown = origin[:_SHOWN_CHARACTERS]
        if self._seldom.count(shown) is not None:
            logger.info("a page of {!r} is refused: gateway.allowed_origins names those that may", shown)
        return False

    def _may(self, origin: str, own: str) -> bool:
        if self._all or origin.lower() in self._allowed:
            return True
        try:
            page = urlsplit(origin.lower())
        except ValueError:
            return False
        if not own or page.netloc != own:
            return False
        return not self._private or is_loopback(page.hostname or "")

    def headers(self, request: web.Request) -> dict[str, str]:
        """For the answer: without them a browser keeps it from a page of another site."""
        origin = request.headers.get("Origin")
        if origin is None or not self.admit(request):
            return {"Vary": "Origin"}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}


def _as_browsers_write(origin: str) -> str:
    """Without the port that goes without saying."""
    plain = origin.rstrip("/").lower()
    for scheme, port in (("http:", ":80"), ("https:", ":443")):
        if plain.startswith(scheme):
            return plain.removesuffix(port)
    return plain
