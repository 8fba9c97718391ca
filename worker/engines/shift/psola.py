"""Pitch and formant shift by pitch-synchronous overlap-add, of many rows at once and without a loop over grains.

Classic TD-PSOLA (Moulines and Charpentier 1990) places two-period grains of the source at the pitch marks of the
target. Here both sets of marks are the integer crossings of a phase, and a grain never reaches beyond the neighbouring
marks. So every output sample is the sum of two grains, which its own phase names: work per sample is constant, nothing
is scattered, and no shape depends on the sound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.functional import conv1d, pad

from worker.geometry import INPUT_RATE
from worker.pitch import FRAME, HOP, MAX_F0_HZ

MARGIN = 4 * HOP  # of sound before the first wanted sample: more than one period of the lowest pitch
MAX_RATIO = 2.5
MIN_RATIO = 0.4

_PULSE_HOP = 20  # samples; the pulse track moves slowly
_PULSE_SPAN_MS = 40
_HALF_TAPS = 16


@dataclass(frozen=True, slots=True)
class Shift:
    """How each row is changed, all ``[B]``.

    The pitch ratio goes from ``ratio_before`` to ``ratio``, linearly in its logarithm, between the samples ``ramp``; so
    two windows agree about the sound they share even while the ratio is on the move. polarity: +1 or -1, which way
    glottal pulses point.
    """

    ratio_before: torch.Tensor
    ratio: torch.Tensor
    ramp: tuple[int, int]
    formant: torch.Tensor
    polarity: torch.Tensor

    def take(self, rows: torch.Tensor) -> Shift:
        return Shift(self.ratio_before[rows], self.ratio[rows], self.ramp, self.formant[rows], self.polarity[rows])


def synthesise(
    wave: torch.Tensor,
    f0: torch.Tensor,
    voiced: torch.Tensor,
    shift: Shift,
    phase: torch.Tensor,
    anchor: int,
    start: int,
    stop: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shifted samples ``start:stop`` of ``wave [B, N]`` (16 kHz), and the output's phase at each of ``start:N``.

    f0, voiced: frames ``[B, F]`` of ``worker.pitch``. phase: the output's, ``[B]`` in periods, at sample ``anchor``,
    such as an earlier call returned for that moment: with it, two windows over one sound put their marks at the same
    places. ``MARGIN`` samples or more must precede ``start``, and ``anchor`` must not. Unvoiced sound passes unchanged.
    """
    begin = start - MARGIN
    wave = wave[:, begin:]
    grid = _FrameGrid(begin, wave.shape[1], f0.shape[1], wave.device)
    f0_at, voicing = grid.spread(f0), grid.spread(voiced.to(f0.dtype))
    source = _source_phase(wave, f0_at, shift.polarity)
    step = f0_at * torch.exp(_log_ratio(shift, begin, wave) * voicing) / INPUT_RATE
    target = step.double().cumsum(dim=1)
    target = target - target[:, anchor - begin, None] + phase.double()[:, None]

    first = target[:, :1].floor()
    marks_count = math.ceil(wave.shape[1] * min(MAX_F0_HZ * MAX_RATIO, INPUT_RATE / 4) / INPUT_RATE) + 2
    marks = _crossings(target, first + torch.arange(marks_count, device=wave.device))
    nearest = marks.round().long().clamp(0, wave.shape[1] - 1)
    is_voiced = voicing.gather(1, nearest) > 0.5
    period = INPUT_RATE / f0_at.gather(1, nearest)
    pulse = _crossings(source, source.gather(1, nearest).round())
    centre = torch.where(is_voiced & ((pulse - marks).abs() < period), pulse, marks)
    rate = torch.where(is_voiced, shift.formant[:, None], torch.ones_like(period))
    reach = torch.where(is_voiced, period / rate, period.new_tensor(math.inf))

    here = target[:, MARGIN : MARGIN + stop - start]
    left = (here.floor() - first).long()
    at = torch.arange(MARGIN, MARGIN + stop - start, device=wave.device)
    gap = (marks.gather(1, left + 1) - marks.gather(1, left)).clamp(min=1.0).float()
    dense = _twice(wave)
    out = torch.zeros_like(here, dtype=wave.dtype)
    for mark in (left, left + 1):
        away = at - marks.gather(1, mark)
        slope = torch.minimum(gap, reach.gather(1, mark))
        weight = 0.5 + 0.5 * torch.cos(math.pi * (away.abs().float() / slope).clamp(max=1.0))
        out = out + weight * _read(dense, 2 * (centre.gather(1, mark) + rate.gather(1, mark) * away))
    return out, (target[:, MARGIN:] % 1.0).to(phase.dtype)


def pulse_skew(wave: torch.Tensor) -> torch.Tensor:
    """Sum of cubes ``[B]`` of the pulse band of ``wave [B, N]``: its sign says which way glottal pulses point."""
    return _pulse_band(wave).pow(3).sum(dim=1)


def _log_ratio(shift: Shift, begin: int, wave: torch.Tensor) -> torch.Tensor:
    low, high = shift.ramp
    at = torch.arange(begin, begin + wave.shape[1], device=wave.device)
    share = ((at - low) / max(1, high - low)).clamp(0, 1)
    before = shift.ratio_before.log()[:, None]
    return before + (shift.ratio.log()[:, None] - before) * share


class _FrameGrid:
    """Linear interpolation of pitch frames at every sample of ``wave[begin : begin + samples]``."""

    def __init__(self, begin: int, samples: int, frames: int, device: torch.device) -> None:
        at = torch.arange(begin, begin + samples, device=device) / HOP - FRAME / 2 / HOP
        at = at.clamp(0, frames - 1)
        self._low = at.long()
        self._high = (self._low + 1).clamp(max=frames - 1)
        self._share = at - self._low

    def spread(self, frames: torch.Tensor) -> torch.Tensor:
        low = frames[:, self._low]
        return low + (frames[:, self._high] - low) * self._share


def _source_phase(wave: torch.Tensor, f0_at: torch.Tensor, polarity: torch.Tensor) -> torch.Tensor:
    """Phase in periods ``[B, N]`` (float64, never falling) that is integer where a glottal pulse has its energy.

    The integral of f0 drifts against the pulses, and a grain centred between two pulses would carry both; so the pulse
    energy is demodulated at that phase, and its angle, averaged over some periods, is subtracted.
    """
    phase = (f0_at / INPUT_RATE).double().cumsum(dim=1)
    energy = (_pulse_band(wave) * polarity[:, None]).clamp(min=0).square()
    angle = (2 * math.pi * (phase % 1.0)).float()
    spun = torch.stack((energy * angle.cos(), energy * angle.sin()), dim=1)
    count = wave.shape[1] // _PULSE_HOP
    spun = spun[..., : count * _PULSE_HOP].unflatten(2, (count, _PULSE_HOP)).sum(dim=3)
    taps = _PULSE_SPAN_MS * INPUT_RATE // 1000 // _PULSE_HOP + 1
    window = torch.hann_window(taps + 2, periodic=False, device=wave.device)[1:-1]
    spun = conv1d(spun.flatten(0, 1)[:, None], window[None, None], padding=taps // 2).unflatten(0, (-1, 2))[:, :, 0]
    real, imag = spun[:, 0], spun[:, 1]
    turn = torch.atan2(
        imag[:, 1:] * real[:, :-1] - real[:, 1:] * imag[:, :-1],
        real[:, 1:] * real[:, :-1] + imag[:, 1:] * imag[:, :-1],
    )
    lag = torch.cat((torch.atan2(imag[:, :1], real[:, :1]), turn), dim=1).double().cumsum(dim=1) / (2 * math.pi)
    at = ((torch.arange(wave.shape[1], device=wave.device) - _PULSE_HOP / 2) / _PULSE_HOP).clamp(0, count - 1)
    low = at.long()
    high = (low + 1).clamp(max=count - 1)
    lag = lag[:, low] + (lag[:, high] - lag[:, low]) * (at - low)
    return (phase - lag).cummax(dim=1).values


def _crossings(phase: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Positions ``[B, K]`` (float64 samples) where rising ``phase [B, N]`` passes ``values [B, K]``.

    Beyond its ends the outermost slope goes on.
    """
    after = torch.searchsorted(phase, values.contiguous()).clamp(1, phase.shape[1] - 1)
    low, high = phase.gather(1, after - 1), phase.gather(1, after)
    return after - 1 + (values - low) / (high - low).clamp(min=1e-4)


def _pulse_band(wave: torch.Tensor) -> torch.Tensor:
    kernel = _pulse_kernel().to(wave.device)
    return conv1d(wave[:, None], kernel[None, None], padding=kernel.numel() // 2)[:, 0]


@cache
def _pulse_kernel() -> torch.Tensor:
    """A low pass at 2 kHz and a first difference: rumble and frication would both hide the pulses."""
    taps = torch.arange(-16, 17, dtype=torch.float32)
    low = torch.sinc(taps * 4000 / INPUT_RATE) * torch.hann_window(35, periodic=False)[1:-1]
    low = low / low.sum()
    return low - pad(low, (1, 0))[:-1] * 0.95


@cache
def _half_kernel() -> torch.Tensor:
    taps = torch.arange(-_HALF_TAPS // 2, _HALF_TAPS // 2, dtype=torch.float32) + 0.5
    window = torch.i0(6.0 * (1 - (taps / (_HALF_TAPS / 2)) ** 2).clamp(min=0).sqrt()) / torch.i0(torch.tensor(6.0))
    kernel = torch.sinc(taps) * window
    return kernel / kernel.sum()


def _twice(wave: torch.Tensor) -> torch.Tensor:
    """``wave [B, N]`` at twice its rate ``[B, 2 N]``; the even samples are its own."""
    kernel = _half_kernel().to(wave.device)
    between = conv1d(pad(wave, (_HALF_TAPS // 2 - 1, _HALF_TAPS // 2))[:, None], kernel[None, None])[:, 0]
    return torch.stack((wave, between), dim=2).flatten(1)


def _read(wave: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """``wave [B, N]`` at fractional positions ``at [B, M]`` (float64) by Catmull-Rom splines; held beyond its ends."""
    base = at.floor()
    x = (at - base).float()
    base = base.long()
    p0, p1, p2, p3 = (wave.gather(1, (base + i).clamp(0, wave.shape[1] - 1)) for i in (-1, 0, 1, 2))
    return p1 + 0.5 * x * (p2 - p0 + x * (2 * p0 - 5 * p1 + 4 * p2 - p3 + x * (3 * (p1 - p2) + p3 - p0)))
