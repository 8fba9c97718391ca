"""What the names of precisions mean."""

from __future__ import annotations

import pytest
import torch

from worker.precision import AUTO, PRECISIONS, precision_of


def test_a_name_means_what_it_says():
    for name, precision in PRECISIONS.items():
        assert precision_of(name, "nano", "cpu") == precision


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_half_for_the_bundled_model_where_a_cpu_multiplies_it(native: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert precision_of(AUTO, "nano", "cpu") == (torch.bfloat16 if native else torch.float32)
    assert precision_of(AUTO, "tiny", "cpu") == torch.float32
    assert precision_of(AUTO, "nano", "cuda:0") == torch.float32
