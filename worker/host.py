"""What torch finds on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device; gigabytes are 1e9 bytes."""

    name: str
    total_gb: float
    free_gb: float
    bf16: bool  # in hardware


@dataclass(frozen=True, slots=True)
class Host:
    """`cuda` is the version that torch was built for; None: without."""

    torch: str
    cuda: str | None
    gpus: list[Gpu]


def describe() -> Host:
    """Versions and devices."""
    found = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    return Host(torch.__version__, torch.version.cuda, [_describe(index) for index in found])


def _describe(index: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(index)
    major, _ = torch.cuda.get_device_capability(index)
    return Gpu(torch.cuda.get_device_name(index), total / 1e9, free / 1e9, major >= 8)
