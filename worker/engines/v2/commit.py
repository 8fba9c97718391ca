"""Codes of a stream, each settled once.

A window hears a frame of 20 ms several times, each time with other context, and a bit near zero may fall either way. A
frame's code is *settled* when the frame lies ``right`` behind the end of the window that hears it; from then on the
stream keeps it, whatever later windows make of it, so that what the transformer sees of the past never flickers. Codes
nearer to the end are provisional: they are the right context of what is emitted, and nobody hears them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.models.seedvc2.astral import bits_of, codes_of, unit

NEVER = -(1 << 40)  # units, of a stream that has settled nothing
HYSTERESIS = 0.02  # of a value on the unit sphere, below which a provisional bit stays what it was


@dataclass(frozen=True, slots=True)
class Places:
    """Of a window's content frames, for each row: where they were in the window before, and what that means."""

    then: Tensor  # int64 [B, F]
    kept: Tensor  # bool [B, F], settled before
    newly: Tensor  # bool [B, F], settled by this window
    begun: Tensor  # bool [B, F], not before the session's start

    @classmethod
    def of(cls, position: Tensor, upto: Tensor, window_units: int, right_units: int) -> Places:
        """position: units at which this window ends, int64 ``[B]``. upto: those at which the one before ended, or
        ``NEVER``."""
        frames = torch.arange(window_units - 1, device=position.device)
        then = frames + (position - upto)[:, None]
        certain = window_units - right_units
        begun = frames + position[:, None] >= window_units
        kept = then < certain
        return cls(then, kept, (frames < certain) & ~kept & begun, begun)


def settle(projected: Tensor, before: Tensor, places: Places) -> Tensor:
    """Codes of a window, int64 ``[B, F]``. projected: what its quantiser makes, float32 ``[B, F, bits]``. before: the
    codes of the window before, int64 ``[B, F]``."""
    old = before.gather(1, places.then.clamp(max=before.shape[1] - 1))
    provisional = ~places.kept & (places.then < before.shape[1])
    doubtful = provisional[..., None] & (unit(projected).abs() < HYSTERESIS)
    bits = torch.where(doubtful, bits_of(old, projected.shape[2]), projected > 0)
    return torch.where(places.kept, old, codes_of(bits))
