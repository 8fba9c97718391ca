"""How long the stages of a call take, on the device that runs them."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Protocol

import torch

from worker.engine import StageTimes


class Stopwatch(Protocol):
    """Told when a stage of a call is over."""

    def lap(self, stage: str) -> None: ...


class Laps:
    """Milliseconds per stage: of the CPU's clock, or between events on the device, which nobody waits for until the
    call is over."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []
        self.lap("")

    def lap(self, stage: str) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((stage, event))
        else:
            self._marks.append((stage, 1e3 * time.perf_counter()))

    def times(self) -> StageTimes:
        if self._cuda:
            torch.cuda.synchronize()
        times: StageTimes = {}
        for (_, before), (stage, after) in pairwise(self._marks):
            if isinstance(before, float) and isinstance(after, float):
                times[stage] = after - before
            elif isinstance(before, torch.cuda.Event) and isinstance(after, torch.cuda.Event):
                times[stage] = before.elapsed_time(after)
        return times
