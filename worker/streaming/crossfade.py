"""One block joined to the next."""

from __future__ import annotations

import torch

from worker.geometry import Geometry


def sola(made: torch.Tensor, tail: torch.Tensor, geometry: Geometry) -> tuple[torch.Tensor, torch.Tensor]:
    """Join new sound ``made [B, engine_samples]`` to ``tail [B, crossfade_samples]``, the end of what was emitted.

    Synchronised overlap-add as in Seed-VC's real-time converter: the offset within the search range at which the new
    sound correlates best with the tail (normalised by the new sound's energy), a sin^2 crossfade there, one block out.
    Returns the block ``[B, block_samples_out]`` and the next tail. Where the tail or the new sound is silent the offset
    is 0.
    """
    length, search = geometry.crossfade_samples, geometry.search_samples
    head = made[:, : length + search]
    products = torch.nn.functional.conv1d(head[None], tail[:, None], groups=len(tail))[0]
    energy = torch.nn.functional.avg_pool1d(head.square()[:, None], length, 1)[:, 0] * length
    score = products / (energy + 1e-8).sqrt()
    offset = torch.where(score.amax(dim=1) > 0, score.argmax(dim=1), 0)
    block = geometry.block_samples_out
    at = offset[:, None] + torch.arange(block + length, device=made.device)
    joined = made.gather(1, at)
    fade_in = torch.sin(torch.linspace(0, 1, length, device=made.device) * (torch.pi / 2)).square()
    joined[:, :length] = joined[:, :length] * fade_in + tail * (1 - fade_in)
    return joined[:, :block], joined[:, block:].clone()
