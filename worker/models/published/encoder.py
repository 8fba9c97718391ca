"""The transformer layer that both content encoders are made of: pre-norm, biased, GELU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, *, key_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=key_bias)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, key_mask: Tensor | None) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
        out: Tensor = self.out_proj(y.transpose(1, 2).flatten(2))
        return out


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, *, key_bias: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, key_bias=key_bias)
        self.ffn_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """x: ``[B, N, width]``. key_mask: bool, broadcast to ``[B, heads, N, N]``, true where a key is seen."""
        x = x + self.attention(self.attention_norm(x), key_mask)
        out: Tensor = x + self.down(F.gelu(self.up(self.ffn_norm(x))))
        return out
