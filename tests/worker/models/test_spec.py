"""Which networks a model is made of: published, fine-tuned, mistaken for another, too large."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from huggingface_hub import constants

from tests.support.reduced import published_entries, reduced, write_hub
from worker.models.catalogue import load_model
from worker.models.seedvc import spec
from worker.models.seedvc.model import model_of
from worker.models.weights.checkpoints import CheckpointError

SMALL = {
    "preprocess_params": {
        "sr": 22050,
        "spect_params": {
            "n_fft": 1024, "win_length": 1024, "hop_length": 256, "n_mels": 80, "fmin": 0, "fmax": "None"
        },
    },
    "model_params": {
        "vocoder": {"type": "bigvgan", "name": "nvidia/bigvgan_v2_22khz_80band_256x"},
        "speech_tokenizer": {"type": "whisper", "name": "openai/whisper-small"},
        "style_encoder": {"dim": 192, "campplus_path": "campplus_cn_common.bin"},
        "length_regulator": {
            "channels": 512, "is_discrete": False, "in_channels": 768, "sampling_ratios": [1, 1, 1, 1],
            "vector_quantize": False, "f0_condition": False, "n_f0_bins": 512,
        },
        "DiT": {
            "hidden_dim": 512, "num_heads": 8, "depth": 13, "in_channels": 80, "final_layer_type": "wavenet",
            "long_skip_connection": True, "uvit_skip_connection": True, "is_causal": False,
            "time_as_token": False, "style_as_token": False,
        },
        "wavenet": {"hidden_dim": 512, "num_layers": 8, "kernel_size": 5, "dilation_rate": 1},
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def written(changes: dict[str, Any] | None = None) -> Path:
        content = yaml.safe_load(yaml.safe_dump(SMALL))
        for key, value in (changes or {}).items():
            *parts, last = key.split(".")
            place = content
            for part in parts:
                place = place[part]
            if value is None:
                del place[last]
            else:
                place[last] = value
        path = tmp_path / "mine.yml"
        path.write_text(yaml.safe_dump(content))
        return path

    return written


def test_the_published_configuration_is_the_published_model(written: Callable[..., Path]) -> None:
    made = spec.fine_tuned(written(), spec.SPECS["small"])
    assert (made.dit, made.regulator, made.mel) == (
        spec.SPECS["small"].dit,
        spec.SPECS["small"].regulator,
        spec.SPECS["small"].mel,
    )
    assert made.networks == spec.SPECS["small"].networks
    assert made.name == "mine"


def test_sizes_are_read(written: Callable[..., Path]) -> None:
    changes = {"model_params.DiT.depth": 7, "model_params.DiT.hidden_dim": 256, "model_params.DiT.num_heads": 4,
               "model_params.length_regulator.channels": 256, "preprocess_params.spect_params.fmax": 8000}  # fmt: skip
    made = spec.fine_tuned(written(changes), spec.SPECS["tiny"])
    assert (made.dit.depth, made.dit.width, made.regulator.width, made.mel.fmax) == (7, 256, 256, 8000.0)
    assert (made.content, made.vocoder) == ("whisper", "bigvgan_22k")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_params.DiT.depth": None}, "lacks model_params.DiT.depth"),
        ({"model_params.DiT.depth": "many"}, "model_params.DiT.depth must be a positive whole number, got 'many'"),
        ({"model_params.DiT.is_causal": True}, "is_causal is True, supported is False"),
        ({"model_params.DiT.num_heads": 4}, "num_heads is 4, supported is 8"),
        ({"model_params.DiT.style_as_token": True}, "style_as_token is True"),
        ({"model_params.vocoder.type": "vocos"}, "vocoder.type is 'vocos', supported is 'hifigan' or 'bigvgan'"),
        ({"model_params.speech_tokenizer.name": "openai/whisper-large"}, "supported is 'openai/whisper-small'"),
        ({"model_params.length_regulator.in_channels": 1024}, "whisper features are 768 wide"),
        ({"model_params.length_regulator.channels": 256}, "must equal DiT.hidden_dim"),
        ({"preprocess_params.spect_params.hop_length": 512}, "is not what the vocoder bigvgan_22k takes"),
    ],
)
def test_what_is_not_supported_is_named(written: Callable[..., Path], changes: dict[str, Any], words: str) -> None:
    path = written(changes)
    with pytest.raises(CheckpointError) as caught:
        spec.fine_tuned(path, spec.SPECS["small"])
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        spec.fine_tuned(tmp_path / "none.yml", spec.SPECS["small"])
    (tmp_path / "list.yml").write_text("- 1")
    with pytest.raises(CheckpointError, match="lacks model_params"):
        spec.fine_tuned(tmp_path / "list.yml", spec.SPECS["small"])
    (tmp_path / "bad.yml").write_text("a: [")
    with pytest.raises(CheckpointError, match="not a YAML file"):
        spec.fine_tuned(tmp_path / "bad.yml", spec.SPECS["small"])


def test_an_unknown_model() -> None:
    with pytest.raises(CheckpointError, match=r"unknown model 'huge'; known are nano, tiny, small, base"):
        load_model("huge")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("tiny", "small"):
        monkeypatch.setitem(spec.SPECS, name, reduced(name))  # type: ignore[arg-type]
    write_hub(tmp_path, spec.SPECS["tiny"])
    return tmp_path


def custom(path: Path, name: str) -> Path:
    model = spec.SPECS[name]
    content = {
        "cfm": published_entries(model.cfm, model.dit),
        "length_regulator": published_entries(model.length_regulator, model.regulator),
    }
    torch.save({"net": content, "optimizer": {"lr": 1.0}}, path)
    return path


def test_a_fine_tuned_checkpoint_takes_the_published_ones_place(hub: Path, tmp_path: Path) -> None:
    path = custom(tmp_path / "mine.pth", "tiny")
    networks = load_model("tiny", hub, dit_checkpoint=path)
    assert networks.name == "mine"
    assert networks.dit.config == spec.SPECS["tiny"].dit


def test_the_checkpoint_of_another_model_is_recognised(hub: Path, tmp_path: Path) -> None:
    path = custom(tmp_path / "mine.pth", "small")
    assert model_of(path) == "small"
    with pytest.raises(CheckpointError, match=r"holds the weights of the model small, not of tiny: choose model small"):
        load_model("tiny", hub, dit_checkpoint=path)
    with pytest.raises(CheckpointError, match="needs dit_checkpoint_path"):
        load_model("tiny", hub, dit_config=path)


def test_too_little_memory_is_said_before_anything_is_loaded(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Little:
        available = 1_000_000

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    with pytest.raises(CheckpointError, match=r"tiny needs 0\.0 GB of memory .*: choose a smaller model"):
        load_model("tiny", hub)
