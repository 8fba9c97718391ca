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

# One NVIDIA H200, bf16, graphs and fused kernels, blocks of 0.5 s: docs/performance.md, "Places".
TINY_ON_AN_H200 = Device(
    name="tiny, one H200",
    block_ms=500,
    min_steps=5,
    max_steps=10,
    max_batch=128,
    max_sessions=512,
    ms={
        size: {5: at_5, 10: at_10}
        for size, at_5, at_10 in (
            (1, 9.5, 12.7),
            (2, 10.6, 13.2),
            (4, 13.6, 17.6),
            (8, 17.7, 24.6),
            (16, 28.1, 38.6),
            (32, 50.7, 70.8),
            (64, 90.4, 129.0),
            (128, 171.6, 245.4),
        )
    },
)
KNOWN = {"nano-core": NANO_ON_A_CORE, "tiny-h200": TINY_ON_AN_H200}


def find(name: str) -> Device:
    """A device that is known by `name`, or the table in the file of that name. Raises `ValueError`, `OSError`."""
    return KNOWN[name] if name in KNOWN else read(Path(name))


def read(path: Path) -> Device:
    """A table of one's own: JSON with the fields of `Device`. Raises `ValueError`, `OSError`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    ms = {int(size): {int(steps): float(one) for steps, one in row.items()} for size, row in content.pop("ms").items()}
    try:
        return Device(**content, ms=ms)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from None
