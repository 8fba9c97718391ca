"""File conversion with a V2 of reduced size: timbre and style, lengths, seeds, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from tests.support.reduced import reduced_v2, write_hub
from tools.files import v2
from tools.files.convert import main
from worker.engines.v2 import restyle
from worker.models.catalogue import FineTuned
from worker.models.seedvc2.model import SeedVc2, V2Networks

from .conftest import REFERENCE, SAMPLE, hub_alone


class Kept(SeedVc2):
    """Each set of networks is loaded from its files once."""

    def load(self, folder: Path, own: FineTuned | None = None, *, style: bool = False) -> V2Networks:
        return kept(folder, own, style)


@cache
def kept(folder: Path, own: FineTuned | None, style: bool) -> V2Networks:
    return SeedVc2(reduced_v2()).load(folder, own, style=style)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hub")
    with hub_alone(folder) as patch:
        patch.setattr(v2, "MODEL", Kept(reduced_v2()))
        patch.setattr(restyle, "MAX_TOKENS", 40)  # random weights know no end
        write_hub(folder, reduced_v2())
        yield folder


@pytest.fixture
def run(checkpoints: Path, tmp_path: Path) -> Callable[..., Result]:
    def run(*arguments: Any) -> Result:
        given = ["--model", "v2", "--reference-wav-path", checkpoints / REFERENCE, "--checkpoints", checkpoints]
        output = [] if "--output" in arguments else ["--output", tmp_path / "out"]
        return CliRunner().invoke(main, [str(one) for one in (*given, *output, "--diffusion-steps", 1, *arguments)])

    return run


def speech(path: Path, seconds: float, rate: int = 16_000) -> Path:
    wave, recorded = soundfile.read(SAMPLE)
    at = np.arange(int(seconds * rate)) * recorded / rate
    soundfile.write(path, wave[at.astype(int) % len(wave)], rate)
    return path


def test_several_sources_together_and_alone(run: Callable[..., Result], tmp_path: Path) -> None:
    sources = [
        speech(tmp_path / "a.wav", 1.3, 44_100),
        speech(tmp_path / "b.flac", 2.0),
        speech(tmp_path / "c.wav", 0.2),
    ]
    given = [one for source in sources for one in ("--source-wav-path", source)]
    assert run(*given, "--batch", 3).exit_code == 0
    for source, seconds in zip(sources, (1.3, 2.0, 0.2), strict=True):
        together, rate = soundfile.read(tmp_path / "out" / f"{source.stem}_june.wav")
        assert rate == 22_050
        assert abs(len(together) - seconds * rate) <= 1
        assert np.abs(together).max() > 0.001
        result = run("--source-wav-path", source, "--output", tmp_path / "alone.wav", "--batch", 1)
        assert result.exit_code == 0, result.output
        alone, _ = soundfile.read(tmp_path / "alone.wav")
        np.testing.assert_allclose(together, alone, atol=1e-3)


def test_style_follows_its_seed(run: Callable[..., Result], tmp_path: Path) -> None:
    source = speech(tmp_path / "a.wav", 1.0)
    made = []
    for name, seed in (("x", 3), ("y", 3), ("z", 4)):
        out = tmp_path / f"{name}.wav"
        result = run("--source-wav-path", source, "--convert-style", "--seed", seed, "--output", out,
                     "--top-p", 1, "--temperature", 1.2)  # fmt: skip
        assert result.exit_code == 0, result.output
        made.append(soundfile.read(out)[0])
    assert len(made[0]) >= 10 * 256  # at least ten codes
    np.testing.assert_array_equal(made[0], made[1])
    assert len(made[0]) != len(made[2]) or not np.array_equal(made[0], made[2])


def test_nobodys_voice_does_not_depend_on_the_references_style(run: Callable[..., Result], tmp_path: Path) -> None:
    source = speech(tmp_path / "a.wav", 1.0)
    made = []
    for similarity in (0.0, 2.0):
        out = tmp_path / "out.wav"
        result = run("--source-wav-path", source, "--anonymize", "--similarity-cfg-rate", similarity, "--output", out)
        assert result.exit_code == 0, result.output
        made.append(soundfile.read(out)[0])
    np.testing.assert_array_equal(*made)


def test_length_adjust(run: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "slow.wav"
    assert (
        run("--source-wav-path", speech(tmp_path / "a.wav", 1.0), "--length-adjust", 1.5, "--output", out).exit_code
        == 0
    )
    assert abs(len(soundfile.read(out)[0]) - 1.5 * 22_050) <= 1


def test_another_solver_makes_another_mel(run: Callable[..., Result], tmp_path: Path) -> None:
    source = speech(tmp_path / "a.wav", 1.0)
    made = []
    for solver in ("euler", "midpoint"):
        result = run("--model", "v2", "--source-wav-path", source, "--solver", solver, "--output", tmp_path / "out.wav")
        assert result.exit_code == 0, result.output
        made.append(soundfile.read(tmp_path / "out.wav")[0])
    assert made[0].shape == made[1].shape
    assert not np.allclose(*made, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-p", "0.5"], "--top-p belongs to the style path: add --convert-style"),
        (["--inference-cfg-rate", "0.5"], "--inference-cfg-rate: v2 does not know it"),
        (["--f0-condition"], "--f0-condition: v2 does not know it"),
        (["--model", "nano", "--anonymize"], "--anonymize: nano does not know it"),
        (["--model", "nano", "--solver", "midpoint"], "--solver: nano has none"),
        (["--model", "nano", "--seed", "1"], "--seed: nano does not know it"),
    ],
)
def test_what_is_refused(run: Callable[..., Result], tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run("--source-wav-path", speech(tmp_path / "a.wav", 0.5), *arguments)
    assert result.exit_code == 2
    assert message in result.output
