"""Credentials that come with an HTTP request, and the answers to those that are not believed."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.auth.door import Door
from gateway.auth.guessing import SlowDown
from gateway.auth.principal import CredentialError, Principal
from gateway.errors import ErrorCode
from shared.errors import ConfigError

QUERY_NAMES = ("api_key", "token", "access_token")  # for browsers, whose WebSocket sends no header
RETRY_AFTER_S = 5
_ADDRESS = web.RequestKey("address", str)


def credential_of(request: web.Request) -> str:
    """``Authorization: Bearer ...``, else a query parameter; empty where there is none."""
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer" and given.strip():
        return given.strip()
    return next((request.query[name] for name in QUERY_NAMES if request.query.get(name)), "")


def address_middleware(trusted: Sequence[str]) -> Middleware:
    """Believes the ``X-Forwarded-For`` of proxies in `trusted` networks, from the end up to the first stranger.

    Raises `ConfigError` for what is no network.
    """
    try:
        networks = [ipaddress.ip_network(network) for network in trusted]
    except ValueError as error:
        raise ConfigError(f"gateway.trusted_proxies: {error}") from None

    def is_proxy(address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in networks)

    @web.middleware
    async def find_address(request: web.Request, handler: Handler) -> web.StreamResponse:
        address = request.remote or "unknown"
        hops = [hop.strip() for hop in request.headers.get("X-Forwarded-For", "").split(",") if hop.strip()]
        while hops and is_proxy(address):
            address = hops.pop()
        request[_ADDRESS] = address
        return await handler(request)

    return find_address


def address_of(request: web.Request) -> str:
    """Where a request came from, as `address_middleware` found it."""
    return str(request.get(_ADDRESS, request.remote or "unknown"))


async def principal_of(request: web.Request, door: Door, scope: str | None = None) -> Principal:
    """Who asks. Raises `web.HTTPException` with a JSON body: 401, 429, or 403 without `scope`."""
    try:
        principal = await door.identify(credential_of(request), address_of(request))
    except CredentialError as error:
        raise refusal(error) from None
    if scope is not None and not principal.may(scope):
        raise failure(403, "AUTH_FAILED", f"{principal.name}: the scope {scope!r} is missing")
    return principal


def refusal(error: CredentialError) -> web.HTTPException:
    """401, or 429 for who guesses too fast."""
    if isinstance(error, SlowDown):
        return failure(429, "AUTH_FAILED", str(error), {"Retry-After": str(RETRY_AFTER_S)})
    return failure(401, "AUTH_FAILED", str(error), {"WWW-Authenticate": "Bearer"})


def failure(
    status: int,
    code: ErrorCode,
    message: str,
    headers: dict[str, str] | None = None,
    field: str | None = None,
    reason: str | None = None,
) -> web.HTTPException:
    """An answer with ``{"error_code", "message", "details"?}``, to be raised; `field` and `reason` are its details."""
    details = {**({"fields": [field]} if field else {}), **({"reason": reason} if reason else {})}
    body = {"error_code": code, "message": message, **({"details": details} if details else {})}
    text, kind = json.dumps(body), "application/json"
    if status == 413:
        return web.HTTPRequestEntityTooLarge(0, text=text, content_type=kind, headers=headers)
    return _BY_STATUS[status](text=text, content_type=kind, headers=headers)


_BY_STATUS: dict[int, type[web.HTTPException]] = {
    400: web.HTTPBadRequest,
    401: web.HTTPUnauthorized,
    403: web.HTTPForbidden,
    404: web.HTTPNotFound,
    409: web.HTTPConflict,
    415: web.HTTPUnsupportedMediaType,
    429: web.HTTPTooManyRequests,
    501: web.HTTPNotImplemented,
    503: web.HTTPServiceUnavailable,
    507: web.HTTPInsufficientStorage,
}
