"""Engines moved to a CUDA device that is not there: tensors without values, on which everything but the numbers is as
it would be. What a call does there that a CUDA graph cannot hold is seen on any machine."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique")  # the host must wait for how many there are


@contextmanager
def fake_cuda() -> Any:
    """Tensors made within are fake and may be on ``cuda``."""
    with FakeTensorMode(), torch.inference_mode():
        yield


def moved(value: Any) -> Any:
    """``value`` on the device that is not there: a tensor, a module, or what is made of them. Within `fake_cuda`."""
    if isinstance(value, Tensor):
        return torch.empty(tuple(value.shape), dtype=value.dtype, device="cuda")
    if isinstance(value, nn.Module):
        for module in value.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[name] = nn.Parameter(moved(weight), requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = moved(buffer)
        return value
    if isinstance(value, tuple):
        return tuple(moved(one) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: moved(getattr(value, field.name)) for field in fields(value)})
    return value


def move_attributes(owner: object) -> None:
    """Every tensor that ``owner`` holds."""
    for name, value in vars(owner).items():
        if isinstance(value, Tensor | tuple) or is_dataclass(value):
            setattr(owner, name, moved(value))


class HostWatch(TorchDispatchMode):
    """Notes what waits for the device, or goes between it and the host: neither can be in a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.operations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        name = str(function)
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        self.operations += 1
        on_host = any(tensor.device.type == "cpu" for tensor in tensors) and not name.startswith("prim.")
        if on_host or any(read in name for read in READS):
            frame = next(one for one in reversed(traceback.extract_stack()) if "/worker/" in one.filename)
            self.seen.append(f"{name} at {frame.filename}:{frame.lineno}")
        return out
