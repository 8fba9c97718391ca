"""Files in the published layouts load whole or not at all."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.reduced import published_entries
from tools.parity.fixture import synthetic_entries
from worker.models.published import whisper
from worker.models.published.campplus import CamPlusConfig
from worker.models.published.hift import HiftConfig
from worker.models.seedvc import dit, regulator
from worker.models.seedvc.spec import NETWORKS
from worker.models.weights.checkpoints import CheckpointError, assemble, load_network

FOLDER = Path(__file__).parents[2] / "data" / "parity"


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    entries = json.loads((FOLDER / f"{name}.keys.json").read_text())
    return {key.removeprefix("estimator."): tuple(shape) for key, (shape, _) in entries.items()}


@pytest.fixture(scope="module")
def entries() -> dict[str, Tensor]:
    return synthetic_entries(FOLDER / "regulator_tiny.keys.json")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "DiT_uvit_tat_xlsr_ema.pth"


def save(path: Path, entries: dict[str, Tensor], **beside: Any) -> Path:
    torch.save({"net": {"length_regulator": entries}, **beside}, path)
    return path


def load(path: Path) -> regulator.LengthRegulator:
    network = load_network(NETWORKS["regulator_tiny"], path)
    assert isinstance(network, regulator.LengthRegulator)
    return network


def test_the_published_nesting(path: Path, entries: dict[str, Tensor]) -> None:
    network = load(save(path, entries, ema={}, optimizer={"lr": 0.1}, epoch=3, iters=7))
    assert torch.equal(network.content_in_proj.weight, entries["content_in_proj.weight"])
    assert not network.training
    path.unlink()  # nothing may still be a view of the file
    assert torch.equal(network.content_in_proj.weight, entries["content_in_proj.weight"])


def test_the_prefix_of_data_parallel_training(path: Path, entries: dict[str, Tensor]) -> None:
    network = load(save(path, {f"module.{name}": value for name, value in entries.items()}))
    assert torch.equal(network.content_in_proj.bias, entries["content_in_proj.bias"])


def test_half_precision_files_become_float32(path: Path, entries: dict[str, Tensor]) -> None:
    network = load(save(path, {name: value.half() for name, value in entries.items()}))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_unused_entries_of_the_original_are_ignored(path: Path, entries: dict[str, Tensor]) -> None:
    load(save(path, entries | {"extra_codebooks.0.weight": torch.zeros(2, 2)}))
    load(save(path, {name: value for name, value in entries.items() if name not in ("embedding.weight", "mask_token")}))


@pytest.mark.parametrize("name", ["content_in_proj.weight", "model.3.bias"])
def test_a_missing_entry_is_named(path: Path, entries: dict[str, Tensor], name: str) -> None:
    save(path, {key: value for key, value in entries.items() if key != name})
    with pytest.raises(CheckpointError, match=rf"{path.name}.*regulator_tiny.*missing 1 \({name}\)"):
        load(path)


def test_a_misshapen_entry_is_named(path: Path, entries: dict[str, Tensor]) -> None:
    save(path, entries | {"model.3.bias": torch.zeros(7)})
    with pytest.raises(CheckpointError, match=r"model\.3\.bias is \[7\], not \[384\]"):
        load(path)


def test_unknown_entries_are_named_once_and_left_out(path: Path, entries: dict[str, Tensor], log: list[str]) -> None:
    unknown = {f"vq.{number}.weight": torch.zeros(7) for number in range(6)}
    network = load(save(path, {f"module.{name}": value for name, value in (entries | unknown).items()}))
    assert torch.equal(network.content_in_proj.weight, entries["content_in_proj.weight"])
    assert len(log) == 1
    assert "left out 6 entries unknown to regulator_tiny: module.vq.0.weight, " in log[0]


def test_other_networks_beside_ours_are_no_fault(path: Path, entries: dict[str, Tensor], log: list[str]) -> None:
    """As the released files are: a style encoder, a quantiser, and more that is never asked for."""
    others = {"style_encoder": {"head.weight": torch.zeros(2)}, "vq": {"codebook": torch.zeros(3)}}
    torch.save({"net": {"length_regulator": entries, **others}, "optimizer": {}}, path)
    load(path)
    assert log == []


def test_names_with_dots_in_place_of_tables(path: Path, entries: dict[str, Tensor]) -> None:
    flat = {f"net.length_regulator.{name}": value for name, value in entries.items()}
    torch.save(flat | {"net.vq.codebook": torch.zeros(3)}, path)
    assert torch.equal(load(path).content_in_proj.weight, entries["content_in_proj.weight"])


def test_a_checkpoint_of_another_model(path: Path) -> None:
    save(path, synthetic_entries(FOLDER / "regulator_small.keys.json"))
    with pytest.raises(CheckpointError, match="not a checkpoint of regulator_tiny"):
        load(path)
    network = load_network(NETWORKS["regulator"], path)
    assert isinstance(network, regulator.LengthRegulator)
    assert network.config == regulator.SMALL


def test_other_nesting(path: Path, entries: dict[str, Tensor]) -> None:
    torch.save({"model": {"length_regulator": entries}}, path)
    with pytest.raises(CheckpointError, match=r"net / length_regulator, found no 'net'"):
        load(path)
    torch.save(["no", "table"], path)
    with pytest.raises(CheckpointError, match="found no 'net'"):
        load(path)


def test_entries_at_the_top_are_taken(path: Path, entries: dict[str, Tensor]) -> None:
    torch.save(entries, path)
    load(path)


class Sly:
    """What unpickles to a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("called",)


@pytest.mark.parametrize("case", ["missing", "empty", "cut", "noise", "sly", "sly in a zip", "cut safetensors"])
def test_a_file_that_is_no_checkpoint(
    tmp_path: Path, path: Path, entries: dict[str, Tensor], case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if case == "empty":
        path.write_bytes(b"")
    elif case == "cut":
        whole = save(path, entries).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif case == "noise":
        path.write_bytes(b"<html>404</html>" * 100)
    elif case == "sly":
        path.write_bytes(pickle.dumps(Sly()))
    elif case == "sly in a zip":
        torch.save({"net": Sly()}, path)
    elif case == "cut safetensors":
        path = tmp_path / "model.safetensors"
        save_file(entries, path)
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError) as error:
        load(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert "called" not in capsys.readouterr().out


def test_weight_norm_folded_unfolded_and_by_its_new_name() -> None:
    size = HiftConfig(channels=16)
    unfolded = published_entries(NETWORKS["hift"], size)
    network = assemble(NETWORKS["hift"], unfolded, size)
    folded = {name: value for name, value in network.state_dict().items()}
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): value
        for name, value in unfolded.items()
    }
    for entries in (folded, renamed):
        again = assemble(NETWORKS["hift"], entries, size).state_dict()
        assert all(torch.equal(again[name], value) for name, value in folded.items())
    convolution = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(80, 16, 7))
    convolution.parametrizations.weight.original0.data = unfolded["conv_pre.weight_g"]
    convolution.parametrizations.weight.original1.data = unfolded["conv_pre.weight_v"]
    torch.testing.assert_close(folded["conv_pre.weight"], convolution.weight.data)


def test_half_a_weight_norm() -> None:
    entries = published_entries(NETWORKS["hift"], HiftConfig(channels=16))
    del entries["conv_pre.weight_v"]
    with pytest.raises(CheckpointError, match=r"lacks conv_pre\.weight_v"):
        assemble(NETWORKS["hift"], entries)


def test_campplus_under_either_name_of_its_last_layer() -> None:
    size = CamPlusConfig(channels=2, layers=(1, 1, 1))
    entries = published_entries(NETWORKS["campplus"], size)
    renamed = {name.replace("xvector.dense.", "dense."): value for name, value in entries.items()}
    bare = {name: value for name, value in renamed.items() if "num_batches_tracked" not in name}
    features = torch.randn(1, 40, 80)
    assert torch.equal(
        assemble(NETWORKS["campplus"], entries, size)(features), assemble(NETWORKS["campplus"], bare, size)(features)
    )


def test_whisper_ignores_its_decoder(tmp_path: Path) -> None:
    config = whisper.WhisperConfig(width=32, heads=4, inner=64, depth=1)
    names = {".attention.": ".self_attn.", ".attention_norm.": ".self_attn_layer_norm.", ".up.": ".fc1."}
    names |= {".ffn_norm.": ".final_layer_norm.", ".down.": ".fc2."}
    entries = {"model.decoder.layer_norm.weight": torch.zeros(32)}
    expected = whisper.WhisperEncoder(config).state_dict()
    for name, value in expected.items():
        for ours, published in names.items():
            name = name.replace(ours, published)
        entries[f"model.encoder.{name}"] = value
    save_file(entries, tmp_path / "model.safetensors")
    loaded = load_network(NETWORKS["whisper"], tmp_path / "model.safetensors", config).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_sizes_are_read_off_the_shapes(size: str) -> None:
    assert dit.DiTConfig.from_shapes(shapes(f"cfm_{size}")) == getattr(dit, size.upper())
    assert regulator.RegulatorConfig.from_shapes(shapes(f"regulator_{size}")) == getattr(regulator, size.upper())
    assert NETWORKS[f"cfm_{size}"].layout.file == NETWORKS[f"regulator_{size}"].layout.file
