"""Codes of a stream, each settled once.

A window hears a frame of 20 ms several times, each time with other context, and a bit near zero may fall either way. A
frame's code is *settled* when the frame lies ``right`` behind the end of the window that hears it; from then on the
stream keeps it, whatever later windows make of it, so that what the transformer sees of the past never flickers. Codes
nearer to the end are provisional: they are the right context of what is emitted, and nobody hears them. A provisional
bit is not clung to when it is settled: the later window has heard more of what follows, and is right more often.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.models.seedvc2.astral import codes_of

NEVER = -(1 << 40)  # units, of a stream that has settled nothing


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
    return torch.where(places.kept, old, codes_of(projected > 0))
