"""ASTRAL: content features to codes. ConvNeXt-V2 blocks, then one bit a dimension of a small projection.

Woo et al., "ConvNeXt V2" (2023), for blocks and global response normalisation; Zhao et al., "Image and Video
Tokenization with Binary Spherical Quantization" (2024), for the quantiser. *Wide* codes (11 bits) say what is spoken
and how, *narrow* ones (5 bits) little more than what. The networks are two of one form.

Global response normalisation measures each channel's energy over a whole window. A batch of unequal lengths measures
it over each item's own frames; a stream gives the energies in (``Energies``), so that a code does not depend on where
its window begins and ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.weights.published import PublishedFile, PublishedNetwork, as_published

KERNEL = 7


@dataclass(frozen=True, slots=True)
class AstralConfig:
    bits: int
    feature_width: int = 1024
    width: int = 512
    inner: int = 1536
    depth: int = 12

    @property
    def reach(self) -> int:
        """Frames on either side that a code's convolutions see."""
        return self.depth * (KERNEL // 2)


WIDE = AstralConfig(bits=11)
NARROW = AstralConfig(bits=5)


@dataclass(frozen=True, slots=True)
class Energies:
    """What was measured over some frames of a stream."""

    squares: Tensor  # float32 [B, depth, inner], sum of squares of each channel in front of each normalisation
    frames: Tensor  # float32 [B], that it is the sum of


class ResponseNorm(nn.Module):
    """Global response normalisation (GRN)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor, squares: Tensor) -> Tensor:
        """x: ``[B, N, width]``. squares: float32 ``[B, width]``, each channel's energy."""
        energy = squares.sqrt()
        response = energy / (energy.mean(-1, keepdim=True) + 1e-6)
        gain: Tensor = self.gamma * response[:, None].to(x.dtype) + 1
        return x * gain + self.beta


class Block(nn.Module):
    def __init__(self, config: AstralConfig) -> None:
        super().__init__()
        width = config.width
        self.dwconv = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, config.inner)
        self.grn = ResponseNorm(config.inner)
        self.pwconv2 = nn.Linear(config.inner, width)

    def spread(self, x: Tensor) -> Tensor:
        """x: ``[B, N, width]``, zero beyond an item's end. Returns ``[B, N, inner]``, in front of the GRN."""
        y = self.norm(self.dwconv(x.transpose(1, 2)).transpose(1, 2))
        return F.gelu(self.pwconv1(y))

    def gather(self, x: Tensor, hidden: Tensor, squares: Tensor) -> Tensor:
        out: Tensor = x + self.pwconv2(self.grn(hidden, squares))
        return out


class Astral(nn.Module):
    def __init__(self, config: AstralConfig) -> None:
        super().__init__()
        self.config = config
        self.input_projection = nn.Conv1d(config.feature_width, config.width, 1)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.project_in = nn.Linear(config.width, config.bits)

    def hidden(self, features: Tensor, lens: Tensor | None = None) -> Tensor:
        """features: ``[B, N, feature_width]``. lens: int64 ``[B]``, valid frames; None: all. Returns ``[B, N, width]``,
        meaningless beyond an item's end."""
        valid = None
        if lens is not None:
            valid = (torch.arange(features.shape[1], device=features.device) < lens[:, None])[..., None]
        x = self._project(features)
        for block in self._blocks():
            if valid is not None:
                x = x.masked_fill(~valid, 0)
            hidden = block.spread(x)
            squares = hidden.float().square()
            x = block.gather(x, hidden, (squares if valid is None else squares * valid).sum(1))
        return x

    def streamed(self, features: Tensor, known: Energies, counted: Tensor) -> tuple[Tensor, Energies]:
        """As ``hidden``, every frame valid, normalised by what a stream knows; where that is nothing, by what is
        counted.

        counted: float32 ``[B, N]`` in 0 .. 1, the frames that are measured. Returns the hidden frames and the energies
        of the counted frames alone.
        """
        fresh = (known.frames == 0)[:, None]
        x = self._project(features)
        measured = []
        for layer, block in enumerate(self._blocks()):
            hidden = block.spread(x)
            own = (hidden.float().square() * counted[..., None]).sum(1)
            measured.append(own)
            x = block.gather(x, hidden, torch.where(fresh, own, known.squares[:, layer]))
        return x, Energies(torch.stack(measured, dim=1), counted.sum(1))

    def project(self, hidden: Tensor) -> Tensor:
        """``[B, N, width]`` to the values that are quantised, float32 ``[B, N, bits]``."""
        out: Tensor = self.project_in(hidden)
        return out.float()

    def forward(self, features: Tensor, lens: Tensor | None = None) -> Tensor:
        """As ``hidden``; returns codes, int64 ``[B, N]``."""
        return codes_of(self.project(self.hidden(features, lens)) > 0)

    def _project(self, features: Tensor) -> Tensor:
        x = features.to(self.input_projection.weight.dtype).transpose(1, 2)
        return self.input_projection(x).transpose(1, 2).contiguous()

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]


def unit(projected: Tensor) -> Tensor:
    """Each frame's values ``[..., bits]`` on the unit sphere, where a value near 0 is a bit that may flip."""
    return projected / projected.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def codes_of(bits: Tensor) -> Tensor:
    """bool ``[..., K]``, the most significant first, to int64 ``[...]``."""
    weights = 2 ** torch.arange(bits.shape[-1] - 1, -1, -1, device=bits.device)
    return (bits * weights).sum(-1)


def bits_of(codes: Tensor, count: int) -> Tensor:
    """The inverse of ``codes_of``: bool ``[..., count]``."""
    weights = 2 ** torch.arange(count - 1, -1, -1, device=codes.device)
    return (codes[..., None] & weights) != 0


def without_runs(codes: Tensor) -> Tensor:
    """``[N]`` without the codes that equal the one before: how long a sound lasts is not told."""
    keep = torch.ones_like(codes, dtype=torch.bool)
    keep[1:] = codes[1:] != codes[:-1]
    return codes[keep]


def _published(name: str, file: str, config: AstralConfig) -> PublishedNetwork:
    layout = PublishedFile(
        "Plachta/ASTRAL-quantization",
        file,
        "GPL-3.0",
        rename=((r"^(encoder|quantizer)\.", ""),),
        ignore=(r"^quantizer\.(mask$|project_out\.)", r"^(decoder|asr_decoder)\."),
        refuse=(r"(^|\.)ssl_model\.",),  # a content encoder of its own, with which the original would replace HuBERT
    )
    return PublishedNetwork(name, layout, Astral, as_published(config))


ASTRAL_WIDE = _published("astral_wide", "bsq2048/bsq2048_light.pth", WIDE)
ASTRAL_NARROW = _published("astral_narrow", "bsq32/bsq32_light.pth", NARROW)
