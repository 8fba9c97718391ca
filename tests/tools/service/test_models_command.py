"""``fast-vc models``: what is here, and what cannot be fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from tools.service.cli import main


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
    result = CliRunner().invoke(main, ["models", "fetch", "tiny"])
    assert result.exit_code == 1
    assert "HF_HUB_OFFLINE" in result.output
    assert "Traceback" not in result.output
    result = CliRunner().invoke(main, ["models", "fetch", "huge"])
    assert result.exit_code == 1
    assert "unknown model 'huge'; known are nano, tiny, small, base, v2" in result.output
