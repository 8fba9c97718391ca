"""Waiting for what happens in its own time: long enough for any machine, for what never happens fails all the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 45.0


def until(true: Callable[[], Any], timeout_s: float = PATIENCE_S, *, every_s: float = 0.02) -> None:
    """Blocks until `true()` is."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "did not become true in time"
        time.sleep(every_s)


async def soon(true: Callable[[], Any], timeout_s: float = PATIENCE_S, *, every_s: float = 0.01) -> None:
    """`until` for the event loop's own tests."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "did not become true in time"
        await asyncio.sleep(every_s)
