"""Batches of unequal lengths for networks whose every frame depends on where the item ends.

The solver, the regulator and the content encoders take lengths themselves. A vocoder, RMVPE or CAM++ would have to
mask, pad and reflect in each of dozens of layers; streaming never asks for it, so one call a distinct length will do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def by_length(network: Callable[[Tensor], Tensor], x: Tensor, lens: Tensor, dim: int = -1) -> list[Tensor]:
    """Each item's result, without a batch axis, as if it had been run alone.

    network: takes and returns a batch. x: ``[B, ...]`` with time on axis ``dim``. lens: int64 ``[B]``, valid frames of
    ``x``. Items of one length share a call. Reads ``lens`` on the host.
    """
    results: dict[int, Tensor] = {}
    sizes: list[int] = lens.tolist()
    for size in sorted(set(sizes)):
        items = [i for i, other in enumerate(sizes) if other == size]
        out = network(x[torch.tensor(items, device=x.device)].narrow(dim, 0, size))
        results.update(zip(items, out, strict=True))
    return [results[i] for i in range(len(sizes))]
