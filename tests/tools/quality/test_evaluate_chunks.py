"""V2 block by block against the whole, with networks of reduced size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from shared.config import ROOT
from tests.support.reduced import reduced_v2, write_hub
from tools.quality.evaluate_chunks import JUNE, measure
from worker.engines.v2.pipeline import V2Pipeline
from worker.geometry import Geometry
from worker.models.seedvc2.model import SeedVc2
from worker.voices import Voice


def test_errors_stay_within_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    write_hub(tmp_path, reduced_v2())
    pipeline = V2Pipeline(SeedVc2(reduced_v2()).load(tmp_path))
    wave, rate = soundfile.read(ROOT / "worker/assets/samples/sample.flac", dtype="float32")
    geometry = Geometry.from_ms(block_ms=400, left_ms=400, right_ms=80, output_rate=22_050)
    found = measure(
        pipeline, np.ascontiguousarray(wave[rate : 2 * rate + rate // 2]), Voice("june", "", JUNE), geometry, 2
    )
    assert 0 < found.worst_window <= found.bound
    assert found.mel < 0.5 * found.other_noise
    assert found.mel_same_moments <= 1.5 * found.mel
    assert found.lipschitz > 0
