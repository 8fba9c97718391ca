"""Content at 50 frames a second and pitch at 100 to the decoder's mel frames.

Norms are taken over each frame alone: a window with nothing but breath in it is not made as loud as speech.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.models.nano.blocks import ConvBlock
from worker.models.networks import Regulator, lens_or_all

OCTAVES_FROM_HZ = 50.0
WAVES = 8  # of each kind that say where in PITCH_OCTAVES a pitch lies
PITCH_OCTAVES = 4.5


@dataclass(frozen=True, slots=True)
class NanoRegulatorConfig:
    content_width: int = 65
    width: int = 256
    inner: int = 512
    depth: int = 2
    kernel: int = 5


class NanoRegulator(Regulator):
    def __init__(self, config: NanoRegulatorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NanoRegulatorConfig()
        self.content = nn.Linear(config.content_width, config.width)
        self.pitch = nn.Linear(2 * WAVES + 2, config.width)
        self.blocks = nn.ModuleList(ConvBlock(config.width, config.inner, config.kernel) for _ in range(config.depth))

    def forward(
        self,
        content: Tensor,
        length: int,
        *,
        target_lens: Tensor | None = None,
        content_lens: Tensor | None = None,
        f0: Tensor | None = None,
        f0_lens: Tensor | None = None,
    ) -> Tensor:
        """content: ``[B, N, content_width]``. length: frames ``M`` of the result. f0: Hz at 100 frames a second
        ``[B, F]``, 0 where unvoiced; None: unvoiced. The lens, int64 ``[B]``, are each item's valid frames (None: all
        of them). Returns ``[B, M, D]``, zero beyond an item's target length.
        """
        targets = lens_or_all(target_lens, content, length)
        x = self.content(
            between(content.float(), lens_or_all(content_lens, content, content.shape[1]), targets, length)
        )
        if f0 is None:
            f0 = content.new_zeros(content.shape[0], 2)
        x = x + self.pitch(pitch_features(nearest(f0.float(), lens_or_all(f0_lens, f0, f0.shape[1]), targets, length)))
        if target_lens is None:
            for block in self.blocks:
                x = block(x)
            return x
        valid = torch.arange(length, device=content.device) < targets[:, None]
        for block in self.blocks:  # what lies beyond the end must look like a convolution's zero padding
            x = block(x * valid[..., None])
        return x * valid[..., None]


def place(source_lens: Tensor, target_lens: Tensor, length: int) -> Tensor:
    """Where in its source the centre of each of ``length`` frames lies, float32 ``[B, length]``."""
    scale = source_lens.float() / target_lens.float()
    return (torch.arange(length, device=scale.device).float() + 0.5) * scale[:, None]


def between(x: Tensor, source_lens: Tensor, target_lens: Tensor, length: int) -> Tensor:
    """Linear interpolation of ``x [B, N, D]``."""
    at = place(source_lens, target_lens, length)
    last = source_lens[:, None] - 1
    low = at.long().minimum(last)
    share = (at - low).clamp(max=1.0)[..., None]
    high = (low + 1).minimum(last)

    def frames(index: Tensor) -> Tensor:
        return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

    return frames(low) * (1 - share) + frames(high) * share


def nearest(f0: Tensor, source_lens: Tensor, target_lens: Tensor, length: int) -> Tensor:
    """``[B, length]`` of ``f0 [B, F]``: pitch is not averaged with its absence."""
    at = (place(source_lens, target_lens, length) + 0.5).long()
    return f0.gather(1, at.minimum(source_lens[:, None] - 1))


def pitch_features(f0: Tensor) -> Tensor:
    """Hz ``[B, M]``, 0 where unvoiced, to ``[B, M, 2 WAVES + 2]``."""
    voiced = f0 > 0
    octaves = torch.where(voiced, (f0.clamp(min=OCTAVES_FROM_HZ) / OCTAVES_FROM_HZ).log2(), 0.0) / PITCH_OCTAVES
    angles = octaves[..., None] * math.pi * torch.arange(1, WAVES + 1, device=f0.device)
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1) * voiced[..., None]
    return torch.cat([waves, octaves[..., None], voiced[..., None].to(f0.dtype)], dim=-1)
