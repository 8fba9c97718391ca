"""The training command from recordings to weights, two steps a stage, without corpora or teachers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tools.train.__main__ import STAGES, main
from worker.models.nano.model import load_nano


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_smoke_run_makes_weights_that_load_and_resumes(tmp_path: Path):
    out = tmp_path / "out"
    main(["--smoke", "--out", str(out), "--threads", "1"])
    weights = out / "nano.safetensors"
    networks = load_nano(weights)
    assert networks.content(torch.zeros(1, 16_000)).shape == (1, 50, 256)

    assert all((out / f"{stage}.done").exists() for stage in STAGES)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.pt")}
    (out / "export.done").unlink()
    weights.unlink()
    main(["--smoke", "--out", str(out), "--threads", "1", "--resume"])
    assert weights.exists()
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.pt")} == before


def test_a_folder_with_something_in_it_is_not_trained_over(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["--smoke", "--out", str(tmp_path)])
