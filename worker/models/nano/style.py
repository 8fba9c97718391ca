"""The bundled model's speaker embedding: a small network that has learnt to say what a large speaker encoder says.

Its teacher is the encoder of Wan et al., "Generalized End-to-End Loss for Speaker Verification" (2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.nano.blocks import MEL_SCALE, ConvBlock
from worker.models.published.mel import MelConfig, MelSpectrogram

STYLE_MEL = MelConfig(rate=16_000, n_fft=1024, hop=320, bins=80, fmax=8000.0)


@dataclass(frozen=True, slots=True)
class NanoStyleConfig:
    width: int = 128
    inner: int = 256
    depth: int = 4
    kernel: int = 7
    style: int = 256


class NanoStyle(nn.Module):
    def __init__(self, config: NanoStyleConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NanoStyleConfig()
        self.mel = MelSpectrogram(STYLE_MEL)
        self.input = nn.Linear(STYLE_MEL.bins, config.width)
        self.blocks = nn.ModuleList(ConvBlock(config.width, config.inner, config.kernel) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.weight = nn.Linear(config.width, 1)
        self.output = nn.Linear(2 * config.width, config.style)

    def start(self, mel: Tensor) -> Tensor:
        """Log-mel frames ``[B, T, 80]`` to what the blocks begin with, ``[B, T, width]``."""
        mel = mel - mel.mean(dim=(1, 2), keepdim=True)  # the level says nothing of the voice
        out: Tensor = self.input(mel / MEL_SCALE)
        return out

    def embed(self, mel: Tensor) -> Tensor:
        """Log-mel frames ``[B, T, 80]`` to unit vectors ``[B, style]``: mean and deviation over frames that count."""
        x = self.start(mel)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        share = self.weight(x).softmax(dim=1)
        mean = (share * x).sum(dim=1)
        deviation = ((share * x.square()).sum(dim=1) - mean.square()).clamp(min=1e-5).sqrt()
        return F.normalize(self.output(torch.cat([mean, deviation], dim=-1)), dim=-1)

    def forward(self, wave: Tensor) -> Tensor:
        """wave: ``[B, n]`` at 16 kHz in [-1, 1], at least half a second. Returns ``[B, style]`` of unit length."""
        return self.embed(self.mel(wave).transpose(1, 2))
