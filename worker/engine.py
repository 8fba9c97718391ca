"""What the scheduler asks of a model: a few verbs over rows of preallocated state.

An engine owns per-session state as rows of tensors, indexed by slot. It converts the windows of many rows in one call.
Context roll, loudness and crossfade are not its business: see ``worker.streams``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from worker.geometry import Geometry

StageTimes = dict[str, float]  # stage name -> milliseconds


class Engine(Protocol):
    """A batched streaming voice-conversion model."""

    @property
    def name(self) -> str: ...

    @property
    def geometry(self) -> Geometry: ...

    @property
    def voices(self) -> Mapping[str, str]:
        """Voice name -> one line that describes it. The first is the default."""
        ...

    def open(self, slot: int, voice: str) -> None:
        """Reset row ``slot`` for a new session with reference ``voice``. Raises ``KeyError`` for an unknown voice."""
        ...

    def close(self, slot: int) -> None:
        """Forget what row ``slot`` held."""
        ...

    def convert(self, rows: torch.Tensor, window: torch.Tensor, steps: int) -> tuple[torch.Tensor, StageTimes]:
        """Convert one window a row.

        rows: int64 ``[B]``, distinct slots. window: float32 ``[B, geometry.window_samples]`` in [-1, 1] at 16 kHz, its
        newest block at the end. steps: solver steps, ignored by models without a solver. Returns float32
        ``[B, geometry.engine_samples]`` at ``geometry.output_rate``, ending ``geometry.right_units`` before the
        window's end, and milliseconds per stage. A row must not depend on its neighbours.
        """
        ...
