"""The files of V2, in the layouts of the published ones: whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.reduced import cached, reduced_v2, write_hub
from worker.models.catalogue import FineTuned
from worker.models.seedvc2.model import SeedVc2
from worker.models.weights.checkpoints import CheckpointError
from worker.models.weights.usage import usage

MODEL = SeedVc2(reduced_v2())
CFM, AR = ("Plachta/Seed-VC", "v2/cfm_small.pth"), ("Plachta/Seed-VC", "v2/ar_base.pth")
WIDE = ("Plachta/ASTRAL-quantization", "bsq2048/bsq2048_light.pth")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    write_hub(folder, MODEL.spec)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of every file, to be changed."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return Path(shutil.copytree(written, tmp_path, dirs_exist_ok=True))


def changed(path: Path, change: Any) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_timbre_needs_no_file_of_style(folder: Path) -> None:
    cached(folder, *AR).unlink()
    networks = MODEL.load(folder)
    assert networks.ar is None
    assert not any(parameter.requires_grad for part in networks.parts().values() for parameter in part.parameters())
    with pytest.raises(CheckpointError, match=r"v2/ar_base\.pth"):
        MODEL.load(folder, style=True)


def test_what_of_the_files_is_used(folder: Path) -> None:
    found = {file.layout.file: file for file in usage(MODEL.networks, folder)}
    assert set(found[CFM[1]].used) == {"cfm_v2", "regulator_v2"}
    assert all(count > 10 for count in found[CFM[1]].used.values())
    changed(cached(folder, *CFM), lambda content: content["net"].update(cfm={"other": torch.zeros(2)}))
    assert usage(MODEL.networks, folder)[2].used["cfm_v2"] == 0


def test_style_brings_its_own_networks(folder: Path) -> None:
    networks = MODEL.load(folder, style=True)
    assert networks.ar is not None
    assert not torch.equal(networks.ar.ar.output.weight, networks.ar.ar.embeddings.weight)  # not tied


def test_what_the_originals_files_carry_beside_is_ignored(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def carry(content: Any) -> None:
        cfm = content["net"]["cfm"]
        cfm["module.estimator.transformer.freqs_cis"] = torch.zeros(8, 32, 2, dtype=torch.bfloat16)
        cfm["module.estimator.transformer.causal_mask"] = torch.ones(8, 8, dtype=torch.bool)
        cfm["module.estimator.skip_linear.weight"] = torch.zeros(2, 2)
        content["optimizer"] = {"lr": 0.1}

    changed(cached(folder, *CFM), carry)
    MODEL.load(folder)


def test_a_missing_entry_is_named(folder: Path) -> None:
    changed(cached(folder, *CFM), lambda content: content["net"]["cfm"].pop("module.estimator.final_mlp.2.bias"))
    with pytest.raises(CheckpointError, match=r"cfm_small\.pth.*cfm_v2.*missing 1 \(final_mlp\.2\.bias\)"):
        MODEL.load(folder)


def test_a_quantiser_that_would_replace_hubert_is_refused(folder: Path) -> None:
    changed(cached(folder, *WIDE), lambda content: content.update({"ssl_model.projection.weight": torch.zeros(2, 2)}))
    with pytest.raises(CheckpointError, match=r"bsq2048_light\.pth: not a file of astral_wide alone.*ssl_model"):
        MODEL.load(folder)


def test_a_fine_tuned_transformer(folder: Path, tmp_path: Path) -> None:
    content = torch.load(cached(folder, *CFM), weights_only=True)
    net = {
        part: {name.removeprefix("module."): value for name, value in entries.items()}
        for part, entries in content["net"].items()
    }
    net["cfm"]["estimator.cond_projection.bias"].fill_(0.5)
    path = tmp_path / "CFM_epoch_00003_step_00400.pth"
    torch.save({"net": net, "iters": 400}, path)
    networks = MODEL.load(folder, FineTuned(path))
    assert networks.name == "CFM_epoch_00003_step_00400"
    assert torch.equal(networks.dit.cond_projection.bias, torch.full((128,), 0.5))
