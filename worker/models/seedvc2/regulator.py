"""Length regulators of V2: codes to the conditions of the transformer (wide) and of the AR model (narrow).

    wide codes -> embedding -> nearest interpolation -> 4 x (conv, group norm, Mish)        narrow codes -> embedding

The group norm spans all frames of an item, so it is taken over the valid ones; a stream gives its own moments in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.models.seedvc import files
from worker.models.seedvc.regulator import ItemNorm, nearest_index
from worker.models.weights.published import PublishedNetwork, as_published

STAGES = 4


@dataclass(frozen=True, slots=True)
class CodeRegulatorConfig:
    codes: int
    width: int


CFM = CodeRegulatorConfig(codes=2048, width=512)
AR = CodeRegulatorConfig(codes=32, width=768)


@dataclass(frozen=True, slots=True)
class Moments:
    """Of the values in front of each group norm, measured over some frames."""

    sums: Tensor  # float [B, STAGES, 2], of the values and of their squares
    frames: Tensor  # float [B]

    @classmethod
    def none(cls, rows: int, device: torch.device | str = "cpu") -> Moments:
        return cls(torch.zeros(rows, STAGES, 2, device=device), torch.zeros(rows, device=device))


class CodeRegulator(nn.Module):
    """Codes to mel frames."""

    def __init__(self, config: CodeRegulatorConfig = CFM) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embedding = nn.Embedding(config.codes, width)
        stages = [(nn.Conv1d(width, width, 3, padding=1), ItemNorm(width), nn.Mish()) for _ in range(STAGES)]
        self.model = nn.ModuleList(layer for stage in stages for layer in stage)

    def forward(
        self, codes: Tensor, length: int, *, target_lens: Tensor | None = None, code_lens: Tensor | None = None
    ) -> Tensor:
        """codes: int64 ``[B, N]``. length: frames ``M`` of the result. The lens, int64 ``[B]``, are each item's valid
        frames (None: all of them). Returns ``[B, M, width]``, zero beyond an item's target length.
        """
        count = codes.new_full((codes.shape[0],), length)
        targets = count if target_lens is None else target_lens
        sources = codes.new_full((codes.shape[0],), codes.shape[1]) if code_lens is None else code_lens
        index = nearest_index(sources, targets, length)
        return self.frames(codes.gather(1, index), targets)

    def frames(self, codes: Tensor, lens: Tensor) -> Tensor:
        """The same for a code a mel frame, int64 ``[B, M]``."""
        valid = (torch.arange(codes.shape[1], device=codes.device) < lens[:, None])[:, None]
        x = self.embedding(codes).transpose(1, 2) * valid
        for layer in self.model:
            x = layer(x, valid, lens) if isinstance(layer, ItemNorm) else layer(x)
            if isinstance(layer, nn.Mish):
                x = x * valid  # what lies beyond the end must look like the next convolution's zero padding
        return x.transpose(1, 2)

    def streamed(self, codes: Tensor, known: Moments, counted: Tensor) -> tuple[Tensor, Moments]:
        """As ``frames``, every frame valid, normalised by what is known; where that is nothing, by what is counted.

        counted: float32 ``[B, M]`` in 0 .. 1, the frames that are measured. Returns ``[B, M, width]`` and the moments
        of the counted frames alone.
        """
        x = self.embedding(codes).transpose(1, 2)
        fresh = (known.frames == 0)[:, None, None]
        frames = counted.sum(1)
        sums = []
        for stage in range(STAGES):
            conv, norm, mish = (self.model[3 * stage + part] for part in range(3))
            assert isinstance(norm, ItemNorm)
            x = conv(x)
            y = x.float()
            weighted = y * counted[:, None]
            own = torch.stack([weighted.sum((1, 2)), (weighted * y).sum((1, 2))], dim=1)
            sums.append(own)
            mean, square = torch.where(
                fresh, _means(own, frames, y.shape[1]), _means(known.sums[:, stage], known.frames, y.shape[1])
            ).unbind(1)
            y = (y - mean[:, None]) * (square - mean.square() + 1e-5).clamp(min=1e-5).rsqrt()[:, None]
            x = mish((y * norm.weight[:, None] + norm.bias[:, None]).to(x.dtype))
        return x.transpose(1, 2), Moments(torch.stack(sums, dim=1), frames)


def _means(sums: Tensor, frames: Tensor, width: int) -> Tensor:
    """``[B, 2]`` sums over so many frames to means, ``[B, 2, 1]``."""
    return (sums / (frames * width).clamp(min=1)[:, None])[..., None]


class CodeEmbedding(nn.Module):
    """Narrow codes ``[B, N]`` to the AR model's condition ``[B, N, width]``."""

    def __init__(self, config: CodeRegulatorConfig = AR) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.codes, config.width)

    def forward(self, codes: Tensor) -> Tensor:
        out: Tensor = self.embedding(codes)
        return out


IGNORE = (r"^mask_token$",)
REGULATOR_V2 = PublishedNetwork(
    "regulator_v2", files.layout("v2", "length_regulator", ignore=IGNORE), CodeRegulator, as_published(CFM)
)
REGULATOR_AR_V2 = PublishedNetwork(
    "regulator_ar_v2", files.layout("ar_v2", "length_regulator", ignore=IGNORE), CodeEmbedding, as_published(AR)
)
