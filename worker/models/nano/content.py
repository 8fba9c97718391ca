"""Content features of the bundled model: what is said, and how loudly.

The first layers of Whisper-base's encoder (Radford et al., "Robust Speech Recognition via Large-Scale Weak
Supervision", 2022; MIT), trained on to say, whoever speaks, what the whole encoder says of the same words, averaged
over voices. Attention reaches a little way only, so that a frame is much the same in windows of any length. How loud a
frame is goes beside it, because a pause must stay as quiet as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.published.encoder import EncoderLayer
from worker.models.published.mel import hann, mel_filters

RATE = 16_000
N_FFT = 400
HOP = 160
MEL_BINS = 80
POSITIONS = 1500
SAMPLES_A_FRAME = 320
QUIETEST = -8.0  # tens of dB, against a window's loudest point: below it nothing is heard
LOUDNESS_FROM = 3  # first mel bin that counts: hum lies below
LOUDNESS_MEAN, LOUDNESS_SCALE = -3.0, 2.0  # of base-10 log mel power


@dataclass(frozen=True, slots=True)
class NanoContentConfig:
    width: int = 512
    heads: int = 8
    inner: int = 2048
    depth: int = 3
    past: int = 60  # frames of 20 ms that attention reaches back
    look_ahead: int = 2  # and ahead, in each layer
    features: int = 64

    @property
    def output(self) -> int:
        """Numbers a frame: features and loudness."""
        return self.features + 1


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
        self.head = nn.Linear(config.width, config.features)
        self.register_buffer("window", hann(N_FFT), persistent=False)
        self.register_buffer("filters", mel_filters(RATE, N_FFT, MEL_BINS, 0.0, 8000.0), persistent=False)
        self.register_buffer("positions", sinusoids(POSITIONS, config.width), persistent=False)

    def listen(self, wave: Tensor) -> Tensor:
        """Base-10 log-mel power ``[B, 80, 2 N]`` of a wave ``[B, n]``, ``N = n // 320``."""
        wave = wave[:, : wave.shape[1] // SAMPLES_A_FRAME * SAMPLES_A_FRAME].float()
        spectrum = torch.stft(wave, N_FFT, HOP, window=self.window, center=True, return_complex=True)[..., :-1]
        return (self.filters @ (spectrum.real.square() + spectrum.imag.square())).clamp(min=1e-10).log10()

    def features(self, log_mel: Tensor, first: int | Tensor = 0) -> Tensor:
        """``listen``'s frames to ``[B, N, features]``. first: position of the first frame."""
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
        out: Tensor = self.head(self.norm(x))
        return out

    def forward(self, wave: Tensor) -> Tensor:
        """wave: ``[B, n]`` at 16 kHz in [-1, 1]. Returns features and loudness ``[B, n // 320, output]``; frame ``i``
        is centred on sample ``320 i`` and hears 155 ms beyond it, or less where the wave ends."""
        log_mel = self.listen(wave)
        features = self.features(log_mel)
        return torch.cat([features, loudness(log_mel)[..., None].to(features.dtype)], dim=-1)


def loudness(log_mel: Tensor) -> Tensor:
    """Of base-10 log-mel power ``[B, 80, 2 N]``: its mean's logarithm, about -2 to 2, ``[B, N]``."""
    power = (10.0 ** log_mel[:, LOUDNESS_FROM:]).mean(dim=1).unflatten(1, (-1, 2)).mean(dim=-1)
    return (power.clamp(min=1e-9).log10() - LOUDNESS_MEAN) / LOUDNESS_SCALE


def sinusoids(length: int, width: int) -> Tensor:
    """Whisper's positions, float32 ``[length, width]``."""
    step = math.log(10_000) / (width // 2 - 1)
    angles = torch.arange(length)[:, None] * torch.exp(-step * torch.arange(width // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)
