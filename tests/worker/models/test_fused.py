"""Fused kernels, run by Triton's interpreter on a CPU: each against the plain operations, and the networks with them
against the networks without. What happens where they do not work."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any

import pytest
import torch

from tests.support.forked import run
from worker.models import fused


def _interpret() -> None:
    """In a process whose Triton is not yet imported, but for what is compiled of it."""
    for name in [name for name in sys.modules if name.startswith("triton") and not name.startswith("triton._C")]:
        del sys.modules[name]
    import_module("tests.support.interpreted").main()


@pytest.fixture(scope="module")
def errors() -> Any:
    pytest.importorskip("triton")
    done = run(_interpret, environ=os.environ | {"TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_kernels", None)
    monkeypatch.setattr(fused, "_decided", False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernels_equal_the_plain_operations(errors: Any, dtype: str) -> None:
    assert errors["kernels"][dtype] < max(2e-6, 4 * torch.finfo(getattr(torch, dtype)).eps)


@pytest.mark.parametrize("name", ["tokens", "adaptive", "wavenet", "six_way", "bigvgan", "hift"])
def test_networks_equal_themselves_without(errors: Any, name: str) -> None:
    assert errors["asked"][name] > 3
    assert errors["networks"][name] < 2e-5


@pytest.mark.usefixtures("undecided")
def test_what_does_not_work_leaves_the_plain_operations_and_one_line(
    monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    monkeypatch.setattr(fused, "_largest_error", lambda device, dtype: 0.5)
    for _ in range(2):
        fused.try_out(torch.device("cuda"), torch.bfloat16)
    assert fused._kernels is None
    assert len(log) == 1
    assert "fused kernels do not work here" in log[0]


@pytest.mark.usefixtures("undecided")
def test_a_cpu_needs_none() -> None:
    fused.try_out(torch.device("cpu"), torch.float32)
    assert not fused._decided
    assert not fused.usable(torch.zeros(1))
