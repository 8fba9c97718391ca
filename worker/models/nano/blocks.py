"""What the bundled model's style encoder and vocoder are made of: convolutions over log-mel frames.

Liu et al., "A ConvNet for the 2020s" (2022).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEL_MEAN, MEL_SCALE = -5.0, 2.5  # of natural-log mel frames, roughly


class ConvBlock(nn.Module):
    """Depthwise convolution over time, then two layers a frame, on a residual."""

    def __init__(self, width: int, inner: int, kernel: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, kernel, groups=width, padding=kernel // 2)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.gain = nn.Parameter(torch.full((width,), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width]`` to the same."""
        y = self.mix(x.transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.gain * self.down(F.gelu(self.up(self.norm(y))))
        return out
