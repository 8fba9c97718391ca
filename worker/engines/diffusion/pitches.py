"""The caller's pitch in a stream: learnt from what was said, and moved to that of the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from worker import pitch
from worker.engines.diffusion.pipeline import Prompts
from worker.models.networks import F0_RATE

PITCH_MEMORY_S = 20.0  # of voiced speech, after which a caller's older pitch counts 1/e


def learn_pitch(f0: Tensor, pitches: Tensor, newest_frames: int) -> Tensor:
    """Add the voiced ones of the newest frames of ``f0 [B, F]`` to the callers' histograms ``[B, HISTOGRAM_BINS]``; all
    frames, while nothing is known."""
    newest = torch.arange(f0.shape[1], device=f0.device) >= f0.shape[1] - newest_frames
    fresh = pitches.sum(dim=1, keepdim=True) == 0
    counted = (f0 > 0) & (newest | fresh)
    fade = torch.exp(-counted.sum(dim=1, keepdim=True) / (PITCH_MEMORY_S * F0_RATE))
    return pitches * fade + pitch.histogram(f0.clamp(min=pitch.MIN_F0_HZ), counted)


def at_mel_frames(f0: Tensor, frames: int) -> Tensor:
    """f0 ``[B, F]`` at the centres of so many mel frames over the same time."""
    index = (2 * torch.arange(frames, device=f0.device) + 1) * f0.shape[1] // (2 * frames)
    return f0[:, index]


def transpose_pitch(f0: Tensor, pitches: Tensor, prompts: Prompts, shift: Tensor) -> Tensor:
    """f0 ``[B, F]`` moved so that the caller's median becomes the reference's, and by ``shift`` semitones ``[B]``.

    Where the caller's pitch is not yet known it is left alone, but for the shift.
    """
    usual = pitch.median_hz(pitches)
    ratio = torch.where((usual > 0) & (prompts.f0_hz > 0), prompts.f0_hz / usual.clamp(min=1.0), 1.0)
    return f0 * (ratio * torch.exp2(shift / 12))[:, None]
