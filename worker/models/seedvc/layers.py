"""Layers that the transformers of Seed-VC share: norms, rotary attention, gated feed-forward, time embedding.

Su et al., "RoFormer" (2021), for the rotary positions; Shazeer, "GLU Variants Improve Transformer" (2020), for the
feed-forward; Peebles & Xie, "Scalable Diffusion Models with Transformers" (2022), for the time conditioning.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models import fused

HEAD_WIDTH = 64
TIME_WIDTH = 256
TIME_SCALE = 1000.0
ROTARY_BASE = 10_000.0


class TimeEmbedder(nn.Module):
    """Sinusoidal features of a time in [0, 1], then two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.mlp.parameters()).dtype

    def forward(self, t: Tensor) -> Tensor:
        """t: ``[S]``. Returns ``[S, D]``."""
        half = TIME_WIDTH // 2
        freqs = torch.exp(-math.log(10_000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angles = TIME_SCALE * t.float()[:, None] * freqs
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)
        embedding: Tensor = self.mlp(features.to(self.dtype))
        return embedding


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32 (Zhang & Sennrich, 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return normalise(x, self.weight)


class PlainNorm(nn.Module):
    """An RMS norm under the name it has in an adaptive one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out


class AdaptiveNorm(nn.Module):
    """RMS norm whose gain and bias come from the time embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.project_layer = nn.Linear(width, 2 * width)

    def modulation(self, time: Tensor) -> Tensor:
        """time: ``[S, D]``. Returns gain and bias ``[S, 2, 1, D]``; the norm's own weight is part of the gain."""
        gain, bias = self.project_layer(time).chunk(2, dim=-1)
        return torch.stack([gain * self.norm.weight, bias], dim=1)[:, :, None]


def normalise(x: Tensor, gain: Tensor, bias: Tensor | None = None) -> Tensor:
    """``gain * x / rms(x) + bias`` over the last axis, in float32; returns the type of ``x``."""
    if fused.usable(x):
        return fused.normalise(x, gain, bias, fused.NORM_EPS)
    y = F.rms_norm(x.float(), x.shape[-1:], eps=fused.NORM_EPS) * gain
    return (y if bias is None else y + bias).to(x.dtype)


def add_normalise(
    x: Tensor, delta: Tensor, gate: Tensor | None, gain: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``x + gate * delta`` (gate 1 where it is None), and ``normalise`` of it."""
    if fused.usable(x):
        return fused.add_normalise(x, delta, gate, gain, bias, fused.NORM_EPS)
    x = x + (delta if gate is None else gate * delta)
    return x, normalise(x, gain, bias)


def rotary_table(length: int, device: torch.device) -> Tensor:
    """Cosine and sine of position times frequency, float32 ``[length, HEAD_WIDTH / 2, 2]``."""
    freqs = ROTARY_BASE ** (-torch.arange(0, HEAD_WIDTH, 2, dtype=torch.float32, device=device) / HEAD_WIDTH)
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * freqs
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the interleaved pairs of ``x [R, N, heads, 64]`` by ``table [N, 32, 2]``, in float32."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table[:, None].unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.wqkv = nn.Linear(width, 3 * width, bias=False)
        self.wo = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotary: Tensor, key_mask: Tensor | None) -> Tensor:
        qkv = self.wqkv(x).unflatten(-1, (3, -1, HEAD_WIDTH))
        if fused.usable(qkv):
            q, k, v = fused.rotate_(qkv, rotary).unbind(2)
        else:
            q, k, v = qkv.unbind(2)
            q, k = rotate(q, rotary), rotate(k, rotary)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=key_mask)
        out: Tensor = self.wo(y.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)
        self.w3 = nn.Linear(width, inner, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w1(x), self.w3(x)
        out: Tensor = self.w2(fused.gated(a, b) if fused.usable(a) else F.silu(a) * b)
        return out
