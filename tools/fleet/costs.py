"""What a batch costs on a device: measured tables, and the planner that a worker would make of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.serving.cost import CostModel
from worker.serving.plan import Planner

LOAD_SHARE = 0.9  # worker.load_share


@dataclass(frozen=True, slots=True)
class Device:
    """A model on a device. `ms`: by batch size and solver steps."""

    name: str
    block_ms: int
    min_steps: int
    max_steps: int
    max_batch: int
    max_sessions: int
    ms: Mapping[int, Mapping[int, float]]

    def planner(self) -> Planner:
        """As `worker.serving.warmup` makes it of its own measurements."""
        cost = CostModel()
        for size, by_steps in self.ms.items():
            for steps, ms in by_steps.items():
                cost.measure(size, steps, ms)
        return Planner(
            cost,
            max_batch=self.max_batch,
            min_steps=self.min_steps,
            max_steps=self.max_steps,
            block_s=self.block_ms / 1000,
            load_share=LOAD_SHARE,
        )

    @property
    def places(self) -> int:
        """That a worker offers."""
        return min(self.max_sessions, self.planner().capacity)


# One core of a virtual x86-64 machine, CPU time of the warm-up's own measurements, float32, config/default.yaml.
NANO_ON_A_CORE = Device(
    name="nano, one CPU core",
    block_ms=500,
    min_steps=1,
    max_steps=2,
    max_batch=8,
    max_sessions=16,
    ms={1: {1: 51, 2: 74}, 2: {1: 94, 2: 141}, 4: {1: 180, 2: 250}, 8: {1: 392, 2: 535}},
)


def read(path: Path) -> Device:
    """A table of one's own: JSON with the fields of `Device`. Raises `ValueError`, `OSError`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    ms = {int(size): {int(steps): float(one) for steps, one in row.items()} for size, row in content.pop("ms").items()}
    try:
        return Device(**content, ms=ms)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from None
