"""What the scheduler asks of a model: a few verbs over rows of preallocated state.

An engine owns per-session state as rows of tensors, indexed by slot. It converts the windows of many rows in one call.
Context roll, loudness and crossfade are not its business: see ``worker.streams``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from worker.geometry import Geometry


class PoolFull(RuntimeError):
    """No room for one more session."""


StageTimes = dict[str, float]  # stage name -> milliseconds


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """A session's own wishes; None is the worker's default."""

    steps: int | None = None  # at most so many solver steps
    guidance: float | None = None  # rate of classifier-free guidance, 0 or more
    f0_shift: float = 0.0  # semitones on top of the reference's pitch


@dataclass(frozen=True, slots=True)
class Batch:
    """One window of each of ``B`` sessions."""

    rows: torch.Tensor  # int64 [B], distinct slots
    window: torch.Tensor  # float32 [B, geometry.window_samples] in [-1, 1] at 16 kHz, the newest block at its end
    position: torch.Tensor  # int64 [B], units of 20 ms from the session's start to the window's end
    steps: int  # at most so many solver steps; models without a solver ignore it


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

    @property
    def keeps_speech(self) -> bool:
        """Whether the left context shall hold the latest speech, whatever silence has passed since."""
        ...

    def open(self, slot: int, voice: str, options: SessionOptions, seed: int) -> None:
        """Reset row ``slot`` for a new session with reference ``voice``.

        Raises ``KeyError`` for an unknown voice, ``VoiceError`` for a reference that turns out to be of no use,
        ``PoolFull`` if there is no room for one more voice. seed: in [0, 2^63); of a session's noise, so that the
        session can be reproduced.
        """
        ...

    def close(self, slot: int) -> None:
        """Forget what row ``slot`` held."""
        ...

    def convert(self, batch: Batch) -> tuple[torch.Tensor, StageTimes]:
        """Convert one window a row.

        Returns float32 ``[B, geometry.engine_samples]`` at ``geometry.output_rate``, ending ``geometry.right_units``
        before the window's end, and milliseconds per stage. A row must not depend on its neighbours, and a call that
        raises must leave all rows as they were.
        """
        ...
