"""How late the event loop is: every call pays for whatever keeps it busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_INTERVAL_S = 0.05


async def watch_lag(observe: Callable[[float], None]) -> None:
    """Until it is cancelled, tell `observe` by how many seconds each of many timers came too late."""
    now = asyncio.get_running_loop().time
    while True:
        due = now() + _INTERVAL_S
        await asyncio.sleep(_INTERVAL_S)
        observe(max(0.0, now() - due))
