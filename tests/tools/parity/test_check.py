"""The operator's view: tables, exit codes, reports, and fixtures nobody has seen before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tools.parity.check import main
from tools.parity.fixture import open_fixture
from tools.parity.runners import check
from worker.models.published import fbank

FOLDER = Path(__file__).parents[2] / "data" / "parity"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A subset without a manifest."""
    for name in ("mel.npz", "fbank.npz", "regulator_tiny.npz", "regulator_tiny.keys.json"):
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def test_a_subset(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = folder / "report.json"
    assert main([str(folder), "--json", str(report)]) == 0
    out = capsys.readouterr().out
    assert "regulator_tiny" in out
    assert "batch[2]" in out
    content = json.loads(report.read_text())
    assert {item["network"] for item in content["items"]} == {"mel", "fbank", "regulator_tiny"}
    assert all(item["passed"] and item["error"] <= item["tolerance"] for item in content["items"])
    assert content["failures"] == []


def test_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--only", "fbank"]) == 0
    assert "regulator_tiny" not in capsys.readouterr().out
    assert main([str(folder), "--only", "hift"]) == 1
    assert "no fixture hift" in capsys.readouterr().err


def test_a_wrong_number_is_beyond(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = arrays_of(folder / "fbank.npz")
    arrays["out_fbank"][3, 5] += 0.01
    np.savez(folder / "fbank.npz", **arrays)
    assert main([str(folder), "--only", "fbank"]) == 1
    out = capsys.readouterr().out
    assert "BEYOND" in out
    assert "1 beyond tolerance" in out


def test_not_a_number_is_beyond(folder: Path) -> None:
    arrays = arrays_of(folder / "fbank.npz")
    arrays["out_fbank"][0, 0] = np.nan
    np.savez(folder / "fbank.npz", **arrays)
    assert main([str(folder), "--only", "fbank"]) == 1


@pytest.mark.parametrize("damage", ["no keys", "no input", "broken", "of nothing known", "other shape"])
def test_what_cannot_be_run_is_said(folder: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "regulator_tiny.npz"
    arrays = arrays_of(path)
    if damage == "no keys":
        (folder / "regulator_tiny.keys.json").unlink()
    elif damage == "no input":
        np.savez(path, **{name: value for name, value in arrays.items() if name != "in_ylens_0"})
    elif damage == "broken":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "of nothing known":
        path.rename(folder / "vocos.npz")
    elif damage == "other shape":
        np.savez(path, **(arrays | {"in_content_0": arrays["in_content_0"][..., :100]}))
    assert main([str(folder)]) == 1
    out = capsys.readouterr().out
    assert "cannot be run" in out
    assert "1 fixtures that cannot be run" in out


def test_a_missing_or_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 1
    assert "no .npz fixtures" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_missing_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(FOLDER), "--device", "cuda:0"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_other_lengths_batches_and_items(tmp_path: Path) -> None:
    recorded = open_fixture(FOLDER, "fbank")
    wave = recorded.tensor("in_audio_16k")
    longer = torch.cat([wave, wave.flip(-1)[:, :3210]], dim=-1).repeat(2, 1)
    features = fbank.KaldiFbank()
    np.savez(
        tmp_path / "fbank_longer.npz",
        in_audio_16k=longer.numpy(),
        out_fbank=features.centred(longer).numpy(),
    )
    assert [result.passed for result in check(open_fixture(tmp_path, "fbank_longer"))] == [True]


def test_other_steps_guidance_and_items_of_the_solver(tmp_path: Path) -> None:
    """Two rows under one item, an item of its own name, and a combination that only a name tells."""
    recorded = arrays_of(FOLDER / "cfm_tiny.npz")
    arrays = {"out_both_n4_cfg0.7_linear": np.concatenate([recorded["out_0_n4_cfg0.7_linear"]] * 2)}
    arrays |= {"out_long_n10_cfg0.7_cosine": recorded["out_2_n10_cfg0.7_cosine"]}
    for part in ("z", "mu", "prompt", "style"):
        arrays[f"in_{part}_both"] = np.concatenate([recorded[f"in_{part}_0"]] * 2)
        arrays[f"in_{part}_long"] = recorded[f"in_{part}_2"]
    np.savez(tmp_path / "cfm_tiny.npz", **arrays)
    shutil.copy(FOLDER / "cfm_tiny.keys.json", tmp_path)
    results = check(open_fixture(tmp_path, "cfm_tiny"))
    assert [result.passed for result in results] == [True, True]


def test_lower_precision_is_measured(folder: Path) -> None:
    report = folder / "report.json"
    assert main([str(folder), "--only", "regulator_tiny", "--dtype", "bfloat16", "--json", str(report)]) == 0
    items = json.loads(report.read_text())["items"]
    assert all(1e-3 < item["error"] < item["tolerance"] < 0.1 for item in items)
