"""Log-mel spectrograms: the front end of the diffusion transformer, and the filter banks the other networks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Scale = Literal["slaney", "htk"]

# Slaney's "Auditory Toolbox" (1998): linear up to 1 kHz, then 27 logarithmic steps for a factor of 6.4.
SLANEY_HZ_A_MEL = 200.0 / 3
SLANEY_BREAK_HZ = 1000.0
SLANEY_BREAK_MEL = SLANEY_BREAK_HZ / SLANEY_HZ_A_MEL
SLANEY_LOG_STEP = np.log(6.4) / 27


def hz_to_mel(hz: float, scale: Scale) -> float:
    if scale == "htk":  # O'Shaughnessy, "Speech Communication" (1987)
        return float(2595.0 * np.log10(1.0 + hz / 700.0))
    if hz < SLANEY_BREAK_HZ:
        return hz / SLANEY_HZ_A_MEL
    return float(SLANEY_BREAK_MEL + np.log(hz / SLANEY_BREAK_HZ) / SLANEY_LOG_STEP)


def mel_to_hz(mel: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    log = SLANEY_BREAK_HZ * np.exp(SLANEY_LOG_STEP * (mel - SLANEY_BREAK_MEL))
    return np.where(mel < SLANEY_BREAK_MEL, SLANEY_HZ_A_MEL * mel, log)


def mel_filters(rate: int, n_fft: int, bins: int, fmin: float, fmax: float, scale: Scale = "slaney") -> Tensor:
    """Triangular filters of equal area (Slaney's norm), float32 ``[bins, n_fft / 2 + 1]``."""
    frequencies = np.linspace(0, rate / 2, n_fft // 2 + 1)
    edges = mel_to_hz(np.linspace(hz_to_mel(fmin, scale), hz_to_mel(fmax, scale), bins + 2), scale)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequencies - low) / (centre - low)
    falling = (high - frequencies) / (high - centre)
    filters = np.maximum(0, np.minimum(rising, falling)) * 2.0 / (high - low)
    return torch.from_numpy(filters.astype(np.float32))


def hann(length: int) -> Tensor:
    """Periodic Hann window, float32. torch's own: numpy's rounds otherwise, which quiet bins show at 5e-5."""
    return torch.hann_window(length, device="cpu")


@dataclass(frozen=True, slots=True)
class MelConfig:
    rate: int  # Hz
    n_fft: int  # and window
    hop: int
    bins: int
    fmax: float  # Hz


TINY = MelConfig(rate=22_050, n_fft=1024, hop=256, bins=80, fmax=8000.0)
SMALL = MelConfig(rate=22_050, n_fft=1024, hop=256, bins=80, fmax=11_025.0)
BASE = MelConfig(rate=44_100, n_fft=2048, hop=512, bins=128, fmax=22_050.0)
NANO = MelConfig(rate=16_000, n_fft=1024, hop=256, bins=80, fmax=8000.0)


class MelSpectrogram(nn.Module):
    """Natural-log magnitude mel spectrogram."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", hann(config.n_fft), persistent=False)
        filters = mel_filters(config.rate, config.n_fft, config.bins, 0.0, config.fmax)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """wave: ``[B, n]`` in [-1, 1], longer than ``(n_fft - hop) / 2``. Returns float32 ``[B, bins, n // hop]``."""
        n_fft, hop = self.config.n_fft, self.config.hop
        # cuFFT's float32 rounds coarser than a CPU's, which quiet bins show at 1e-4.
        exact = torch.float64 if wave.is_cuda else torch.float32
        padded = F.pad(wave.to(exact), ((n_fft - hop) // 2,) * 2, mode="reflect")
        spectrum = torch.stft(padded, n_fft, hop, window=self.window.to(exact), center=False, return_complex=True)
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt().float()
        return (self.filters @ magnitude).clamp(min=1e-5).log()
