"""What may happen a thousand times a second is said once in a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_MAX_KINDS = 1000  # of things that are remembered; strangers may bring ever new ones


@dataclass(slots=True)
class _Kind:
    said_at: float
    unsaid: int = 0


class Seldom:
    """Of each kind once in `every_s`, and of all kinds together no more than `at_most` in that time."""

    def __init__(self, every_s: float, at_most: int = 20, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._at_most, self._clock = every_s, at_most, clock
        self._kinds: dict[str, _Kind] = {}
        self._said: list[float] = []

    def count(self, kind: str) -> int | None:
        """It happened. How often since it was said last, if it is to be said now."""
        now = self._clock()
        known = self._kinds.get(kind)
        self._said = [at for at in self._said if now - at < self._every_s]
        if (known is not None and now - known.said_at < self._every_s) or len(self._said) >= self._at_most:
            if known is None and len(self._kinds) < _MAX_KINDS:
                known = self._kinds[kind] = _Kind(-self._every_s)
            if known is not None:
                known.unsaid += 1
            return None
        if known is None and len(self._kinds) >= _MAX_KINDS:
            self._kinds.clear()
        self._said.append(now)
        self._kinds[kind] = _Kind(now)
        return 1 if known is None else known.unsaid + 1
