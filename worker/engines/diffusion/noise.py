"""Noise that depends on a session and a place in its stream, and on nothing else.

One fixed tape of standard normal frames a worker; a session reads it from a place of its own. The same frame of a
stream so gets the same noise in every window that holds it, whoever else is in the batch, and a session can be
reproduced. No random number is drawn during a call.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class NoiseTape:
    """``length`` frames of ``rows`` numbers, read in a ring."""

    def __init__(self, rows: int, length: int, device: str | torch.device = "cpu", seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)  # drawn on the CPU: the same on every device
        self._tape = torch.randn(length, rows, generator=generator).to(device)

    def take(self, start: Tensor, length: int) -> Tensor:
        """``length`` frames from ``start``, int64 ``[B]`` of any value, on: float32 ``[B, rows, length]``."""
        index = start[:, None] + torch.arange(length, device=start.device)
        return self._tape[index.remainder(self._tape.shape[0])].transpose(1, 2)


class PhaseTable:
    """Start phases of harmonics, uniform in (-pi, pi)."""

    def __init__(self, harmonics: int, size: int = 1024, device: str | torch.device = "cpu") -> None:
        generator = torch.Generator().manual_seed(1)
        self._table = ((torch.rand(size, harmonics, 1, generator=generator) * 2 - 1) * math.pi).to(device)

    def take(self, seed: Tensor) -> Tensor:
        """seed: int64 ``[B]``. Returns float32 ``[B, harmonics, 1]``."""
        return self._table[seed.remainder(self._table.shape[0])]
