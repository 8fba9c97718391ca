"""An engine that returns what it hears: for measurements of everything around it, and for tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from shared.config import WorkerConfig
from worker.engine import NO_OPTIONS, Batch, SessionOptions, StageTimes
from worker.geometry import INPUT_RATE, Geometry


class PassthroughEngine:
    """Implements ``worker.engine.Engine`` without a model."""

    name = "passthrough"
    keeps_speech = False
    guest_prompt_s = 0.0
    limits = NO_OPTIONS

    def __init__(self, geometry: Geometry) -> None:
        if geometry.output_rate != INPUT_RATE:
            raise ValueError(f"the passthrough engine puts out {INPUT_RATE} Hz, not {geometry.output_rate}")
        self.geometry = geometry

    @property
    def voices(self) -> Mapping[str, str]:
        return {"none": "the caller's own sound"}

    def open(self, slot: int, voice: str, options: SessionOptions, seed: int, reference: bytes | None = None) -> None:
        pass

    def close(self, slot: int) -> None:
        pass

    def prepare(self, budget_s: float) -> bool:
        return False

    def convert(self, batch: Batch) -> tuple[torch.Tensor, StageTimes]:
        end = self.geometry.window_samples - self.geometry.right_samples_out
        return batch.window[:, end - self.geometry.engine_samples : end].clone(), {}


def make(config: WorkerConfig, device: str) -> PassthroughEngine:
    """As configured."""
    return PassthroughEngine(Geometry.of(config))
