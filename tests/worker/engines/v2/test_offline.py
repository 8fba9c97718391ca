"""Long recordings through V2: every code at its own place, any length of conditions, windows that join."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from shared.config import ROOT
from worker.engines.diffusion.offline import OVERLAP_FRAMES
from worker.engines.v2.listening import EDGE_UNITS, PIECE_UNITS, pieces_of
from worker.engines.v2.offline import cut
from worker.engines.v2.track import Segment, Track
from worker.models.seedvc2.hubert import frame_count
from worker.models.seedvc2.regulator import CodeRegulator, CodeRegulatorConfig
from worker.recordings import Recording

SAMPLE = ROOT / "worker/assets/samples/sample.flac"


@pytest.fixture
def regulator() -> CodeRegulator:
    torch.manual_seed(1)
    network = CodeRegulator(CodeRegulatorConfig(codes=32, width=24)).eval().requires_grad_(False)
    for name, value in network.state_dict().items():
        if name.endswith((".weight", ".bias")) and value.dim() == 1:
            value.add_(torch.randn_like(value) * 0.2)
    return network


@pytest.mark.parametrize("seconds", [0.01, 4.0, 30.0, 30.02, 30.03, 61.7])
def test_a_recording_has_a_code_for_every_20_ms(tmp_path: Path, seconds: float) -> None:
    wave, rate = soundfile.read(SAMPLE)
    samples = int(seconds * rate)
    soundfile.write(tmp_path / "long.wav", np.resize(wave, samples), rate, subtype="FLOAT")
    heard, taken = [], 0
    for piece in pieces_of(0, Recording(tmp_path / "long.wav")):
        codes = int(frame_count(torch.tensor(max(len(piece.wave), 400))))
        end = codes if piece.end is None else piece.end
        heard.append(piece.wave[320 * piece.begin : None if piece.end is None else 320 * end])
        taken += end - piece.begin
        assert len(piece.wave) <= PIECE_UNITS * 320 + 400
        assert piece.begin in (0, EDGE_UNITS)
    assert taken == int(frame_count(torch.tensor(max(samples, 400))))
    np.testing.assert_allclose(np.concatenate(heard), np.resize(wave, samples), atol=1e-6)


def test_conditions_of_any_length_equal_those_of_the_whole(regulator: CodeRegulator) -> None:
    segments = [Segment(torch.randint(32, (300,)), 517), Segment(torch.randint(32, (40,)), 70)]
    whole, pieces = Track(regulator, segments), Track(regulator, segments, whole_frames=64)
    expected = torch.cat([regulator(segment.codes[None], segment.frames)[0] for segment in segments])
    assert whole.frames == pieces.frames == 587
    for begin, end in ((0, 200), (184, 400), (384, 587), (510, 520)):
        torch.testing.assert_close(whole.condition(begin, end), expected[begin:end])
        torch.testing.assert_close(pieces.condition(begin, end), expected[begin:end], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("total", "width"), [(10, 100), (100, 100), (101, 100), (184, 100), (185, 100), (1000, 64)])
def test_windows(total: int, width: int) -> None:
    windows = cut(total, width)
    assert windows[0][0] == 0
    assert windows[-1][1] == total
    assert all(end - begin <= width for begin, end in windows)
    assert all(later[0] == earlier[1] - OVERLAP_FRAMES for earlier, later in pairwise(windows))
