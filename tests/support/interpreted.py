"""Runs the fused kernels in Triton's interpreter, which must be chosen before Triton is imported: in a process of its
own. Prints how far each kernel and each network with them is from the plain operations, as JSON."""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor

from worker.models import fused
from worker.models.published import bigvgan, hift
from worker.models.seedvc import dit, wavenet
from worker.models.seedvc2 import dit as dit2

DTYPES = (torch.float32, torch.bfloat16)
wavenet.LAYERS = 4  # one with what comes in, two between, one that only leaves: the interpreter takes long


def networks() -> dict[str, tuple[torch.nn.Module, list[Tensor]]]:
    """Small ones of every form that has kernels, and what they are given."""
    torch.manual_seed(0)
    mel, times, lens = torch.randn(2, 8, 4), torch.tensor([0.2, 0.7]), torch.tensor([4, 3])
    made: dict[str, tuple[torch.nn.Module, list[Tensor]]] = {
        "hift": (hift.ResidualBlock(2, 3, (1, 3)), [torch.randn(2, 2, 50)]),
        "wavenet": (wavenet.WaveNet(6), [torch.randn(2, 6, 5), torch.tensor([5, 4]), torch.randn(2, 4, 12, 1)]),
        "bigvgan": (bigvgan.ResidualBlock(2, 3, (1, 3)), [torch.randn(1, 2, 50)]),
    }
    for name, network, width in (
        ("tokens", dit.DiT(dit.DiTConfig(8, 64, 2, tokens=True, wavenet=False)), 64),
        ("adaptive", dit.DiT(dit.DiTConfig(8, 192, 2, tokens=False, wavenet=False)), 192),
        ("six_way", dit2.DiT2(dit2.DiT2Config(mel_bins=8, width=128, depth=2, inner=192)), 128),
    ):
        made[name] = network, [mel, mel * 0.3, lens, times, torch.randn(2, 192), torch.randn(2, 4, width)]
    for network, _ in made.values():
        for weight in network.parameters():
            if weight.dim() == 1:
                weight.data += 0.3 * torch.randn_like(weight)
    return made


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    fused.switch(on=True)
    device = torch.device("cpu")
    kernels = {str(dtype).removeprefix("torch."): fused._largest_error(device, dtype) for dtype in DTYPES}
    given = networks()
    plain = {name: network.eval()(*inputs) for name, (network, inputs) in given.items()}
    asked: dict[str, int] = {}
    errors = {}
    for name, (network, inputs) in given.items():

        def usable(x: Tensor, name: str = name) -> bool:
            asked[name] = asked.get(name, 0) + 1
            return True

        fused.usable = usable
        errors[name] = float((network(*inputs) - plain[name]).abs().max() / plain[name].abs().max())
    json.dump({"kernels": kernels, "networks": errors, "asked": asked}, sys.stdout)


if __name__ == "__main__":
    main()
