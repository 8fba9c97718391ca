"""How loud what comes out is, beside what went in."""

from __future__ import annotations

import torch

from worker.geometry import UNIT_SAMPLES, Geometry

_FRAME_UNITS = 4
_FLOOR = 1e-3


def rms_mix(window: torch.Tensor, made: torch.Tensor, geometry: Geometry, rate: float) -> torch.Tensor:
    """Pull the loudness of ``made [B, engine_samples]`` towards that of its span of ``window [B, window_samples]``.

    As fast-vc does: rms over frames of 80 ms every 20 ms, spread linearly over the samples, output rms floored at 1e-3;
    ``made * (rms_in / rms_out) ** (1 - rate)``.
    """
    stop = geometry.window_samples - geometry.right_units * UNIT_SAMPLES
    span = geometry.engine_samples // geometry.unit_samples_out
    heard = window[:, stop - span * UNIT_SAMPLES : stop]
    frame_units = min(_FRAME_UNITS, span)
    samples = made.shape[1]
    rms_in = _rms_track(heard, UNIT_SAMPLES, frame_units, samples)
    rms_out = _rms_track(made, geometry.unit_samples_out, frame_units, samples).clamp(min=_FLOOR)
    return made * (rms_in / rms_out) ** (1 - rate)


def _rms_track(wave: torch.Tensor, unit: int, frame_units: int, samples: int) -> torch.Tensor:
    rms = wave.unfold(1, frame_units * unit, unit).square().mean(dim=2).sqrt()
    spread = torch.nn.functional.interpolate(rms[:, None], samples + 1, mode="linear", align_corners=True)
    return spread[:, 0, :-1]
