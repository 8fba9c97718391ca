"""What a batch costs: milliseconds by size and solver steps, measured at start and kept current while running."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from worker.buckets import bucket_of

OWN_WEIGHT = 0.2  # of a new measurement in its bucket's correction
FORGET_S = 60.0  # of rest, in which what a busy device taught fades to 1/e
OTHERS_WEIGHT = 0.02  # how far the other buckets' follow it: a device that slows down slows down for all


@dataclass(slots=True)
class _Line:
    """``fixed_ms + step_ms * steps``, times what running has taught."""

    fixed_ms: float
    step_ms: float
    correction: float = 1.0
    best: float = 1.0  # correction so far

    def at(self, steps: int) -> float:
        return self.correction * (self.fixed_ms + self.step_ms * steps)


class CostModel:
    """A line over steps for each bucket; between buckets, and beyond the last, in proportion to the rows."""

    def __init__(self) -> None:
        self._measured: dict[int, dict[int, float]] = {}
        self._lines: dict[int, _Line] = {}
        self._sizes: list[int] = []

    @property
    def known(self) -> bool:
        return bool(self._lines)

    def measure(self, size: int, steps: int, ms: float) -> None:
        """A start-up measurement; it replaces an earlier one of the same bucket and steps."""
        bucket = bucket_of(size)
        points = self._measured.setdefault(bucket, {})
        points[steps] = ms
        low, high = min(points), max(points)
        slope = max(0.0, (points[high] - points[low]) / (high - low)) if high > low else ms / max(1, steps)
        self._lines[bucket] = _Line(max(0.0, points[low] - slope * low), slope)
        self._sizes = sorted(self._lines)

    def observe(self, size: int, steps: int, ms: float) -> None:
        """What a batch has just taken. Nothing is learnt before anything was measured."""
        if not self._lines:
            return
        own = self._lines.get(bucket_of(size))
        ratio = ms / max(1e-6, self.ms(size, steps))
        if own is None:
            for line in self._lines.values():
                line.correction *= 1 + OTHERS_WEIGHT * (ratio - 1)
            return
        own.correction *= 1 + OWN_WEIGHT * (ratio - 1)
        for line in self._lines.values():
            line.correction += OTHERS_WEIGHT * (own.correction - line.correction)
            line.best = min(line.best, line.correction)

    def rest(self, seconds: float) -> None:
        """So long there was nothing to observe. A cost that nobody pays cannot be seen to fall again: it fades towards
        the lowest that was known, or a device that was once slow would never be asked again."""
        left = math.exp(-seconds / FORGET_S)
        for line in self._lines.values():
            line.correction = line.best + (line.correction - line.best) * left

    def ms(self, size: int, steps: int) -> float:
        """Expected milliseconds of a batch; 0 while nothing is known."""
        if not self._lines:
            return 0.0
        bucket = bucket_of(size)
        if bucket in self._lines:
            return self._lines[bucket].at(steps)
        place = bisect_left(self._sizes, bucket)
        if place == 0:
            return self._lines[self._sizes[0]].at(steps)
        below = self._sizes[place - 1]
        if place == len(self._sizes):
            return self._lines[below].at(steps) * bucket / below
        above = self._sizes[place]
        share = (bucket - below) / (above - below)
        return (1 - share) * self._lines[below].at(steps) + share * self._lines[above].at(steps)

    def capacity(self, block_ms: float, steps: int, max_batch: int, load_share: float) -> int:
        """Sessions that can all speak at once in real time, the device busy for ``load_share`` of the time.

        A batch that takes longer than a block answers late whoever is in it, so it does not count.
        """
        if not self._lines:
            return max_batch
        best = 0.0
        for size in {min(bucket, max_batch) for bucket in (*self._sizes, bucket_of(max_batch))}:
            ms = self.ms(size, steps)
            if ms <= block_ms:
                best = max(best, load_share * block_ms * size / max(ms, 1e-6))
        return int(best)
