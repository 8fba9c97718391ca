"""Where callers say what they want: the first message, and who they are."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gateway.auth.door import Door
from gateway.auth.principal import ANYBODY, CredentialError, Principal
from gateway.caller import Caller
from gateway.errors import SessionError
from gateway.request import SessionRequest


@dataclass(frozen=True, slots=True)
class Visit:
    """A caller who has said what they want, and who is believed."""

    caller: Caller
    request: SessionRequest
    principal: Principal


async def introduce(caller: Caller, timeout_s: float) -> SessionRequest:
    """The first message. Raises `SessionError`."""
    try:
        async with asyncio.timeout(timeout_s):
            return await caller.introduce()
    except TimeoutError:
        raise SessionError("TIMEOUT", f"no configuration within {timeout_s:g} s") from None


async def identify(caller: Caller, request: SessionRequest, door: Door) -> Principal:
    """Who calls. Raises `SessionError` AUTH_FAILED."""
    if caller.principal is not None:
        return caller.principal
    if request.api_key is None:
        return ANYBODY  # the protocol carries no key
    try:
        return await door.identify(request.api_key, caller.address)
    except CredentialError as error:
        raise SessionError("AUTH_FAILED", str(error), {"fields": ["api_key"]}) from None
