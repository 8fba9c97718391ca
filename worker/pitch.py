"""Fundamental frequency of many rows at once, and each caller's running median of it.

Frames lie every 10 ms; frame ``i`` is centred on sample ``(i + 2) * 160``, so that it sees the 40 ms around it and
nothing outside the wave. The grid divides the 20 ms unit, so that two windows of one call see the same frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.geometry import INPUT_RATE

HOP = INPUT_RATE // 100
FRAME = 4 * HOP
MIN_F0_HZ = 60.0
MAX_F0_HZ = 500.0
HIGHEST_F0_HZ = 640.0  # of a child, whose voice is a reference
VOICING_STRENGTH = 0.5
OCTAVE_COST = 0.03
PRIOR_COST = 0.12  # strength lost one octave away from the caller's usual pitch

_MAX_LAG = int(INPUT_RATE / MIN_F0_HZ)
_FFT = 1024  # FRAME + _MAX_LAG fits: the correlation does not wrap
_BAND_HZ = 1500.0  # above it, formants and noise blur the maximum
_QUIET_DB = -30.0  # below the window's loudest frame
_SILENT_DBFS = -55.0

BINS_PER_OCTAVE = 48
HISTOGRAM_BINS = math.ceil(BINS_PER_OCTAVE * math.log2(HIGHEST_F0_HZ / MIN_F0_HZ))


@dataclass(frozen=True, slots=True)
class Correlation:
    """Normalised autocorrelation of every frame: ``strength [B, F, lags]``, ``level_db [B, F]`` in dBFS."""

    strength: torch.Tensor
    level_db: torch.Tensor
    first_lag: int  # of those that may be a period; one more is there at each end


def frames_of(samples: int) -> int:
    """Frames in a wave of so many samples."""
    return (samples - FRAME) // HOP + 1


def correlate(wave: torch.Tensor, highest_hz: float = MAX_F0_HZ) -> Correlation:
    """Short-term autocorrelation, divided by the window's own (Boersma 1993, eq. 9), of ``wave [B, N]`` at 16 kHz."""
    frames = wave.unfold(1, FRAME, HOP)
    frames = frames - frames.mean(dim=2, keepdim=True)
    level_db = 10 * torch.log10(frames.square().mean(dim=2) + 1e-12)
    window = torch.hann_window(FRAME, device=wave.device)
    band = _band(wave.device)
    raw = torch.fft.irfft(torch.fft.rfft(frames * window, _FFT).abs().square() * band, _FFT)
    own = torch.fft.irfft(torch.fft.rfft(window, _FFT).abs().square(), _FFT)
    first_lag = int(INPUT_RATE / highest_hz)
    lags = slice(first_lag - 1, _MAX_LAG + 2)  # one more at each end, for the parabola
    strength = raw[..., lags] / (raw[..., :1] + 1e-9) * (own[0] / own[lags])
    return Correlation(strength, level_db, first_lag)


def _band(device: torch.device) -> torch.Tensor:
    hz = torch.fft.rfftfreq(_FFT, 1 / INPUT_RATE, device=device)
    return 1 / (1 + (hz / _BAND_HZ) ** 4) * (hz > 40)


def track(correlation: Correlation, usual_hz: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """f0 in Hz ``[B, F]`` and voicing (bool ``[B, F]``) of the frames of ``correlate``.

    usual_hz: the caller's usual pitch ``[B]``, 0 where it is not known; it settles which octave a doubtful frame is in.
    The f0 of an unvoiced frame is that of the last voiced frame (of the next one where there is none; 150 Hz where the
    whole row is unvoiced), so that marks keep coming at a plausible rate.
    """
    lag, strength = _best_lag(correlation, usual_hz)
    loudest = correlation.level_db.amax(dim=1, keepdim=True)
    loud = (correlation.level_db > loudest + _QUIET_DB) & (correlation.level_db > _SILENT_DBFS)
    voiced = _mostly((strength > VOICING_STRENGTH) & loud)
    f0 = _hold(INPUT_RATE / lag, voiced)
    return _median5(f0), voiced


def _best_lag(correlation: Correlation, usual_hz: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    strength, first_lag = correlation.strength, correlation.first_lag
    inner = strength[..., 1:-1]
    octave = torch.log2(torch.arange(first_lag, _MAX_LAG + 1, device=strength.device) / first_lag)
    usual = torch.log2(INPUT_RATE / usual_hz.clamp(min=1.0) / first_lag)
    away = (octave - usual[:, None]).abs() * (usual_hz > 0)[:, None]
    bias = OCTAVE_COST * octave + PRIOR_COST * away
    peak = (inner >= strength[..., :-2]) & (inner >= strength[..., 2:])
    score = torch.where(peak, inner - bias[:, None], -2.0)
    best = score.argmax(dim=2, keepdim=True)
    left, mid, right = (strength.gather(2, best + i)[..., 0] for i in range(3))
    curve = (left - 2 * mid + right).clamp(max=-1e-6)
    shift = (0.5 * (left - right) / curve).clamp(-0.5, 0.5)
    return best[..., 0] + first_lag + shift, mid - 0.25 * (left - right) * shift


def _mostly(flags: torch.Tensor) -> torch.Tensor:
    """Majority of three neighbours: single frames neither start nor interrupt a voiced stretch."""
    padded = torch.nn.functional.pad(flags.float()[:, None], (1, 1), mode="replicate")[:, 0]
    return padded.unfold(1, 3, 1).sum(dim=2) >= 2


def _hold(f0: torch.Tensor, voiced: torch.Tensor) -> torch.Tensor:
    place = torch.arange(f0.shape[1], device=f0.device).expand_as(f0)
    last = torch.where(voiced, place, -1).cummax(dim=1).values
    first = voiced.float().argmax(dim=1, keepdim=True)
    held = f0.gather(1, torch.where(last >= 0, last, first))
    return torch.where(voiced.any(dim=1, keepdim=True), held, 150.0)


def _median5(f0: torch.Tensor) -> torch.Tensor:
    padded = torch.nn.functional.pad(f0[:, None], (2, 2), mode="replicate")[:, 0]
    return padded.unfold(1, 5, 1).median(dim=2).values


def histogram(f0: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Frames by pitch ``[B, HISTOGRAM_BINS]``, of those that ``counted [B, F]`` (bool) marks."""
    place = (torch.log2(f0 / MIN_F0_HZ) * BINS_PER_OCTAVE).long().clamp(0, HISTOGRAM_BINS - 1)
    counts = f0.new_zeros(f0.shape[0], HISTOGRAM_BINS)
    return counts.scatter_add_(1, place, counted.to(f0.dtype))


def median_hz(counts: torch.Tensor) -> torch.Tensor:
    """Median pitch in Hz ``[B]`` of ``histogram``'s counts, within its bin by linear interpolation; 0 where empty."""
    total = counts.sum(dim=1, keepdim=True)
    below = counts.cumsum(dim=1)
    bin_ = (below >= total / 2).float().argmax(dim=1, keepdim=True)
    here = counts.gather(1, bin_)
    inside = (total / 2 - below.gather(1, bin_) + here) / here.clamp(min=1e-6)
    hz = MIN_F0_HZ * torch.exp2((bin_ + inside.clamp(0, 1)) / BINS_PER_OCTAVE)
    return torch.where(total > 0, hz, torch.zeros_like(hz))[:, 0]


class AutocorrelationTracker(nn.Module):
    """f0 in Hz ``[B, n // 160 + 1]``, 0 where unvoiced, of a wave ``[B, n]`` at 16 kHz; no weights, little cost."""

    def forward(self, wave: Tensor) -> Tensor:
        before = FRAME // 2  # frame i is centred on sample 160 i
        padded = F.pad(wave.float(), (before, before))
        f0, voiced = track(correlate(padded, HIGHEST_F0_HZ), wave.new_zeros(wave.shape[0]))
        return f0 * voiced
