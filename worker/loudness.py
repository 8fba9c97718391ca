"""How loud what comes out is, beside what went in.

A model makes a voice of the usual level of whatever it hears: of a breath, and of somebody at the other end of a room.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.geometry import UNIT_SAMPLES

LEVEL_UNITS = 21  # of 20 ms, over which the level follows: words keep the model's own rise and fall
BOUND_UNITS, BOUND_DB = 7, 6.0  # over which nothing comes out louder than it went in, by more than this
MIN_GAIN_DB, MAX_GAIN_DB = -40.0, 12.0
SILENT_POWER = 1e-9  # mean square of digital silence: -90 dBFS
SILENT_MARGIN_UNITS = 2  # around sound that are not silence, or its end would be cut off
PEAK = 0.98
_POWER_FLOOR = 1e-12
_FRAME_UNITS = 4
_RMS_FLOOR = 1e-3


def follow(heard: Tensor, made: Tensor) -> Tensor:
    """``made [B, M]`` as loud as ``heard [B, N]`` (16 kHz, whole units of 20 ms), which lasts as long, was.

    The gain is the ratio of both levels over 0.42 s, so that it hardly changes within a word, or that over 0.14 s and
    6 dB where it is less, so that nothing is much louder than it was; within -40 and 12 dB. Where digital silence was
    heard there is silence. A row whose peaks would not fit is turned down.
    """
    units = heard.shape[1] // UNIT_SAMPLES
    power_in = heard.square().unflatten(1, (units, UNIT_SAMPLES)).mean(dim=2)
    power_out = F.adaptive_avg_pool1d(made.square()[:, None], units)[:, 0]
    level_db = _ratio_db(power_in, power_out, LEVEL_UNITS)
    bound_db = _ratio_db(power_in, power_out, BOUND_UNITS) + BOUND_DB
    gain_db = level_db.minimum(bound_db).clamp(MIN_GAIN_DB, MAX_GAIN_DB)
    sound = (power_in > SILENT_POWER).float()
    sounds_near = F.max_pool1d(sound[:, None], 2 * SILENT_MARGIN_UNITS + 1, 1, SILENT_MARGIN_UNITS)[:, 0]
    gain = torch.pow(10, gain_db / 20) * sounds_near
    spread = F.interpolate(gain[:, None], made.shape[1], mode="linear", align_corners=False)[:, 0]
    out = made * spread
    return out * (PEAK / out.abs().amax(dim=1, keepdim=True).clamp(min=PEAK))


def _ratio_db(power_in: Tensor, power_out: Tensor, window: int) -> Tensor:
    """Of both powers ``[B, U]`` over ``window`` units (odd) around each unit, fewer at either end."""
    both = F.avg_pool1d(torch.stack([power_in, power_out], dim=1), window, 1, window // 2) + _POWER_FLOOR
    return 10 * (both[:, 0] / both[:, 1]).log10()


def rms_mix(heard: Tensor, made: Tensor, rate: float) -> Tensor:
    """Pull the loudness of ``made [B, M]`` towards that of ``heard [B, N]`` (16 kHz, whole units), within words too.

    As fast-vc does: rms over frames of 80 ms every 20 ms, spread linearly over the samples, output rms floored at 1e-3;
    ``made * (rms_in / rms_out) ** (1 - rate)``.
    """
    units = heard.shape[1] // UNIT_SAMPLES
    frame_units = min(_FRAME_UNITS, units)
    samples = made.shape[1]
    rms_in = _rms_track(heard, UNIT_SAMPLES, frame_units, samples)
    rms_out = _rms_track(made, samples // units, frame_units, samples).clamp(min=_RMS_FLOOR)
    return made * (rms_in / rms_out) ** (1 - rate)


def _rms_track(wave: Tensor, unit: int, frame_units: int, samples: int) -> Tensor:
    rms = wave.unfold(1, frame_units * unit, unit).square().mean(dim=2).sqrt()
    spread = F.interpolate(rms[:, None], samples + 1, mode="linear", align_corners=True)
    return spread[:, 0, :-1]
