"""Callers of a day: how many come when, and how long they stay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

HOUR_S = 3600.0
# Share of the busiest moment's load by hour of the day: a night, a morning's rise, a dip at noon, an evening's peak.
SHAPE = (0.15, 0.1, 0.07, 0.06, 0.07, 0.12, 0.25, 0.45, 0.65, 0.78, 0.82, 0.8,
         0.72, 0.74, 0.78, 0.8, 0.84, 0.9, 0.97, 1.0, 0.95, 0.75, 0.5, 0.28)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Day:
    """`peak` callers at once at the busiest moment, were there room for all; a call lasts `call_s` in the mean."""

    peak: float
    call_s: float = 600.0

    def share(self, at: float) -> float:
        """Of the peak, at second `at` of the day."""
        hour = at / HOUR_S % 24
        low = int(hour)
        part = hour - low
        return SHAPE[low] * (1 - part) + SHAPE[(low + 1) % 24] * part

    def calls(self, begin: float, end: float, dice: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Beginnings, as a Poisson process whose rate follows the day, and lengths (exponential), in order.

        At `begin` there are already as many calls as belong to that moment.
        """
        for _ in range(dice.poisson(self.peak * self.share(begin))):
            yield begin, dice.exponential(self.call_s)  # memoryless: what is left of a call is as long as a call
        most = self.peak / self.call_s
        at = begin
        while (at := at - math.log(1 - dice.random()) / most) < end:
            if dice.random() < self.share(at):
                yield at, dice.exponential(self.call_s)
