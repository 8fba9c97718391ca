"""The measure of settled codes, with networks of reduced size."""

from __future__ import annotations

import torch

from tests.support.reduced import published_entries, reduced_v2
from tools.quality.evaluate_codes import measure
from worker.geometry import Geometry
from worker.models.seedvc2.astral import ASTRAL_WIDE, Astral
from worker.models.seedvc2.hubert import HUBERT, Hubert
from worker.models.weights.checkpoints import assemble


def test_what_is_settled_is_held_to_the_whole() -> None:
    spec = reduced_v2()
    hubert = assemble(HUBERT, published_entries(HUBERT, spec.content), spec.content)
    wide = assemble(ASTRAL_WIDE, published_entries(ASTRAL_WIDE, spec.wide), spec.wide)
    assert isinstance(hubert, Hubert)
    assert isinstance(wide, Astral)
    wave = torch.randn(5 * 16_000, generator=torch.Generator().manual_seed(1)) * 0.1
    geometry = Geometry.from_ms(block_ms=240, left_ms=1200, right_ms=240)
    result = measure(hubert, wide, wave, geometry)
    assert result.settled == 12 * len(range(0, 250 - geometry.window_units + 1, 12))
    assert 0 < result.equal < 1  # another context is another code, here and there
    assert result.equal <= result.equal_by_quantiser <= 1
    for block in wide.blocks:
        block.grn.gamma.zero_()  # then nothing spans the window, and the convolutions reach less far than its right
    assert measure(hubert, wide, wave, geometry).equal_by_quantiser == 1
