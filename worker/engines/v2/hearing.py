"""What a stream makes of each window it hears: codes, settled once, by energies that it carries along."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engines.v2.commit import NEVER, Places, settle
from worker.geometry import UNITS_A_SECOND, Geometry
from worker.models.seedvc2.astral import Astral, Energies

MEMORY_S = 30.0  # that energies and moments are averaged over: as much as the networks hear of a file at once


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of ``B`` streams after a window."""

    codes: Tensor  # int64 [B, F], of the window's content frames
    upto: Tensor  # int64 [B], units at which it ended
    squares: Tensor  # [B, depth, inner], energies of settled frames
    frames: Tensor  # [B], that they were measured on

    @classmethod
    def nothing(cls, rows: int, geometry: Geometry, wide: Astral) -> Heard:
        config, device = wide.config, wide.project_in.weight.device
        return cls(
            torch.zeros(rows, geometry.window_units - 1, dtype=torch.int64, device=device),
            torch.full((rows,), NEVER, device=device),
            torch.zeros(rows, config.depth, config.inner, device=device),
            torch.zeros(rows, device=device),
        )


def hear(wide: Astral, features: Tensor, position: Tensor, before: Heard, geometry: Geometry) -> tuple[Heard, Tensor]:
    """features: of a window, ``[B, F, width]``. position: units at which it ends, int64 ``[B]``.

    Returns what is known now, and which content frames were measured, float32 ``[B, F]``: those that this window
    settles; while a session's first block settles nothing, all it has said.
    """
    places = Places.of(position, before.upto, geometry.window_units, geometry.right_units)
    newly = places.newly.float()
    counted = torch.where(newly.sum(1, keepdim=True) > 0, newly, places.begun.float())
    hidden, measured = wide.streamed(features, Energies(before.squares, before.frames), counted)
    codes = settle(wide.project(hidden), before.codes, places)
    squares, frames = remember(before.squares, before.frames, measured.squares, measured.frames, float(UNITS_A_SECOND))
    return Heard(codes, position, squares, frames), counted


def remember(
    known: Tensor, frames: Tensor, new: Tensor, count: Tensor, frames_a_second: float
) -> tuple[Tensor, Tensor]:
    """Sums over ``frames`` and over ``count`` new ones, the old fading so that they are never over more than
    ``MEMORY_S``."""
    room = (MEMORY_S * frames_a_second - count).clamp(min=0)
    keep = (room / frames.clamp(min=1)).clamp(max=1)
    return known * keep.view(-1, *[1] * (known.dim() - 1)) + new, frames * keep + count
