"""Names of the precisions that networks may run in."""

from __future__ import annotations

from collections.abc import Mapping

import torch

PRECISIONS: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
}
AUTO = "auto"


def precision_of(name: str, model: str, device: str) -> torch.dtype:
    """What a name means; ``AUTO``: bfloat16 for the bundled model where a CPU multiplies it natively, else float32."""
    if name != AUTO:
        return PRECISIONS[name]
    native = device == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native and model == "nano" else torch.float32
