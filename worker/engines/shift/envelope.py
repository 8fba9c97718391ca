"""Long-term average spectra of callers and references, and the filter that turns one into the other.

A spectrum is the mean power of its speech frames in ``BANDS`` overlapping mel bands.
"""

from __future__ import annotations

import math
from functools import cache

import torch

from worker.geometry import INPUT_RATE
from worker.pitch import HOP

FRAME = 512
BANDS = 32
EQUALISER_LIMIT_DB = 12.0
FILTER_TAPS = 256

_LOW_HZ, _HIGH_HZ = 80.0, 7600.0
_FILTER_FFT = 1024
_FLOOR = 1e-10


def band_power(wave: torch.Tensor) -> torch.Tensor:
    """Power ``[B, F, BANDS]`` of 32 ms Hann frames of ``wave [B, N]`` every 10 ms, ``F = (N - FRAME) // HOP + 1``."""
    window = torch.hann_window(FRAME, device=wave.device)
    spectrum = torch.fft.rfft(wave.unfold(1, FRAME, HOP) * window).abs().square()
    return spectrum @ _filterbank().to(wave.device)


def equaliser(caller: torch.Tensor, reference: torch.Tensor, trust: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Minimum-phase responses ``[B, FILTER_TAPS]`` that lead spectra ``caller`` to ``reference``, both ``[B, BANDS]``.

    Smooth along frequency and within +-12 dB about the mean, in dB times ``trust [B]`` (0 leaves the colour alone). The
    filtered ``caller`` has the total power ``level [B]``.
    """
    gain_db = 10 * torch.log10((reference + _FLOOR) / (caller + _FLOOR))
    weight = (caller / caller.sum(dim=1, keepdim=True).clamp(min=_FLOOR)).sqrt() + 0.05
    gain_db = gain_db - (gain_db * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
    gain_db = _smooth(_smooth(gain_db)).clamp(-EQUALISER_LIMIT_DB, EQUALISER_LIMIT_DB) * trust[:, None]
    total = (caller * 10 ** (gain_db / 10)).sum(dim=1)
    makeup_db = 10 * torch.log10((level + _FLOOR) / (total + _FLOOR))
    gain_db = gain_db + makeup_db.clamp(-EQUALISER_LIMIT_DB, EQUALISER_LIMIT_DB)[:, None]
    hz = torch.fft.rfftfreq(_FILTER_FFT, 1 / INPUT_RATE, device=caller.device)
    centres = _centres().to(caller.device)
    at = (_mel(hz) - _mel(centres[0])) / (_mel(centres[1]) - _mel(centres[0]))
    return _minimum_phase(_interpolate(gain_db, at.expand(caller.shape[0], -1)) * (math.log(10) / 20))


def filter_rows(wave: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    """Each row of ``wave [B, N]`` through its own ``response [B, T]``: ``[B, N - T + 1]``, without the run-in."""
    length = 1 << (wave.shape[1] - 1).bit_length()
    spectrum = torch.fft.rfft(wave, length) * torch.fft.rfft(response, length)
    return torch.fft.irfft(spectrum, length)[:, response.shape[1] - 1 : wave.shape[1]]


def _minimum_phase(log_gain: torch.Tensor) -> torch.Tensor:
    """Impulse responses of natural-log magnitudes ``[B, bins]``: the causal half of the cepstrum, doubled."""
    cepstrum = torch.fft.irfft(log_gain, _FILTER_FFT)
    half = _FILTER_FFT // 2
    cepstrum = torch.cat((cepstrum[:, :1], 2 * cepstrum[:, 1:half], cepstrum[:, half : half + 1]), dim=1)
    response = torch.fft.irfft(torch.exp(torch.fft.rfft(cepstrum, _FILTER_FFT)), _FILTER_FFT)[:, :FILTER_TAPS]
    fade = torch.hann_window(FILTER_TAPS, device=log_gain.device)[FILTER_TAPS // 2 :]
    response[:, FILTER_TAPS // 2 :] *= fade
    return response


def _smooth(bands: torch.Tensor) -> torch.Tensor:
    padded = torch.cat((bands[:, :1], bands, bands[:, -1:]), dim=1)
    return 0.25 * padded[:, :-2] + 0.5 * padded[:, 1:-1] + 0.25 * padded[:, 2:]


def _interpolate(bands: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    at = at.clamp(0, BANDS - 1)
    low = at.long()
    below = bands.gather(1, low)
    return below + (bands.gather(1, (low + 1).clamp(max=BANDS - 1)) - below) * (at - low)


def _mel(hz: torch.Tensor) -> torch.Tensor:
    return 2595 * torch.log10(1 + hz / 700)  # O'Shaughnessy 1987


@cache
def _edges() -> torch.Tensor:
    low, high = (float(_mel(torch.tensor(hz))) for hz in (_LOW_HZ, _HIGH_HZ))
    return 700 * (10 ** (torch.linspace(low, high, BANDS + 2) / 2595) - 1)


def _centres() -> torch.Tensor:
    return _edges()[1:-1]


@cache
def _filterbank() -> torch.Tensor:
    """Triangles ``[FRAME // 2 + 1, BANDS]`` of unit sum, so that a band's power is a density whatever its width."""
    hz = torch.fft.rfftfreq(FRAME, 1 / INPUT_RATE)[:, None]
    edges = _edges()
    rise = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    bank = torch.minimum(rise, fall).clamp(min=0)
    return bank / bank.sum(dim=0).clamp(min=1e-6)
