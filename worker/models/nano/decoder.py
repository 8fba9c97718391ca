"""The bundled model's decoder: content, pitch and a voice to mel frames, in one step.

A transformer whose frames also attend to those of a reference recording. The reference sees itself alone, so its keys
and values, ``memory``, are computed once a voice:

    reference mel + condition -> blocks -> keys, values of every block
    condition -> blocks, each looking at its own frames and at the memory's -> head -> mel

The style scales every norm (Peebles & Xie, "Scalable Diffusion Models with Transformers", 2022), and a depthwise
convolution in front of every feed-forward learns how speech moves from frame to frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.nano.blocks import MEL_MEAN, MEL_SCALE
from worker.models.networks import OneStep

HEAD_WIDTH = 64
ROTARY_BASE = 10_000.0
REFERENCE_AT, REFERENCE_TO = -512, -64  # positions of a reference: it lies before whatever is converted, however long


@dataclass(frozen=True, slots=True)
class NanoDecoderConfig:
    mel_bins: int = 80
    width: int = 256
    inner: int = 640
    depth: int = 5
    style_width: int = 256
    kernel: int = 7

    @property
    def heads(self) -> int:
        return self.width // HEAD_WIDTH


class DecoderBlock(nn.Module):
    def __init__(self, config: NanoDecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mix = nn.Conv1d(width, width, config.kernel, padding=config.kernel // 2, groups=width)
        self.up = nn.Linear(width, 2 * config.inner, bias=False)
        self.down = nn.Linear(config.inner, width, bias=False)

    def forward(
        self, x: Tensor, style: Tensor, rotary: Tensor, memory: Tensor | None, seen: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x: ``[B, T, D]``. style: gains and biases ``[B, 4, 1, D]``. memory: ``[B, 2, P, D]``. seen: bool
        ``[B, 1, 1, P + T]``. valid: bool ``[B, T, 1]``. Returns the frames and their own keys and values
        ``[B, 2, T, D]``."""
        gain, bias, inner_gain, inner_bias = style.unbind(1)
        q, k, v = self.qkv(norm(x, gain, bias)).chunk(3, dim=-1)
        q, k = rotate(q, rotary), rotate(k, rotary)
        own = torch.stack([k, v], dim=1)
        if memory is not None:
            k, v = torch.cat([memory.to(k.dtype), own], dim=2).unbind(1)
        q, k, v = (part.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        y = norm(x, inner_gain, inner_bias)
        if valid is not None:
            y = y * valid
        y = y + self.mix(y.transpose(1, 2)).transpose(1, 2)
        gate, value = self.up(y).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * value), own


class NanoDecoder(OneStep):
    config: NanoDecoderConfig

    def __init__(self, config: NanoDecoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NanoDecoderConfig()
        self.memory_shape = config.depth, 2, config.width
        self.reference = nn.Linear(config.mel_bins, config.width)
        self.unknown = nn.Parameter(torch.zeros(config.width))  # in place of a mel
        self.style = nn.Linear(config.style_width, (4 * config.depth + 3) * config.width)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.depth))
        self.head = nn.Sequential(
            nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.mel_bins)
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.unknown.dtype

    def remember(self, mel: Tensor, condition: Tensor, style: Tensor, lens: Tensor | None = None) -> Tensor:
        """Keys and values ``[B, depth, 2, P, D]`` of a reference: mel ``[B, C, P]``, the regulator's condition
        ``[B, P, D]``, style ``[B, S]``. lens: int64 ``[B]``, valid frames; None: all."""
        known = self.reference(((mel.transpose(1, 2) - MEL_MEAN) / MEL_SCALE).to(self.dtype))
        return torch.stack(self._blocks(known + condition.to(self.dtype), style, REFERENCE_AT, None, None, lens)[1], 1)

    def forward(
        self,
        condition: Tensor,
        style: Tensor,
        memory: Tensor,
        memory_lens: Tensor | None = None,
        lens: Tensor | None = None,
    ) -> Tensor:
        """Mel ``[B, C, M]`` of the regulator's condition ``[B, M, D]`` in the voice of a reference. The lens, int64
        ``[B]``, are valid frames of either; None: all."""
        x = self.unknown + condition.to(self.dtype)
        x = self._blocks(x, style, 0, memory, memory_lens, lens)[0]
        mel: Tensor = self.head(x).float() * MEL_SCALE + MEL_MEAN
        return mel.transpose(1, 2)

    def _blocks(
        self,
        x: Tensor,
        style: Tensor,
        first: int,
        memory: Tensor | None,
        memory_lens: Tensor | None,
        lens: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Frames after all blocks and the last norm, and each block's keys and values."""
        rows, length, width = x.shape
        given = self.style(style.to(self.dtype)).unflatten(-1, (-1, 1, width))
        x = x + given[:, 0]
        rotary = rotary_table(first, length, x.device)
        room = 0 if memory is None else memory.shape[3]
        seen = valid = None
        if lens is not None or memory_lens is not None:
            places = torch.arange(length, device=x.device)
            own = places.expand(rows, -1) < (length if lens is None else lens[:, None])
            if memory_lens is None:
                theirs = own.new_ones(rows, room)
            else:
                theirs = torch.arange(room, device=x.device) < memory_lens[:, None]
            seen = torch.cat([theirs, own], dim=1)[:, None, None]
            valid = None if lens is None else own[..., None]
        kept = []
        for index, block in enumerate(self.blocks):
            own_style = given[:, 3 + 4 * index : 7 + 4 * index]
            x, pair = block(x, own_style, rotary, None if memory is None else memory[:, index], seen, valid)
            kept.append(pair)
        return norm(x, given[:, 1], given[:, 2]), kept


def norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """RMS norm (Zhang & Sennrich, 2019) with a gain around 1."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + gain) + bias


def rotary_table(first: int, length: int, device: torch.device) -> Tensor:
    """Cosine and sine of position times frequency, float32 ``[length, 1, HEAD_WIDTH / 2, 2]`` (Su et al., "RoFormer",
    2021)."""
    freqs = ROTARY_BASE ** (-torch.arange(0, HEAD_WIDTH, 2, dtype=torch.float32, device=device) / HEAD_WIDTH)
    places = torch.arange(first, first + length, dtype=torch.float32, device=device)
    angles = (places.clamp(max=REFERENCE_TO) if first < 0 else places)[:, None] * freqs
    return torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None]


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate both halves of every head of ``x [B, T, D]`` against each other."""
    a, b = x.unflatten(-1, (-1, 2, HEAD_WIDTH // 2)).unbind(-2)
    cos, sin = table.to(x.dtype).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-2).flatten(-3)
