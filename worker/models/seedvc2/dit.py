"""The velocity estimator of Seed-VC V2: a diffusion transformer whose time shifts, scales and gates every block.

    x | prompt | condition  ->  merge  ->  [time, style, frames]  ->  13 blocks  ->  two layers  ->  velocity

Peebles & Xie, "Scalable Diffusion Models with Transformers" (2022), for the six-way modulation. It has neither the
skips of V1's transformer nor a WaveNet; attention, feed-forward and time embedding are V1's.

Guidance needs up to three *branches* of one velocity: all conditions (``full``), the content alone (``text``), nothing
(``null``). They share the noisy mel and the time and are rows of one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models import fused
from worker.models.seedvc import files
from worker.models.seedvc.layers import (
    HEAD_WIDTH,
    Attention,
    FeedForward,
    RMSNorm,
    TimeEmbedder,
    add_normalise,
    normalise,
)
from worker.models.seedvc2.rotary import places, rounded_table
from worker.models.weights.published import PublishedNetwork

Branch = Literal["full", "text", "null"]
TOKENS = 2  # in front of the frames: time and style
MAX_PLACES = 8192  # of the published table; longer sequences compute theirs


@dataclass(frozen=True, slots=True)
class DiT2Config:
    mel_bins: int = 80
    width: int = 512
    depth: int = 13
    inner: int = 1536
    style_width: int = 192

    @property
    def heads(self) -> int:
        return self.width // HEAD_WIDTH

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> DiT2Config:
        """The configuration a checkpoint was made with, read off its shapes (names without ``estimator.``)."""
        inner, width = shapes["transformer.layers.0.feed_forward.w1.weight"]
        return cls(
            mel_bins=shapes["final_mlp.2.weight"][0],
            width=width,
            depth=sum(name.endswith(".attention.wqkv.weight") for name in shapes),
            inner=inner,
            style_width=shapes["style_in.weight"][1],
        )


SMALL = DiT2Config()


@dataclass(frozen=True, slots=True)
class Times2:
    """What the network derives from ``S`` times alone. A row broadcasts over a batch that shares its time."""

    token: Tensor  # [S, 1, D]
    blocks: Tensor  # [S, depth, 6, 1, D]: bias, gain and gate of attention, then of the feed-forward
    norm: Tensor  # [S, 2, 1, D], gain and bias

    def at(self, step: int) -> Times2:
        """Row ``step`` alone, with its leading axis."""
        row = slice(step, step + 1)
        return Times2(self.token[row], self.blocks[row], self.norm[row])

    def rows(self, index: Tensor) -> Times2:
        """Rows ``index [R]``: a time for each row of a batch."""
        return Times2(self.token[index], self.blocks[index], self.norm[index])


@dataclass(frozen=True, slots=True)
class Conditions2:
    """What the network derives from prompt, content and style alone: ``R`` rows, branch after branch."""

    frames: Tensor  # [R, T, D], the merge of everything but the noisy mel
    style_token: Tensor  # [R, 1, D]
    rotary: Tensor  # [2 + T, 32, 2], cosine and sine
    key_mask: Tensor | None  # bool [R, 1, 1, 2 + T]


class ModulatedNorm(nn.Module):
    """RMS norm and the layer that derives its block's (or its own) modulation from the time."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)
        self.norm = RMSNorm(width)

    def modulation(self, time: Tensor) -> Tensor:
        """time: ``[S, D]``. Returns ``[S, parts, 1, D]``."""
        parts: Tensor = self.linear(F.silu(time)).unflatten(-1, (self.parts, 1, -1))
        return parts


class Block(nn.Module):
    def __init__(self, config: DiT2Config) -> None:
        super().__init__()
        self.attention_norm = ModulatedNorm(config.width, 6)
        self.attention = Attention(config.width)
        self.ffn_norm = RMSNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.inner)

    def modulation(self, time: Tensor) -> Tensor:
        """As ``Times2.blocks`` for one block; the norms' own weights are part of the gains."""
        bias1, gain1, gate1, bias2, gain2, gate2 = self.attention_norm.modulation(time).unbind(1)
        gain1 = (1 + gain1) * self.attention_norm.norm.weight
        gain2 = (1 + gain2) * self.ffn_norm.weight
        return torch.stack([bias1, gain1, gate1, bias2, gain2, gate2], dim=1)

    def forward(self, x: Tensor, modulation: Tensor, rotary: Tensor, key_mask: Tensor | None) -> Tensor:
        bias1, gain1, gate1, bias2, gain2, gate2 = modulation.unbind(1)
        made = self.attention(normalise(x, gain1, bias1), rotary, key_mask)
        x, y = add_normalise(x, made, gate1, gain2, bias2)
        made = self.feed_forward(y)
        return fused.add(x, made, gate2) if fused.usable(x) else x + gate2 * made


class Transformer(nn.Module):
    def __init__(self, config: DiT2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = ModulatedNorm(config.width, 2)

    def modulation(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """time: ``[S, D]``. Returns ``Times2.blocks`` and ``Times2.norm``."""
        blocks = [block.modulation(time) for block in self.layers if isinstance(block, Block)]
        gain, bias = self.norm.modulation(time).unbind(1)
        return torch.stack(blocks, dim=1), torch.stack([(1 + gain) * self.norm.norm.weight, bias], dim=1)

    def forward(self, x: Tensor, times: Times2, rotary: Tensor, key_mask: Tensor | None) -> Tensor:
        for i, block in enumerate(self.layers):
            x = block(x, times.blocks[:, i], rotary, key_mask)
        return normalise(x, *times.norm.unbind(1))


class DiT2(nn.Module):
    """Velocity of the flow at a noisy mel, a time and the conditions."""

    rotary: Tensor

    def __init__(self, config: DiT2Config = SMALL) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("rotary", places(MAX_PLACES), persistent=False)
        width, bins = config.width, config.mel_bins
        self.t_embedder = TimeEmbedder(width)
        self.cond_projection = nn.Linear(width, width)
        self.cond_x_merge_linear = nn.Linear(2 * bins + width, width)
        self.style_in = nn.Linear(config.style_width, width)
        self.transformer = Transformer(config)
        self.final_mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, bins))

    @property
    def dtype(self) -> torch.dtype:
        return self.cond_x_merge_linear.weight.dtype

    def times(self, t: Tensor) -> Times2:
        """Everything that depends on the times ``t [S]`` in [0, 1] alone."""
        time = self.t_embedder(t)
        blocks, norm = self.transformer.modulation(time)
        return Times2(time[:, None], blocks, norm)

    def conditions(
        self,
        prompt_x: Tensor,
        style: Tensor,
        mu: Tensor,
        lens: Tensor | None = None,
        branches: Sequence[Branch] = ("full",),
    ) -> Conditions2:
        """Everything that depends on the conditions alone.

        prompt_x: ``[B, C, T]``, prompt mel, zero after the prompt. style: ``[B, 192]``. mu: ``[B, T, D]``, the length
        regulator's output. lens: int64 ``[B]``, valid frames, each at least 1; None: all ``T``. branches: in the order
        of their rows; ``len(branches) B`` rows in all.
        """
        bins = self.config.mel_bins
        weight, bias = self.cond_x_merge_linear.weight, self.cond_x_merge_linear.bias
        content = F.linear(self.cond_projection(mu.to(self.dtype)), weight[:, 2 * bins :], bias)
        token = self.style_in(style.to(self.dtype))[:, None]
        frames, tokens = [], []
        for branch in branches:
            if branch == "full":
                frames.append(content + F.linear(prompt_x.to(self.dtype).transpose(1, 2), weight[:, bins : 2 * bins]))
            elif branch == "text":
                frames.append(content)
            else:  # a zero condition still passes the biases of its projections
                null = F.linear(self.cond_projection.bias, weight[:, 2 * bins :], bias)
                frames.append(null.expand_as(content))
            tokens.append(token if branch == "full" else self.style_in.bias.expand_as(token))
        total = TOKENS + mu.shape[1]
        positions = torch.arange(total, device=mu.device)
        rotary = self.rotary[:total] if total <= len(self.rotary) else rounded_table(positions)
        mask = None
        if lens is not None:
            mask = (positions < lens.repeat(len(branches))[:, None] + TOKENS)[:, None, None]
        return Conditions2(torch.cat(frames), torch.cat(tokens), rotary, mask)

    def velocity(self, x: Tensor, times: Times2, conditions: Conditions2) -> Tensor:
        """x: noisy mel ``[B, C, T]``. Returns ``[R, C, T]`` in the type of ``x``: rows of ``conditions`` are ``B``, or
        a multiple of it that shares ``x``. Frames beyond an item's length are meaningless."""
        frames = x.to(self.dtype).transpose(1, 2)
        branches = conditions.frames.shape[0] // x.shape[0]
        merged = F.linear(frames, self.cond_x_merge_linear.weight[:, : self.config.mel_bins])
        hidden = merged.repeat(branches, 1, 1) + conditions.frames
        time_token = times.token.expand_as(conditions.style_token)
        hidden = torch.cat([time_token, conditions.style_token, hidden], dim=1)
        hidden = self.transformer(hidden, times, conditions.rotary, conditions.key_mask)
        out: Tensor = self.final_mlp(hidden[:, TOKENS:]).transpose(1, 2)
        return out.to(x.dtype)

    def forward(self, x: Tensor, prompt_x: Tensor, lens: Tensor | None, t: Tensor, style: Tensor, mu: Tensor) -> Tensor:
        """One evaluation with a time an item, ``t [B]``; the other shapes as in ``conditions`` and ``velocity``."""
        return self.velocity(x, self.times(t), self.conditions(prompt_x, style, mu, lens))


IGNORE = (
    r"(^|\.)(freqs_cis|causal_mask|input_pos)$",
    r"^(x_embedder|skip_linear|content_mask_embedder)\.",
)
CFM_V2 = PublishedNetwork(
    "cfm_v2", files.layout("v2", "cfm", ("estimator.",), ignore=IGNORE), DiT2, DiT2Config.from_shapes
)
