"""Checkpoints found as plain copies or in a cache, and one sentence when they cannot be had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from tests.support.reduced import cached, published_entries, reduced
from tools.parity.fixture import synthetic_entries
from worker.models import catalogue
from worker.models.published import bigvgan
from worker.models.seedvc import dit, regulator
from worker.models.seedvc.spec import NETWORKS, SPECS
from worker.models.weights import hub
from worker.models.weights.checkpoints import CheckpointError

KEYS = Path(__file__).parents[2] / "data" / "parity"
TINY = "DiT_uvit_tat_xlsr_ema.pth"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


def test_both_networks_of_a_model_from_the_cache(tmp_path: Path) -> None:
    size = reduced("tiny").dit
    content = {
        part: {f"module.{name}": value for name, value in entries.items()}
        for part, entries in (
            ("cfm", published_entries(NETWORKS["cfm_tiny"], size)),
            ("length_regulator", synthetic_entries(KEYS / "regulator_tiny.keys.json")),
        )
    }
    path = cached(tmp_path, "Plachta/Seed-VC", TINY)
    torch.save({"net": content, "epoch": 1}, path)
    network = hub.load(NETWORKS["cfm_tiny"], tmp_path, size)
    assert isinstance(network, dit.DiT)
    assert torch.equal(network.t_embedder.mlp[0].bias, content["cfm"]["module.estimator.t_embedder.mlp.0.bias"])
    assert isinstance(hub.load(NETWORKS["regulator_tiny"], tmp_path), regulator.LengthRegulator)
    assert [state.path for state in hub.files(SPECS["tiny"].networks, tmp_path) if state.file == TINY] == [path]
    assert "tiny: 1 of 4 files here" in catalogue.table(tmp_path)


@pytest.mark.parametrize("place", [TINY, f"Seed-VC/{TINY}"])
def test_a_plain_copy(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    torch.save({"net": {"length_regulator": synthetic_entries(KEYS / "regulator_tiny.keys.json")}}, path)
    assert isinstance(hub.load(NETWORKS["regulator_tiny"], tmp_path), regulator.LengthRegulator)


def test_another_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cached(tmp_path / "cache", "Plachta/Seed-VC", TINY)
    path.write_bytes(b"")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert hub.files(SPECS["tiny"].networks, tmp_path)[0].path == path
    with pytest.raises(CheckpointError, match="not a complete file"):
        hub.load(NETWORKS["cfm_tiny"], tmp_path)


def test_a_name_that_two_repositories_share_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "bigvgan_generator.pt").write_bytes(b"")
    assert all(state.path is None for state in hub.files(SPECS["small"].networks, tmp_path))
    folder = tmp_path / "bigvgan_v2_22khz_80band_256x"
    folder.mkdir()
    (folder / "bigvgan_generator.pt").write_bytes(b"")
    assert [state.path for state in hub.files(SPECS["small"].networks, tmp_path) if state.path] == [
        folder / "bigvgan_generator.pt"
    ]


def test_a_vocoder_follows_the_configuration_beside_it(tmp_path: Path) -> None:
    config = bigvgan.BigVganConfig(
        mel_bins=8, rates=(4, 2), kernels=(8, 4), channels=16, block_kernels=(3, 5), dilations=(1, 2)
    )
    folder = tmp_path / "bigvgan_v2_22khz_80band_256x"
    folder.mkdir()
    torch.save({"generator": bigvgan.BigVgan(config).state_dict()}, folder / "bigvgan_generator.pt")
    published = {"num_mels": 8, "upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4]}
    published |= {"upsample_initial_channel": 16, "activation": "snakebeta"}
    published |= {"resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 2], [1, 2]]}
    (folder / "config.json").write_text(json.dumps(published))
    network = hub.load(NETWORKS["bigvgan_22k"], tmp_path)
    assert isinstance(network, bigvgan.BigVgan)
    assert network.config == config
    (folder / "config.json").write_text(json.dumps(published | {"activation": "snake"}))
    with pytest.raises(CheckpointError, match="activation is 'snake'"):
        hub.load(NETWORKS["bigvgan_22k"], tmp_path)
    (folder / "config.json").write_text(json.dumps(published | {"resblock_dilation_sizes": [[1, 2], [1, 3]]}))
    with pytest.raises(CheckpointError, match=r"resblock_dilation_sizes are .* not the same for each kernel"):
        hub.load(NETWORKS["bigvgan_22k"], tmp_path)
    (folder / "config.json").write_text(json.dumps({"num_mels": 8}))
    with pytest.raises(CheckpointError, match="lacks upsample_initial_channel"):
        hub.load(NETWORKS["bigvgan_22k"], tmp_path)


def test_offline_and_absent(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{TINY} is not here and HF_HUB_OFFLINE is set: put a copy at"):
        hub.load(NETWORKS["cfm_tiny"], tmp_path)


def test_a_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **options: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    with pytest.raises(CheckpointError, match="cannot be reached"):
        hub.fetch(SPECS["tiny"].networks, tmp_path)


def test_a_mirror_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, file: str, cache_dir: Path) -> str:
        asked.append(repository)
        if repository.startswith("FunAudioLLM"):
            raise EntryNotFoundError("gone")
        path = cached(cache_dir, repository, file)
        path.write_bytes(b"weights")
        return str(path)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    states = hub.fetch(SPECS["tiny"].networks, tmp_path)
    assert asked[-2:] == ["FunAudioLLM/CosyVoice-300M", "model-scope/CosyVoice-300M"]
    assert all(state.size_bytes == 7 for state in states)
