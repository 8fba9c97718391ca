"""``fast-vc models``: what is here, and what cannot be fetched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import constants

from shared.config import Config, WorkerConfig
from tests.support.reduced import cached, reduced, write_hub
from tools.service.checkup.model import check_weights
from tools.service.cli import main
from worker.models.seedvc import files, spec


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("FASTVC_WORKER__CHECKPOINTS_DIR", str(tmp_path))


@pytest.mark.parametrize("arguments", [["models"], ["models", "list"]])
def test_the_list_names_every_file(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "hift.pt").write_bytes(b"0" * 1_500_000)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert "nano: bundled" in result.output
    assert "tiny: 1 of 4 files here" in result.output
    assert f"1.5 MB  {tmp_path / 'hift.pt'}" in result.output
    assert "small: 0 of 5" in result.output
    assert "base: 0 of 6" in result.output
    assert "v2: 0 of 8" in result.output


def test_what_cannot_be_fetched_is_one_sentence() -> None:
    result = CliRunner().invoke(main, ["models", "fetch", "tiny", "--yes"])
    assert result.exit_code == 1
    assert "HF_HUB_OFFLINE" in result.output
    assert "Traceback" not in result.output
    result = CliRunner().invoke(main, ["models", "fetch", "huge"])
    assert result.exit_code == 1
    assert "unknown model 'huge'; known are nano, tiny, small, base, v2" in result.output


def test_a_check_says_what_was_found_what_is_unused_and_converts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(spec.SPECS, "tiny", reduced("tiny"))  # type: ignore[arg-type]
    write_hub(tmp_path, spec.SPECS["tiny"])
    path = cached(tmp_path, files.REPOSITORY, files.FILES["tiny"])
    content = torch.load(path, weights_only=True)
    content["net"] |= {
        "style_encoder": {"module.head": torch.zeros(2)},
        "vq": {"a": torch.zeros(1), "b": torch.ones(1)},
    }
    torch.save(content, path)
    result = CliRunner().invoke(main, ["models", "check", "tiny"])
    assert result.exit_code == 0, result.output
    assert "DiT_uvit_tat_xlsr_ema.pth (GPL-3.0)" in result.output
    assert re.search(r"found   cfm_tiny \(\d+\), regulator_tiny \(\d+\)\n", result.output)
    assert re.search(r"unused  .*net\.style_encoder \(1\), net\.vq \(2\)\n", result.output)
    assert "1.0 s of speech at 22050 Hz" in result.output


def test_a_check_of_what_is_not_here_or_not_known_is_one_sentence() -> None:
    result = CliRunner().invoke(main, ["models", "check", "tiny"])
    assert result.exit_code == 1
    assert "tiny lacks 4 of 4 files: fast-vc models fetch tiny" in result.output
    result = CliRunner().invoke(main, ["models", "check", "huge"])
    assert result.exit_code == 1
    assert "unknown model 'huge'" in result.output


@pytest.mark.parametrize(("model", "count"), [("base", 6), ("v2", 8)])
def test_a_check_counts_the_files_that_the_list_and_the_doctor_count(
    model: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = CliRunner().invoke(main, ["models", "list"]).output
    assert f"{model}: 0 of {count} files here" in listed
    assert f"{model} lacks {count} of {count} files" in CliRunner().invoke(main, ["models", "check", model]).output
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    [found] = check_weights(Config(worker=WorkerConfig(model=model, checkpoints_dir=Path("nowhere"))))  # type: ignore[arg-type]
    assert found.text == f"{model}: {count} of {count} files are not here"


def test_the_bundled_model_passes_its_check() -> None:
    result = CliRunner().invoke(main, ["models", "check", "nano"])
    assert result.exit_code == 0, result.output
    assert "1.0 s of speech at 16000 Hz" in result.output
