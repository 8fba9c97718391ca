"""The velocity estimator of Seed-VC: a diffusion transformer with U-Net skips over mel frames.

    x | prompt | condition (| style)  ->  merge  ->  [time, style,] frames  ->  N blocks  ->  head  ->  velocity

Peebles & Xie, "Scalable Diffusion Models with Transformers" (2022), for the time conditioning; Bao et al., "All are
Worth Words: A ViT Backbone for Diffusion Models" (2022), for the skips.

What depends only on the time (``Times``) or only on the conditions (``Conditions``) is computed apart from
``velocity``, so a solver pays for it once and not at every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.seedvc import files
from worker.models.seedvc.layers import (
    HEAD_WIDTH,
    AdaptiveNorm,
    Attention,
    FeedForward,
    PlainNorm,
    TimeEmbedder,
    add_normalise,
    normalise,
    rotary_table,
)
from worker.models.seedvc.wavenet import WaveNetHead
from worker.models.weights.published import PublishedNetwork, as_published


@dataclass(frozen=True, slots=True)
class DiTConfig:
    """Sizes of one estimator.

    ``tokens``: time and style enter as two tokens in front of the frames, and blocks have plain norms; otherwise the
    style is merged into every frame and the time scales every norm. ``wavenet``: long skip and WaveNet head instead of
    the two-layer head.
    """

    mel_bins: int
    width: int
    depth: int
    tokens: bool
    wavenet: bool
    style_width: int = 192

    @property
    def heads(self) -> int:
        return self.width // HEAD_WIDTH

    @property
    def token_count(self) -> int:
        return 2 if self.tokens else 0

    @property
    def ffn_width(self) -> int:
        return math.ceil(int(8 * self.width / 3) / 256) * 256

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> DiTConfig:
        """The configuration a checkpoint was made with, read off its shapes (names without ``estimator.``)."""
        width = shapes["cond_x_merge_linear.weight"][0]
        wavenet = "conv2.weight" in shapes
        return cls(
            mel_bins=shapes["conv2.weight" if wavenet else "final_mlp.2.weight"][0],
            width=width,
            depth=sum(name.endswith(".attention.wqkv.weight") for name in shapes),
            tokens="style_in.weight" in shapes,
            wavenet=wavenet,
        )


TINY = DiTConfig(mel_bins=80, width=384, depth=9, tokens=True, wavenet=False)
SMALL = DiTConfig(mel_bins=80, width=512, depth=13, tokens=False, wavenet=True)
BASE = DiTConfig(mel_bins=128, width=768, depth=17, tokens=False, wavenet=False)


@dataclass(frozen=True, slots=True)
class Times:
    """What the network derives from ``S`` times alone. A row broadcasts over a batch that shares its time."""

    token: Tensor  # [S, 1, D]
    blocks: Tensor | None  # [S, depth, 2, 2, 1, D]: attention or ffn norm, gain or bias; None where blocks ignore time
    norm: Tensor  # [S, 2, 1, D]
    head: tuple[Tensor, ...]  # the head's own, each [S, ...]

    def at(self, step: int) -> Times:
        """Row ``step`` alone, with its leading axis."""
        row = slice(step, step + 1)
        blocks = None if self.blocks is None else self.blocks[row]
        head = tuple(part[row] for part in self.head)
        return Times(self.token[row], blocks, self.norm[row], head)

    def rows(self, index: Tensor) -> Times:
        """Rows ``index [R]``: a time for each row of a batch."""
        blocks = None if self.blocks is None else self.blocks[index]
        head = tuple(part[index] for part in self.head)
        return Times(self.token[index], blocks, self.norm[index], head)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the network derives from prompt, content and style alone, for ``R`` rows of ``T`` frames."""

    frames: Tensor  # [R, T, D], the merge of everything but the noisy mel
    style_token: Tensor | None  # [R, 1, D]
    rotary: Tensor  # [tokens + T, 32, 2], cosine and sine
    lens: Tensor | None  # int64 [R], valid frames; None: all T
    key_mask: Tensor | None  # bool [R, 1, 1, tokens + T]


class Block(nn.Module):
    """Pre-norm attention and feed-forward. ``takes_skip``: it starts by merging an earlier block's output."""

    def __init__(self, config: DiTConfig, takes_skip: bool) -> None:
        super().__init__()
        norm = PlainNorm if config.tokens else AdaptiveNorm
        self.attention_norm = norm(config.width)
        self.attention = Attention(config.width)
        self.ffn_norm = norm(config.width)
        self.feed_forward = FeedForward(config.width, config.ffn_width)
        self.skip_in_linear = nn.Linear(2 * config.width, config.width) if takes_skip else None

    def modulation(self, time: Tensor) -> Tensor:
        """Gains and biases of both norms, ``[S, 2, 2, 1, D]``. Adaptive norms only."""
        assert isinstance(self.attention_norm, AdaptiveNorm)
        assert isinstance(self.ffn_norm, AdaptiveNorm)
        return torch.stack([self.attention_norm.modulation(time), self.ffn_norm.modulation(time)], dim=1)

    def forward(
        self, x: Tensor, skip: Tensor | None, modulation: Tensor | None, rotary: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        if self.skip_in_linear is not None:
            assert skip is not None
            x = self.skip_in_linear(torch.cat([x, skip], dim=-1))
        if modulation is None:
            made = self.attention(self.attention_norm(x), rotary, key_mask)
            x, y = add_normalise(x, made, None, self.ffn_norm.norm.weight)
        else:
            attention_norm, ffn_norm = modulation.unbind(1)
            made = self.attention(normalise(x, *attention_norm.unbind(1)), rotary, key_mask)
            x, y = add_normalise(x, made, None, *ffn_norm.unbind(1))
        return x + self.feed_forward(y)


class Transformer(nn.Module):
    """Blocks in the shape of a U: the first half keeps its outputs, the second half takes them, last in, first out."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.middle = config.depth // 2
        self.layers = nn.ModuleList(Block(config, takes_skip=i > self.middle) for i in range(config.depth))
        self.norm = AdaptiveNorm(config.width)

    def modulation(self, time: Tensor) -> Tensor:
        """time: ``[S, D]``. Returns ``Times.blocks``."""
        blocks = [block for block in self.layers if isinstance(block, Block)]
        return torch.stack([block.modulation(time) for block in blocks], dim=1)

    def forward(self, x: Tensor, times: Times, rotary: Tensor, key_mask: Tensor | None) -> Tensor:
        skips: list[Tensor] = []
        for i, block in enumerate(self.layers):
            skip = skips.pop() if i > self.middle else None
            x = block(x, skip, None if times.blocks is None else times.blocks[:, i], rotary, key_mask)
            if i < self.middle:
                skips.append(x)
        return normalise(x, *times.norm.unbind(1))


class MlpHead(nn.Module):
    """Two layers a frame."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.final_mlp = nn.Sequential(
            nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.mel_bins)
        )

    def modulation(self, t: Tensor, time: Tensor) -> tuple[Tensor, ...]:
        return ()

    def forward(self, hidden: Tensor, x: Tensor, lens: Tensor | None) -> Tensor:
        out: Tensor = self.final_mlp(hidden)
        return out.transpose(1, 2)


class WaveNetOutput(nn.Module):
    """Long skip from the noisy mel, then the WaveNet head with its own time embedding."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.skip_linear = nn.Linear(config.width + config.mel_bins, config.width)
        self.t_embedder2 = TimeEmbedder(config.width)
        self.head = WaveNetHead(config.width, config.mel_bins)

    def modulation(self, t: Tensor, time: Tensor) -> tuple[Tensor, ...]:
        return self.head.modulation(time, self.t_embedder2(t))

    def forward(self, hidden: Tensor, x: Tensor, lens: Tensor | None, layers: Tensor, final: Tensor) -> Tensor:
        rows = hidden.shape[0] // x.shape[0]
        hidden = self.skip_linear(torch.cat([hidden, x.repeat(rows, 1, 1)], dim=-1))
        out: Tensor = self.head(hidden, lens, layers, final)
        return out


class DiT(nn.Module):
    """Velocity of the flow at a noisy mel, a time and the conditions."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width, bins = config.width, config.mel_bins
        merged = 2 * bins + width + (0 if config.tokens else config.style_width)
        self.t_embedder = TimeEmbedder(width)
        self.cond_projection = nn.Linear(width, width)
        self.cond_x_merge_linear = nn.Linear(merged, width)
        self.style_in = nn.Linear(config.style_width, width) if config.tokens else None
        self.transformer = Transformer(config)
        self.output = WaveNetOutput(config) if config.wavenet else MlpHead(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.cond_x_merge_linear.weight.dtype

    def times(self, t: Tensor) -> Times:
        """Everything that depends on the times ``t [S]`` in [0, 1] alone."""
        time = self.t_embedder(t)
        blocks = None
        if not self.config.tokens:
            blocks = self.transformer.modulation(time)
        norm, head = self.transformer.norm.modulation(time), self.output.modulation(t, time)
        return Times(time[:, None], blocks, norm, head)

    def conditions(
        self, prompt_x: Tensor, style: Tensor, mu: Tensor, lens: Tensor | None = None, *, with_null: bool = False
    ) -> Conditions:
        """Everything that depends on the conditions alone.

        prompt_x: ``[B, C, T]``, prompt mel, zero after the prompt. style: ``[B, 192]``. mu: ``[B, T, D]``, the length
        regulator's output. lens: int64 ``[B]``, valid frames, each at least 1; None: all ``T``. with_null: append the
        rows of the unconditional branch (all three zero), so ``2 B`` rows in all.
        """
        length = mu.shape[1]
        parts = [prompt_x.to(self.dtype).transpose(1, 2), self.cond_projection(mu.to(self.dtype))]
        if self.style_in is None:
            parts.append(style.to(self.dtype)[:, None].expand(-1, length, -1))
        bins = self.config.mel_bins
        weight, bias = self.cond_x_merge_linear.weight[:, bins:], self.cond_x_merge_linear.bias
        frames = F.linear(torch.cat(parts, dim=-1), weight, bias)
        token = None if self.style_in is None else self.style_in(style.to(self.dtype))[:, None]
        if with_null:
            # A zero condition still passes the biases of its projections.
            null = F.linear(self.cond_projection.bias, weight[:, bins : bins + self.config.width], bias)
            frames = torch.cat([frames, null.expand_as(frames)])
            if token is not None and self.style_in is not None:
                token = torch.cat([token, self.style_in.bias.expand_as(token)])
            lens = None if lens is None else lens.repeat(2)
        total = self.config.token_count + length
        rotary = rotary_table(total, mu.device)
        mask = None
        if lens is not None:
            mask = (torch.arange(total, device=mu.device) < lens[:, None] + self.config.token_count)[:, None, None]
        return Conditions(frames, token, rotary, lens, mask)

    def velocity(self, x: Tensor, times: Times, conditions: Conditions) -> Tensor:
        """x: noisy mel ``[B, C, T]``. Returns ``[R, C, T]`` in the type of ``x``: rows of ``conditions`` are ``B``, or
        a multiple of it that shares ``x``. Frames beyond an item's length are meaningless."""
        frames = x.to(self.dtype).transpose(1, 2)
        rows = conditions.frames.shape[0] // x.shape[0]
        merged = F.linear(frames, self.cond_x_merge_linear.weight[:, : self.config.mel_bins])
        hidden = merged.repeat(rows, 1, 1) + conditions.frames
        if conditions.style_token is not None:
            time_token = times.token.expand_as(conditions.style_token)
            hidden = torch.cat([time_token, conditions.style_token, hidden], dim=1)
        hidden = self.transformer(hidden, times, conditions.rotary, conditions.key_mask)
        hidden = hidden[:, self.config.token_count :]
        out: Tensor = self.output(hidden, frames, conditions.lens, *times.head)
        return out.to(x.dtype)

    def forward(self, x: Tensor, prompt_x: Tensor, lens: Tensor | None, t: Tensor, style: Tensor, mu: Tensor) -> Tensor:
        """One evaluation with a time an item, ``t [B]``; the other shapes as in ``conditions`` and ``velocity``."""
        return self.velocity(x, self.times(t), self.conditions(prompt_x, style, mu, lens))


RENAME = (
    (r"\.conv\.conv\.", "."),
    (r"^(wavenet|conv1|conv2|res_projection|final_layer)\.", r"output.head.\1."),
    (r"^(final_mlp|skip_linear|t_embedder2)\.", r"output.\1."),
)
IGNORE = (
    r"^input_pos$",
    r"\.freqs$",
    r"^(x_embedder|cond_embedder|content_mask_embedder|skip_linear)\.",
    r"\.skip_in_linear\.",
    r"^transformer\.layers\.\d+\.(attention|ffn)_norm\.project_layer\.",
)


def published(size: str | None) -> PublishedNetwork:
    """The transformer of a published model; None: of a fine-tuned one, its sizes read off the file's shapes."""
    layout = files.layout(size, "cfm", ("estimator.",), RENAME, IGNORE)
    config = DiTConfig.from_shapes if size is None else as_published({"tiny": TINY, "small": SMALL, "base": BASE}[size])
    return PublishedNetwork("cfm" if size is None else f"cfm_{size}", layout, DiT, config)
