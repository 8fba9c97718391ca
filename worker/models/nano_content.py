"""Content features of the bundled model: what is said, as shares of a few hundred sound classes.

A small convolutional network in the form of Liu et al., "A ConvNet for the 2020s" (2022), over log-mel frames. It has
learnt to name, whoever speaks, the class that clustering gave to a Whisper encoder's features; a distribution over
classes has little room for a voice (van Niekerk et al., "A Comparison of Discrete and Soft Speech Units for Improved
Voice Conversion", 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.mel import MelConfig, MelSpectrogram

CONTENT_MEL = MelConfig(rate=16_000, n_fft=1024, hop=320, bins=80, fmax=8000.0)
MEL_MEAN, MEL_SCALE = -5.0, 2.5  # of log-mel frames, roughly
KERNEL = 9


@dataclass(frozen=True, slots=True)
class NanoContentConfig:
    width: int = 192
    inner: int = 512
    look_ahead: tuple[int, ...] = (1, 1, 1, 0, 0, 0)  # frames of 20 ms that each block hears beyond its own
    bottleneck: int = 64
    classes: int = 256


class ConvBlock(nn.Module):
    """Depthwise convolution over time, then two layers a frame, on a residual."""

    def __init__(self, width: int, inner: int, kernel: int, look_ahead: int) -> None:
        super().__init__()
        self.pad = (kernel - 1 - look_ahead, look_ahead)
        self.mix = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.gain = nn.Parameter(torch.full((width,), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width]`` to the same."""
        y = self.mix(F.pad(x.transpose(1, 2), self.pad)).transpose(1, 2)
        out: Tensor = x + self.gain * self.down(F.gelu(self.up(self.norm(y))))
        return out


class NanoContent(nn.Module):
    def __init__(self, config: NanoContentConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NanoContentConfig()
        self.mel = MelSpectrogram(CONTENT_MEL)
        self.input = nn.Linear(CONTENT_MEL.bins, config.width)
        self.blocks = nn.ModuleList(
            ConvBlock(config.width, config.inner, KERNEL, look_ahead) for look_ahead in config.look_ahead
        )
        self.norm = nn.LayerNorm(config.width)
        self.bottleneck = nn.Linear(config.width, config.bottleneck)
        self.classes = nn.Linear(config.bottleneck, config.classes)

    def narrow(self, mel: Tensor) -> Tensor:
        """Log-mel frames ``[B, T, 80]`` to ``[B, T, bottleneck]``, each frame normalised."""
        x = self.input((mel - MEL_MEAN) / MEL_SCALE)
        for block in self.blocks:
            x = block(x)
        x = self.bottleneck(self.norm(x))
        return F.layer_norm(x, x.shape[-1:])

    def forward(self, wave: Tensor) -> Tensor:
        """wave: ``[B, n]`` at 16 kHz in [-1, 1]. Returns shares of the classes ``[B, n // 320, classes]``; frame ``i``
        is centred on sample ``320 i + 160``."""
        logits: Tensor = self.classes(self.narrow(self.mel(wave).transpose(1, 2).to(self.input.weight.dtype)))
        return logits.softmax(dim=-1)
