"""What comes out is as loud as what went in: formulas against plain loops, and the rules of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from worker.geometry import UNIT_SAMPLES
from worker.loudness import follow, rms_mix

UNITS = 28  # as of a block of 500 ms


def level_db(wave: Any) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(np.square(np.asarray(wave)))) + 1e-12))


def noise(units: int, db: float, seed: int = 0, rate: int = 16_000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, units * rate // 50, generator=generator) * 10 ** (db / 20)


def test_rms_mix_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    heard = rng.normal(0, 0.1, (3, 12 * UNIT_SAMPLES)).astype(np.float32)
    made = rng.normal(0, 0.02, heard.shape).astype(np.float32)
    mixed = rms_mix(torch.from_numpy(heard), torch.from_numpy(made), rate=0.3).numpy()

    def track(wave: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rms = [np.sqrt(np.mean(wave[i : i + 1280] ** 2)) for i in range(0, len(wave) - 1279, 320)]
        return np.interp(np.linspace(0, len(rms) - 1, len(wave) + 1), np.arange(len(rms)), rms)[:-1]

    for row in range(3):
        gain = (track(heard[row]) / np.maximum(track(made[row]), 1e-3)) ** 0.7
        np.testing.assert_allclose(mixed[row], made[row] * gain, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
@pytest.mark.parametrize("heard_db", [-50.0, -28.0, -12.0])
def test_the_level_is_the_callers_whatever_the_model_makes(rate: int, heard_db: float) -> None:
    out = follow(noise(UNITS, heard_db), noise(UNITS, -22.0, seed=1, rate=rate))
    assert level_db(out) == pytest.approx(heard_db, abs=0.7)


def test_a_quieter_talker_stays_quieter() -> None:
    heard = torch.cat([noise(40, -20), noise(40, -48, seed=1)], dim=1)
    made = torch.cat([noise(40, -22, seed=2), noise(40, -28, seed=3)], dim=1)
    out = follow(heard, made)
    first, second = (level_db(out[:, at * UNIT_SAMPLES :][:, : 25 * UNIT_SAMPLES]) for at in (0, 55))
    assert first - second == pytest.approx(28, abs=1.5)


def test_the_gain_has_a_floor_and_a_ceiling() -> None:
    assert level_db(follow(noise(UNITS, -80), noise(UNITS, -20, seed=1))) == pytest.approx(-60, abs=0.5)
    assert level_db(follow(noise(UNITS, -20), noise(UNITS, -70, seed=1))) == pytest.approx(-58, abs=0.5)


def test_digital_silence_stays_silent_and_no_word_loses_its_end() -> None:
    heard = noise(60, -20)
    heard[:, 20 * UNIT_SAMPLES : 40 * UNIT_SAMPLES] = 0
    made = noise(60, -22, seed=1)
    out = follow(heard, made)
    assert not out[:, 23 * UNIT_SAMPLES : 37 * UNIT_SAMPLES].any()
    for at in (15, 20, 39):
        assert level_db(out[:, at * UNIT_SAMPLES :][:, :UNIT_SAMPLES]) > -35
    assert not follow(torch.zeros_like(heard), made).any()


def test_peaks_fit() -> None:
    out = follow(noise(UNITS, -3), noise(UNITS, -20, seed=1))
    assert float(out.abs().max()) <= 0.981


def test_a_row_does_not_notice_its_neighbours() -> None:
    heard = torch.cat([noise(UNITS, db, seed) for seed, db in enumerate((-20, -60, -3))])
    made = torch.cat([noise(UNITS, -22, seed + 9) for seed in range(3)])
    for row in range(3):
        alone = follow(heard[row : row + 1], made[row : row + 1])
        torch.testing.assert_close(follow(heard, made)[row : row + 1], alone)
