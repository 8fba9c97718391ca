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
