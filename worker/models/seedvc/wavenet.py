"""The WaveNet head of the small model: gated convolutions over the transformer's output.

van den Oord et al., "WaveNet" (2016), in the undilated, non-causal form of flow-based speech models (Prenger et al.,
"WaveGlow", 2018). Every convolution reflects at each item's own end, so a batch gives what each item gives alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models import fused

LAYERS = 8
KERNEL = 5
MARGIN = KERNEL // 2


def reflection_index(length: int, lens: Tensor) -> Tensor:
    """Source frames of a sequence reflected at 0 and at each item's end, int64 ``[R, length + 2 * MARGIN]``."""
    frames = torch.arange(-MARGIN, length + MARGIN, device=lens.device).abs()
    last = lens[:, None] - 1
    return (last - (frames - last).abs()).where(frames > last, frames).clamp(min=0)


class WaveNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cond_layer = nn.Conv1d(width, 2 * width * LAYERS, 1)
        self.in_layers = nn.ModuleList(nn.Conv1d(width, 2 * width, KERNEL) for _ in range(LAYERS))
        self.res_skip_layers = nn.ModuleList(
            nn.Conv1d(width, width if i == LAYERS - 1 else 2 * width, 1) for i in range(LAYERS)
        )

    def modulation(self, time: Tensor) -> Tensor:
        """time: ``[S, D]``. Returns every layer's offset, ``[S, LAYERS, 2 D, 1]``."""
        offsets: Tensor = self.cond_layer(time[..., None])
        return offsets.unflatten(1, (LAYERS, -1))

    def forward(self, x: Tensor, lens: Tensor | None, offsets: Tensor) -> Tensor:
        """x: ``[R, D, T]``. Frames beyond an item's length come out as they may: nothing valid depends on them."""
        index = None if lens is None else reflection_index(x.shape[-1], lens)[:, None].expand(-1, x.shape[1], -1)
        total = torch.zeros_like(x)
        for i in range(LAYERS):
            padded = F.pad(x, (MARGIN, MARGIN), mode="reflect") if index is None else x.gather(2, index)
            both = self.in_layers[i](padded)
            if fused.usable(both):
                gated = fused.wave_gate(both, offsets[:, i])
            else:
                filtered, gate = (both + offsets[:, i]).chunk(2, dim=1)
                gated = filtered.tanh() * gate.sigmoid()
            out = self.res_skip_layers[i](gated)
            if i == LAYERS - 1:
                return total + out
            residual, skip = out.chunk(2, dim=1)
            x, total = x + residual, total + skip
        raise AssertionError("unreachable")


class FinalLayer(nn.Module):
    """LayerNorm, shifted and scaled by the time, then one linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale = modulation.chunk(2, dim=-1)
        out: Tensor = self.linear(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
        return out


class WaveNetHead(nn.Module):
    """Transformer output ``[R, T, D]`` to velocity ``[R, C, T]``."""

    def __init__(self, width: int, mel_bins: int) -> None:
        super().__init__()
        self.conv1 = nn.Linear(width, width)
        self.wavenet = WaveNet(width)
        self.res_projection = nn.Linear(width, width)
        self.final_layer = FinalLayer(width)
        self.conv2 = nn.Conv1d(width, mel_bins, 1)

    def modulation(self, time: Tensor, wavenet_time: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets of the layers ``[S, LAYERS, 2 D, 1]``, shift and scale of the final layer ``[S, 1, 2 D]``."""
        return self.wavenet.modulation(wavenet_time), self.final_layer.adaLN_modulation(time)[:, None]

    def forward(self, hidden: Tensor, lens: Tensor | None, offsets: Tensor, final: Tensor) -> Tensor:
        wave = self.wavenet(self.conv1(hidden).transpose(1, 2), lens, offsets).transpose(1, 2)
        out: Tensor = self.conv2(self.final_layer(wave + self.res_projection(hidden), final).transpose(1, 2))
        return out
