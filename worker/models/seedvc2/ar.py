"""The style path's next-token model: from narrow codes of what is said to wide codes of how the reference says it.

    [S, narrow codes, S, wide codes of the reference, generated codes ...]       S: the separator

Grouped key heads (Ainslie et al., "GQA", 2023), rotary positions that start anew at each separator, RMS norms. Items of
unequal lengths share a batch: each has its own place in the cache, and padding lies where a later token overwrites it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.seedvc import files
from worker.models.seedvc.layers import HEAD_WIDTH, FeedForward, RMSNorm
from worker.models.seedvc2.rotary import places
from worker.models.weights.published import PublishedNetwork, as_published

MAX_PLACES = 4096  # of a sequence: as many positions as the published model has


@dataclass(frozen=True, slots=True)
class ArConfig:
    codes: int = 2048
    width: int = 768
    depth: int = 12
    heads: int = 12
    key_heads: int = 2
    inner: int = 2304

    @property
    def end(self) -> int:
        """The token that ends a sequence."""
        return self.codes


BASE = ArConfig()


@dataclass(slots=True)
class Cache:
    """Keys and values of ``B`` sequences, and how long each is."""

    keys: Tensor  # [depth, B, key_heads, L, HEAD_WIDTH]
    values: Tensor
    lens: Tensor  # int64 [B]
    positions: Tensor  # int64 [B], of the token to come
    filled: int  # places in use by the longest: nothing beyond is read

    def rows(self, index: Tensor) -> Cache:
        """Some of the sequences."""
        return Cache(self.keys[:, index], self.values[:, index], self.lens[index], self.positions[index], self.filled)


class GroupedAttention(nn.Module):
    def __init__(self, config: ArConfig) -> None:
        super().__init__()
        self.heads, self.key_heads = config.heads, config.key_heads
        self.wqkv = nn.Linear(config.width, (config.heads + 2 * config.key_heads) * HEAD_WIDTH, bias=False)
        self.wo = nn.Linear(config.heads * HEAD_WIDTH, config.width, bias=False)

    def forward(self, x: Tensor, rotary: Tensor, keys: Tensor, values: Tensor, at: Tensor, mask: Tensor) -> Tensor:
        """x: ``[B, N, D]``. rotary: ``[B, N, 32, 2]``. keys, values: the layer's cache, written at places ``at``, int64
        ``[B, N]``. mask: bool ``[B, 1, N, filled]``, places a token sees."""
        qkv = self.wqkv(x).unflatten(-1, (-1, HEAD_WIDTH))
        q, k, v = qkv.split([self.heads, self.key_heads, self.key_heads], dim=2)
        index = at[:, None, :, None].expand(-1, self.key_heads, -1, HEAD_WIDTH)
        keys.scatter_(2, index, rotate_rows(k, rotary).transpose(1, 2))
        values.scatter_(2, index, v.transpose(1, 2))
        keys, values = keys[:, :, : mask.shape[-1]], values[:, :, : mask.shape[-1]]
        group = self.heads // self.key_heads
        y = F.scaled_dot_product_attention(
            rotate_rows(q, rotary).transpose(1, 2),
            keys.repeat_interleave(group, dim=1),
            values.repeat_interleave(group, dim=1),
            attn_mask=mask,
        )
        out: Tensor = self.wo(y.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    def __init__(self, config: ArConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = GroupedAttention(config)
        self.ffn_norm = RMSNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.inner)

    def forward(self, x: Tensor, rotary: Tensor, keys: Tensor, values: Tensor, at: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary, keys, values, at, mask)
        out: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return out


class ArModel(nn.Module):
    rotary: Tensor

    def __init__(self, config: ArConfig = BASE) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("rotary", places(MAX_PLACES), persistent=False)
        self.sep_token_emb = nn.Parameter(torch.zeros(config.width))
        self.embeddings = nn.Embedding(config.codes + 1, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width)
        self.output = nn.Linear(config.width, config.codes + 1, bias=False)  # not tied to the embeddings

    def prefill(self, conditions: list[Tensor], prompts: list[Tensor], room: int) -> tuple[Tensor, Cache]:
        """Read the conditions (each ``[n, D]``, embedded narrow codes) and prompts (each int64 ``[m]``, wide codes).

        room: tokens that may be generated. Returns logits of the first token, float32 ``[B, codes + 1]``. Raises
        ``ValueError`` if a sequence would not fit into ``MAX_PLACES``.
        """
        config, device = self.config, self.sep_token_emb.device
        sizes = [len(condition) + len(prompt) + 2 for condition, prompt in zip(conditions, prompts, strict=True)]
        longest = max(sizes)
        if longest + room > MAX_PLACES:
            raise ValueError(f"{longest} places and {room} to come exceed the model's {MAX_PLACES}")
        x = torch.zeros(len(sizes), longest, config.width, device=device, dtype=self.output.weight.dtype)
        positions = torch.zeros(len(sizes), longest, dtype=torch.int64, device=device)
        for row, (condition, prompt) in enumerate(zip(conditions, prompts, strict=True)):
            n, size = len(condition), sizes[row]
            x[row, 0] = x[row, n + 1] = self.sep_token_emb
            x[row, 1 : n + 1] = condition.to(x.dtype)
            x[row, n + 2 : size] = self.embeddings(prompt.to(device))
            positions[row, : n + 1] = torch.arange(n + 1, device=device)
            positions[row, n + 1 : size] = torch.arange(len(prompt) + 1, device=device)
        shape = (config.depth, len(sizes), config.key_heads, longest + room, HEAD_WIDTH)
        keys, values = x.new_zeros(shape), x.new_zeros(shape)
        at = torch.arange(longest, device=device).expand(len(sizes), -1)
        seen = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()  # padding lies behind every token
        hidden = self._layers(x, positions, keys, values, at, seen[None, None])
        lens = torch.tensor(sizes, device=device)
        last = hidden.gather(1, (lens - 1)[:, None, None].expand(-1, 1, config.width))[:, 0]
        next_positions = torch.tensor([len(prompt) + 1 for prompt in prompts], device=device)
        return self._logits(last), Cache(keys, values, lens, next_positions, longest)

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """One more token of each sequence, int64 ``[B]``: logits of the next. Advances ``cache``."""
        at = cache.lens[:, None]
        cache.filled += 1
        seen = torch.arange(cache.filled, device=tokens.device) <= at
        x = self.embeddings(tokens[:, None])
        hidden = self._layers(x, cache.positions[:, None], cache.keys, cache.values, at, seen[:, None, None])
        cache.lens = cache.lens + 1
        cache.positions = cache.positions + 1
        return self._logits(hidden[:, 0])

    def _layers(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, at: Tensor, mask: Tensor) -> Tensor:
        rotary = self.rotary[positions]
        for i, block in enumerate(self.layers):
            x = block(x, rotary, keys[i], values[i], at, mask)
        return x

    def _logits(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.output(self.norm(hidden))
        return out.float()


def rotate_rows(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the interleaved pairs of ``x [B, N, heads, 64]`` by each row's own ``table [B, N, 32, 2]``, in float32."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table[:, :, None].unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x.dtype)


RENAME = ((r"^model\.", ""),)
IGNORE = (r"(^|\.)(freqs_cis|causal_mask|k_cache|v_cache)$", r"^codebook_", r"^style_in\.", r"^model\.codebook_")
AR_V2 = PublishedNetwork(
    "ar_v2", files.layout("ar_v2", "ar", rename=RENAME, ignore=IGNORE), ArModel, as_published(BASE)
)
