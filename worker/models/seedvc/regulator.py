"""Length regulator: content features at 50 frames a second to the diffusion transformer's mel frames.

    content -> projection -> nearest interpolation (+ pitch) -> 4 x (conv, group norm, Mish) -> 1x1 conv

The group norm spans all frames of an item, so it is taken over the valid ones: each item of a batch of unequal lengths
gets what it gets alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.models.networks import Regulator, lens_or_all
from worker.models.seedvc import files
from worker.models.weights.published import PublishedNetwork, as_published

F0_BINS = 256
F0_MIN_HZ, F0_MAX_HZ = 50.0, 1100.0


@dataclass(frozen=True, slots=True)
class RegulatorConfig:
    content_width: int
    width: int
    pitch: bool  # whether it embeds f0

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> RegulatorConfig:
        """The configuration a checkpoint was made with, read off its shapes."""
        width, content_width = shapes["content_in_proj.weight"]
        return cls(content_width, width, pitch="f0_embedding.weight" in shapes)


TINY = RegulatorConfig(content_width=1024, width=384, pitch=False)
SMALL = RegulatorConfig(content_width=768, width=512, pitch=False)
BASE = RegulatorConfig(content_width=768, width=768, pitch=True)


def f0_bins(f0: Tensor) -> Tensor:
    """Bin of a pitch in Hz (0: unvoiced), int64 in 0..255, evenly spaced on the mel scale of O'Shaughnessy.

    Bin 1 is both unvoiced and 50 Hz, 255 is 1100 Hz; from about 1103 Hz up the bin is 0, as in training.
    """
    mel = 1127 * torch.log1p(f0 / 700)
    low, high = (1127 * math.log1p(hz / 700) for hz in (F0_MIN_HZ, F0_MAX_HZ))
    scale = (F0_BINS - 2) / (high - low)
    bins = torch.where(mel > 0, torch.round(mel * scale - (low * scale - 1)), 0.0).long().clamp(min=1)
    return bins.where(bins < F0_BINS, 0)


def nearest_index(source_lens: Tensor, target_lens: Tensor, length: int) -> Tensor:
    """Source frame of each of ``length`` target frames, int64 ``[B, length]``: ``floor(i * N / M)`` in float32."""
    scale = source_lens.float() / target_lens.float()
    index = (torch.arange(length, device=scale.device).float() * scale[:, None]).long()
    return index.minimum(source_lens[:, None] - 1)


class ItemNorm(nn.Module):
    """Group norm with one group (Wu & He, 2018), over the valid frames of each item, in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, valid: Tensor, lens: Tensor) -> Tensor:
        """x: ``[B, D, M]``. valid: bool ``[B, 1, M]``. lens: int64 ``[B]``."""
        count = (lens * x.shape[1])[:, None, None]
        y = x.float()
        y = y - (y * valid).sum(dim=(1, 2), keepdim=True) / count
        variance = (y * valid).square().sum(dim=(1, 2), keepdim=True) / count
        y = y * (variance + 1e-5).rsqrt() * self.weight[:, None] + self.bias[:, None]
        return y.to(x.dtype)


class LengthRegulator(Regulator):
    def __init__(self, config: RegulatorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.content_in_proj = nn.Linear(config.content_width, width)
        if config.pitch:
            self.f0_embedding = nn.Embedding(F0_BINS, width)
            self.f0_mask = nn.Parameter(torch.zeros(1, width))
        stages = [(nn.Conv1d(width, width, 3, padding=1), ItemNorm(width), nn.Mish()) for _ in range(4)]
        self.model = nn.ModuleList([*(layer for stage in stages for layer in stage), nn.Conv1d(width, width, 1)])

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
        ``[B, F]``, 0 where unvoiced; None: the embedding of an unknown pitch. The lens, int64 ``[B]``, are each item's
        valid frames (None: all of them). Returns ``[B, M, D]``, zero beyond an item's target length.
        """
        targets = lens_or_all(target_lens, content, length)
        valid = (torch.arange(length, device=content.device) < targets[:, None])[:, None]
        hidden = self.content_in_proj(content.to(self.content_in_proj.weight.dtype))
        hidden = stretch(hidden, nearest_index(lens_or_all(content_lens, content, content.shape[1]), targets, length))
        if self.config.pitch and f0 is None:
            hidden = hidden + self.f0_mask
        elif self.config.pitch and f0 is not None:
            pitch = self.f0_embedding(f0_bins(f0))
            hidden = hidden + stretch(pitch, nearest_index(lens_or_all(f0_lens, f0, f0.shape[1]), targets, length))
        x = hidden.transpose(1, 2) * valid
        for layer in self.model:
            x = layer(x, valid, targets) if isinstance(layer, ItemNorm) else layer(x)
            if isinstance(layer, nn.Mish):
                x = x * valid  # what lies beyond the end must look like the next convolution's zero padding
        return (x * valid).transpose(1, 2)


def stretch(x: Tensor, index: Tensor) -> Tensor:
    """Frames ``index [B, M]`` of ``x [B, N, D]``."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


IGNORE = (r"^(embedding|f0_embedding|extra_codebooks?.*)\.", r"^(mask_token|f0_mask|extra_codebook_mask.*)$")


def published(size: str | None) -> PublishedNetwork:
    """The regulator of a published model; None: of a fine-tuned one, its sizes read off the file's shapes."""
    layout = files.layout(size, "length_regulator", ignore=IGNORE)
    sizes = {"tiny": TINY, "small": SMALL, "base": BASE}
    config = RegulatorConfig.from_shapes if size is None else as_published(sizes[size])
    return PublishedNetwork("regulator" if size is None else f"regulator_{size}", layout, LengthRegulator, config)
