"""Content features of the bundled model: what is said, as shares of a few hundred sound classes.

The first layers of Whisper-tiny's encoder (Radford et al., "Robust Speech Recognition via Large-Scale Weak
Supervision", 2022; MIT), trained on to name, whoever speaks, the class that clustering gave to the whole encoder's
features. A distribution over classes has little room for a voice (van Niekerk et al., "A Comparison of Discrete and
Soft Speech Units for Improved Voice Conversion", 2022). Attention reaches a little way only, so that a frame is much
the same in windows of any length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.published.encoder import EncoderLayer
from worker.models.published.mel import hann, mel_filters
from worker.models.published.whisper import HOP, MEL_BINS, N_FFT, POSITIONS, RATE, SAMPLES_A_FRAME

QUIETEST = -8.0  # tens of dB, against a recording's loudest point: below it nothing is heard


@dataclass(frozen=True, slots=True)
class NanoContentConfig:
    width: int = 384
    heads: int = 6
    inner: int = 1440  # of Whisper-tiny's 1536
    depth: int = 2
    past: int = 60  # frames of 20 ms that attention reaches back
    look_ahead: int = 2  # and ahead, in each layer
    classes: int = 256


class NanoContent(nn.Module):
    window: Tensor
    filters: Tensor
    positions: Tensor

    def __init__(self, config: NanoContentConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NanoContentConfig()
        self.conv1 = nn.Conv1d(MEL_BINS, config.width, 3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, 2, padding=1)
        self.layers = nn.ModuleList(
            EncoderLayer(config.width, config.heads, config.inner, key_bias=False) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.classes = nn.Linear(config.width, config.classes)
        self.register_buffer("window", hann(N_FFT), persistent=False)
        self.register_buffer("filters", mel_filters(RATE, N_FFT, MEL_BINS, 0.0, 8000.0), persistent=False)
        self.register_buffer("positions", sinusoids(POSITIONS, config.width), persistent=False)

    def listen(self, wave: Tensor) -> Tensor:
        """Base-10 log-mel power ``[B, 80, 2 N]`` of a wave ``[B, n]``, ``N = n // 320``."""
        wave = wave[:, : wave.shape[1] // SAMPLES_A_FRAME * SAMPLES_A_FRAME].float()
        spectrum = torch.stft(wave, N_FFT, HOP, window=self.window, center=True, return_complex=True)[..., :-1]
        return (self.filters @ (spectrum.real.square() + spectrum.imag.square())).clamp(min=1e-10).log10()

    def features(self, log_mel: Tensor, first: int = 0) -> Tensor:
        """``listen``'s frames to ``[B, N, width]``. first: position of the first frame."""
        loudest = log_mel.amax(dim=(1, 2), keepdim=True)
        heard = (log_mel.maximum(loudest + QUIETEST) + 4.0) / 4.0
        x = F.gelu(self.conv1(heard.to(self.conv1.weight.dtype)))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        place = torch.arange(x.shape[1], device=x.device)
        x = x + self.positions[(first + place) % POSITIONS].to(x.dtype)
        ahead = place - place[:, None]
        near = (ahead >= -self.config.past) & (ahead <= self.config.look_ahead)
        for layer in self.layers:
            x = layer(x, near)
        out: Tensor = self.norm(x)
        return out

    def forward(self, wave: Tensor) -> Tensor:
        """wave: ``[B, n]`` at 16 kHz in [-1, 1]. Returns shares of the classes ``[B, n // 320, classes]``; frame ``i``
        is centred on sample ``320 i`` and hears 115 ms beyond it, or less where the wave ends."""
        logits: Tensor = self.classes(self.features(self.listen(wave)))
        return logits.softmax(dim=-1)


def sinusoids(length: int, width: int) -> Tensor:
    """Whisper's positions, float32 ``[length, width]``."""
    step = math.log(10_000) / (width // 2 - 1)
    angles = torch.arange(length)[:, None] * torch.exp(-step * torch.arange(width // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)
