"""What a call is allowed runs out while it is on: its credential expires or is revoked, the day's minutes are spent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.auth.door import WARN_BEFORE_S, Door, Standing
from gateway.auth.ledger import Ticket
from gateway.errors import SessionError

_LOOK_INTERVAL_S = 1.0
_POLICY = 1008  # close code, RFC 6455

_WILL_END = {
    "expired": "the credential expires",
    "revoked": "the key was revoked",
    "minutes_per_day": "the minutes of this day are nearly spent",
}


async def guard(door: Door, ticket: Ticket, warn: Callable[[str, int], Awaitable[None]]) -> SessionError:
    """Waits until the call of `ticket` may not go on, and says why. It warns once before, with the seconds left."""
    warned = False
    while True:
        standing = door.standing(ticket)
        if standing is not None and standing.left_s <= 0:
            return _error(standing)
        if standing is not None and standing.left_s <= WARN_BEFORE_S and not warned:
            warned = True
            await warn(_WILL_END[standing.end], max(1, round(standing.left_s)))
        left_s = _LOOK_INTERVAL_S if standing is None else min(_LOOK_INTERVAL_S, standing.left_s)
        await asyncio.sleep(left_s)


def _error(standing: Standing) -> SessionError:
    match standing.end:
        case "expired":
            return SessionError("AUTH_FAILED", "api_key: the credential has expired", close_code=_POLICY)
        case "revoked":
            return SessionError("AUTH_FAILED", "api_key: the key was revoked", close_code=_POLICY)
        case "minutes_per_day":
            details = {"limit": "minutes_per_day"}
            return SessionError("TOO_MANY_SESSIONS", "the minutes of this day are spent", details, _POLICY)
