"""What the scheduler asks of a model: a few verbs over rows of preallocated state.

An engine owns per-session state as rows of tensors, indexed by slot. It converts the windows of many rows in one call.
Context roll, loudness and crossfade are not its business: see ``worker.streaming.pool``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from worker.geometry import Geometry

SEED_BITS = 62


class PoolFull(RuntimeError):
    """No room for one more session."""


StageTimes = dict[str, float]  # stage name -> milliseconds


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """A session's own wishes; None is the worker's default."""

    steps: int | None = None  # at most so many solver steps
    guidance: float | None = None  # rate of classifier-free guidance, 0 or more
    f0_shift: float = 0.0  # semitones on top of the reference's pitch
    intelligibility: float | None = None  # V2's guidance towards the words, 0 or more
    similarity: float | None = None  # V2's guidance towards the voice, 0 or more
    retrieval_rate: float | None = None  # share of the voice's own recorded content, 0 to 1


@dataclass(frozen=True, slots=True)
class OptionLimits:
    """What a session may ask of a model. A limit of 0 means that the model cannot do it at all."""

    max_steps: int
    max_guidance: float
    max_f0_shift: float  # semitones, either way
    max_intelligibility: float = 0.0
    max_similarity: float = 0.0
    max_retrieval: float = 0.0

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """What the model can do: option -> lowest and highest value."""
        every = {
            "steps": (1.0, float(self.max_steps)),
            "guidance": (0.0, self.max_guidance),
            "f0_shift": (-self.max_f0_shift, self.max_f0_shift),
            "intelligibility": (0.0, self.max_intelligibility),
            "similarity": (0.0, self.max_similarity),
            "retrieval_rate": (0.0, self.max_retrieval),
        }
        return {name: (low, high) for name, (low, high) in every.items() if high > 0}

    def check(self, options: Mapping[str, float]) -> SessionOptions:
        """Typed options. Raises ``ValueError`` naming what is unknown or out of its limits."""
        bounds = self.bounds
        for name, value in options.items():
            if name not in bounds:
                raise ValueError(f"options.{name}: this model knows {', '.join(bounds) or 'no options'}")
            low, high = bounds[name]
            if not low <= value <= high:
                raise ValueError(f"options.{name} must be within {low:g} and {high:g}, got {value:g}")
        steps = options.get("steps")
        if steps is not None and steps != int(steps):
            raise ValueError(f"options.steps must be a whole number, got {steps:g}")
        return SessionOptions(
            None if steps is None else int(steps),
            options.get("guidance"),
            options.get("f0_shift", 0.0),
            options.get("intelligibility"),
            options.get("similarity"),
            options.get("retrieval_rate"),
        )


NO_OPTIONS = OptionLimits(0, 0.0, 0.0)


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
    def limits(self) -> OptionLimits:
        """What a session may ask for."""
        ...

    @property
    def keeps_speech(self) -> bool:
        """Whether the left context shall hold the latest speech, whatever silence has passed since."""
        ...

    @property
    def guest_prompt_s(self) -> float:
        """So much it uses of a reference that a session brings; 0: it takes none."""
        ...

    def open(self, slot: int, voice: str, options: SessionOptions, seed: int, reference: bytes | None = None) -> None:
        """Reset row ``slot`` for a new session with reference ``voice``.

        reference: the content of a sound file that is the voice; two sessions with one ``voice`` bring the same.

        Raises ``KeyError`` for an unknown voice, ``VoiceError`` for a reference that turns out to be of no use,
        ``PoolFull`` if there is no room for one more voice; then the row is as it was. seed: in [0, 2^63); of a
        session's noise, so that the session can be reproduced.
        """
        ...

    def close(self, slot: int) -> None:
        """Forget what row ``slot`` held."""
        ...

    def prepare(self, budget_s: float) -> bool:
        """Do one piece of work that was put off until nobody waits, if it is not expected to take longer than
        ``budget_s`` seconds; whether it was done."""
        ...

    def convert(self, batch: Batch) -> tuple[torch.Tensor, StageTimes]:
        """Convert one window a row.

        Returns float32 ``[B, geometry.engine_samples]`` at ``geometry.output_rate``, ending ``geometry.right_units``
        before the window's end, and milliseconds per stage. A row must not depend on its neighbours, and a call that
        raises must leave all rows as they were.
        """
        ...


def session_seed(session_id: str) -> int:
    """A seed in [0, 2^62) from a session's name, the same on every host."""
    digest = hashlib.blake2b(session_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> (64 - SEED_BITS)


def is_out_of_memory(error: Exception) -> bool:
    """Of a device or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # the CPU allocator's words
