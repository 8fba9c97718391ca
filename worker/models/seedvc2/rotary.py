"""Rotary positions as the published V2 networks were trained with them: cosine and sine rounded to bfloat16.

Su et al., "RoFormer" (2021). Unrounded, the transformer's velocity differs by up to 7e-4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worker.models.seedvc.layers import HEAD_WIDTH, ROTARY_BASE


def places(count: int) -> Tensor:
    """The table of positions 0 to ``count - 1``, computed on the CPU as the original's is: the sines of another device
    round otherwise, once in some thousand values. In bfloat16, which holds it exactly; ``[count, 32, 2]``."""
    return rounded_table(torch.arange(count, device="cpu")).bfloat16()


def rounded_table(positions: Tensor) -> Tensor:
    """positions: int64 ``[..., N]``. Returns float32 ``[..., N, HEAD_WIDTH / 2, 2]``, cosine and sine."""
    exponents = torch.arange(0, HEAD_WIDTH, 2, dtype=torch.float32, device=positions.device) / HEAD_WIDTH
    angles = positions.float()[..., None] * (1.0 / ROTARY_BASE**exponents)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).bfloat16().float()
