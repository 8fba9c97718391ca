"""A solver call can be captured as a CUDA graph; `test_capturable` holds on any machine what that asks for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.models.seedvc import dit, flow

CONFIGS = {
    "tokens": dit.DiTConfig(mel_bins=8, width=128, depth=3, tokens=True, wavenet=False),
    "wavenet": dit.DiTConfig(mel_bins=8, width=128, depth=3, tokens=False, wavenet=True),
}


def inputs() -> list[Tensor]:
    torch.manual_seed(1)
    return [
        torch.randn(2, 8, 24),
        torch.randn(2, 24, 128),
        torch.randn(2, 8, 6),
        torch.randn(2, 192),
        torch.tensor([24, 19]),
        torch.tensor([6, 3]),
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_captured_call_equals_an_eager_one(kind: str) -> None:
    solve = flow.FlowSolver(dit.DiT(CONFIGS[kind]).eval().cuda(), steps=2)
    static = [tensor.cuda() for tensor in inputs()]
    warm = torch.cuda.Stream()
    with torch.cuda.stream(warm):
        for _ in range(2):
            solve(*static)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = solve(*static)
    fresh = [tensor.flip(0) for tensor in static]
    for tensor, value in zip(static, fresh, strict=True):
        tensor.copy_(value)
    graph.replay()
    torch.testing.assert_close(captured, solve(*fresh), atol=1e-4, rtol=1e-4)
