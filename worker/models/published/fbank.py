"""Kaldi's log-mel filter bank, the input of CAM++: batched, with Kaldi's defaults and no dither."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATE = 16_000
FRAME = 400  # 25 ms
HOP = 160  # 10 ms
N_FFT = 512
BINS = 80
LOW_HZ = 20.0
PRE_EMPHASIS = 0.97


def kaldi_filters() -> Tensor:
    """Triangles of height one, linear in mel, from 20 Hz to Nyquist; float32 ``[BINS, N_FFT / 2 + 1]``.

    In float32 throughout, as Kaldi's are: rounding moves the slopes by 1e-5, which a quiet bin's log shows.
    """
    low, high = (1127.0 * math.log1p(hz / 700.0) for hz in (LOW_HZ, RATE / 2))
    step = (high - low) / (BINS + 1)
    index = torch.arange(BINS, dtype=torch.float32)[:, None]
    left, centre, right = low + index * step, low + (index + 1.0) * step, low + (index + 2.0) * step
    mels = 1127.0 * (1.0 + torch.arange(N_FFT // 2) * (RATE / N_FFT) / 700.0).log()
    filters = ((mels - left) / (centre - left)).minimum((right - mels) / (right - centre)).clamp(min=0)
    return F.pad(filters, (0, 1))  # Kaldi leaves Nyquist out


class KaldiFbank(nn.Module):
    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        povey = torch.hann_window(FRAME, periodic=False).pow(0.85)
        self.register_buffer("window", povey, persistent=False)
        self.register_buffer("filters", kaldi_filters(), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """wave: ``[B, n]`` at 16 kHz in [-1, 1], at least 400 samples. Returns the natural log of the power,
        float32 ``[B, (n - 400) // 160 + 1, 80]``."""
        frames = wave.float().unfold(-1, FRAME, HOP)
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        frames = (frames - PRE_EMPHASIS * before) * self.window
        # In float64: where a bin is quiet its logarithm shows how each device's transform rounds.
        power = torch.fft.rfft(frames.double(), n=N_FFT).abs().square().float()
        return (power @ self.filters.T).clamp(min=torch.finfo(torch.float32).eps).log()

    def centred(self, wave: Tensor) -> Tensor:
        """The same, less each bin's mean over time: what CAM++ hears."""
        features = self(wave)
        return features - features.mean(1, keepdim=True)
