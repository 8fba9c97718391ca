"""Callers who find no place and ask again, as they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tools.client.client import CallError

T = TypeVar("T")


async def when_there_is_room(begin: Callable[[], Awaitable[T]], *, tries: int = 100, pause_s: float = 0.2) -> T:
    """What `begin` comes to. A slow machine has few places, and each of several gateways only its share of them."""
    for _ in range(tries - 1):
        try:
            return await begin()
        except CallError as error:
            if "OVERLOADED" not in str(error) and "refused with HTTP 503" not in str(error):
                raise
        await asyncio.sleep(pause_s)
    return await begin()
