"""The operator's view: tables, exit codes, reports, and fixtures nobody has seen before."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.reduced import published_entries, reduced, reduced_v2
from tools.parity import fixture
from tools.parity.check import main
from tools.parity.fixture import filled_network, open_fixture
from tools.parity.runners import check
from tools.parity.runners_ar import forced
from worker.models.published import fbank
from worker.models.seedvc.flow import FlowSolver
from worker.models.seedvc.spec import SPECS
from worker.models.seedvc2.ar import AR_V2
from worker.models.seedvc2.regulator import REGULATOR_AR_V2
from worker.models.seedvc2.rotary import rounded_table
from worker.models.seedvc2.sampling import Sampling, generate
from worker.models.weights.published import PublishedNetwork, as_published

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


def test_other_steps_guidance_and_items_of_the_solver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows under one item, an item of its own name, and a combination that only a name tells."""
    size = reduced("tiny").dit
    lay_out(tmp_path, SPECS["tiny"].cfm, size, monkeypatch)
    network = filled_network("cfm_tiny", tmp_path / "cfm_tiny.keys.json")
    torch.manual_seed(0)
    arrays = {}
    for item, rows, frames, steps, guidance, schedule in (
        ("both", 2, 30, 3, 0.7, "linear"),
        ("long", 1, 40, 2, 0.0, "cosine"),
    ):
        shapes = {"z": (80, frames), "mu": (frames, size.width), "prompt": (80, 9), "style": (192,)}
        given = {name: torch.randn(rows, *shape) for name, shape in shapes.items()}
        solve = FlowSolver(network, steps=steps, guidance=guidance, schedule=schedule)  # type: ignore[arg-type]
        arrays |= {f"in_{name}_{item}": value.numpy() for name, value in given.items()}
        arrays[f"out_{item}_n{steps}_cfg{guidance}_{schedule}"] = solve(*given.values()).numpy()
    np.savez(tmp_path / "cfm_tiny.npz", **arrays)
    assert [result.passed for result in check(open_fixture(tmp_path, "cfm_tiny"))] == [True, True]
    arrays["out_both_n3_cfg0.7_linear"][1] += 0.01
    np.savez(tmp_path / "cfm_tiny.npz", **arrays)
    assert sorted(result.passed for result in check(open_fixture(tmp_path, "cfm_tiny"))) == [False, True]


def lay_out(folder: Path, network: PublishedNetwork, size: Any, patch: pytest.MonkeyPatch) -> None:
    """A network is of another size than the published one, and so is its layout in ``folder``."""
    patch.setitem(fixture.NETWORKS, network.name, replace(network, config=as_published(size)))
    shapes = {name: (entry.shape, "float32") for name, entry in published_entries(network, size).items()}
    (folder / f"{network.name}.keys.json").write_text(json.dumps(shapes))


def test_lower_precision_is_measured(folder: Path) -> None:
    report = folder / "report.json"
    assert main([str(folder), "--only", "regulator_tiny", "--dtype", "bfloat16", "--json", str(report)]) == 0
    items = json.loads(report.read_text())["items"]
    assert all(1e-3 < item["error"] < item["tolerance"] < 0.1 for item in items)


V2 = FOLDER.parent / "parity_v2"


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    """A folder with the cheapest fixture of V2."""
    for name in ("regulator_ar_v2.npz", "regulator_ar_v2.keys.json"):
        shutil.copy(V2 / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize(("real", "whole"), [(">f4", ">i8"), ("f8", "u2"), ("f4", "u1"), ("f8", "i4")])
def test_numbers_of_other_types(codes: Path, real: str, whole: str) -> None:
    path = codes / "regulator_ar_v2.npz"
    arrays = arrays_of(path)
    np.savez(path, **{name: value.astype(real if value.dtype.kind == "f" else whole) for name, value in arrays.items()})
    assert main([str(codes)]) == 0


def test_an_output_that_nothing_is_compared_with_is_named(codes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, report = codes / "regulator_ar_v2.npz", codes / "report.json"
    np.savez(path, **arrays_of(path), out_surprise=np.zeros(3), note=np.array("text"))
    assert main([str(codes), "--json", str(report)]) == 0
    assert "regulator_ar_v2  not compared: out_surprise\n" in capsys.readouterr().out
    assert json.loads(report.read_text())["not_compared"] == {"regulator_ar_v2": ["out_surprise"]}


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        (FOLDER / "regulator_tiny.npz", "in_ylens_0"),
        (FOLDER / "mel.npz", "in_audio_44k"),
        (V2 / "regulator_v2.npz", "in_ylens_0"),
    ],
    ids=lambda value: getattr(value, "stem", value),
)
def test_an_array_that_is_missing_costs_its_item_alone(
    tmp_path: Path, source: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in source.parent.glob(f"{source.stem}.*"):
        shutil.copy(path, tmp_path)
    arrays, report = arrays_of(source), tmp_path / "report.json"
    assert main([str(tmp_path), "--json", str(report)]) == 0
    whole = json.loads(report.read_text())["items"]
    np.savez(tmp_path / source.name, **{name: value for name, value in arrays.items() if name != missing})
    assert main([str(tmp_path), "--json", str(report)]) == 1
    assert f"cannot be run as a whole: lacks {missing}" in capsys.readouterr().out
    part = json.loads(report.read_text())
    assert part["failures"] == [{"network": source.stem, "reason": f"lacks {missing}"}]
    assert 0 < len(part["items"]) < len(whole)
    assert {item["item"] for item in part["items"]} < {item["item"] for item in whole}


@pytest.fixture
def small_ar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """An AR model of reduced size, laid out in ``tmp_path``, and what it says of one item."""
    sizes = reduced_v2()
    for network, config in ((AR_V2, sizes.ar), (REGULATOR_AR_V2, sizes.ar_regulator)):
        lay_out(tmp_path, network, config, monkeypatch)
    model, embed = (filled_network(name, tmp_path / f"{name}.keys.json") for name in ("ar_v2", "regulator_ar_v2"))
    narrow, prompt = torch.arange(12)[None], torch.arange(0, 2048, 350)[None]
    noise = torch.rand(9, 2049, generator=torch.Generator().manual_seed(0)) + 0.1
    condition = embed(narrow)[0]
    [tokens] = generate(
        model, [condition], [prompt[0]], Sampling(0.9, 1.2, 1.1), lambda step, rows, _: noise[step][None], len(noise)
    )
    logits = forced(model, condition, prompt[0], tokens)
    best, second = logits.topk(2, dim=-1).values.unbind(-1)
    recorded = {"in_narrow": narrow, "in_prompt": prompt, "in_sampling": torch.tensor([1.2, 0.9, 1.1])}
    recorded |= {"in_steps": torch.tensor(len(noise)), "in_noise": noise, "out_tokens": tokens}
    recorded |= {"out_prefill": logits[0], "out_logits": logits[:3], "out_gap": best - second}
    return {f"{name}_own": value.numpy() for name, value in recorded.items()}


def test_everything_recorded_is_compared(
    small_ar: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the AR model also by how much the best token is ahead; and parts of a fixture are enough."""
    np.savez(tmp_path / "ar_v2.npz", **small_ar)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "not compared" not in out
    assert all(f"{item}_own" in out for item in ("tokens", "prefill", "logits", "gap"))
    small_ar["out_gap_own"][-1] += 0.1
    np.savez(tmp_path / "ar_v2.npz", **small_ar)
    assert main([str(tmp_path)]) == 1
    assert "1 beyond tolerance" in capsys.readouterr().out
    arrays = arrays_of(V2 / "ar_v2.npz")
    np.savez(tmp_path / "ar_v2.npz", **{name: value for name, value in arrays.items() if name.endswith("_sampler")})
    assert main([str(tmp_path)]) == 0
    assert "8 items" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["rotary", "edge"])
def test_a_part_of_a_fixture(tmp_path: Path, part: str) -> None:
    name, keys = ("astral_narrow", "astral_narrow") if part == "edge" else ("dit_v2", "cfm_v2")
    shutil.copy(V2 / f"{keys}.keys.json", tmp_path)
    arrays = {key: value for key, value in arrays_of(V2 / f"{name}.npz").items() if part in key}
    if part == "rotary":  # the last place of the published table
        position = torch.tensor([8191])
        table = rounded_table(position)
        arrays = {"in_positions": position.numpy(), "out_rotary": table.numpy()}
    np.savez(tmp_path / f"{name}.npz", **arrays)
    assert all(result.passed for result in check(open_fixture(tmp_path, name)))


def damaged(content: bytes) -> bytes:
    """The compressed arrays of an archive, not its table of contents."""
    return bytes(
        byte ^ 255 if 2000 < at < len(content) - 3000 and at % 97 == 0 else byte for at, byte in enumerate(content)
    )


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("manifest.json", b"null", "manifest.json cannot be used"),
        ("manifest.json", b'{"regulator_ar_v2": []}', "manifest.json cannot be used"),
        ("manifest.json", b'{"regulator_ar_v2": {"keys": 3}}', "manifest.json cannot be used"),
        ("manifest.json", b'{"regulator_ar_v2": {"atol": null}}', "manifest.json cannot be used"),
        ("regulator_ar_v2.keys.json", b"", "regulator_ar_v2.keys.json is no layout"),
        ("regulator_ar_v2.keys.json", b"[]", "regulator_ar_v2.keys.json is no layout"),
        ("regulator_ar_v2.keys.json", b'{"a": 1}', "regulator_ar_v2.keys.json is no layout"),
        ("regulator_ar_v2.keys.json", b'{"a": [["x"], "float32"]}', "regulator_ar_v2.keys.json is no layout"),
        ("regulator_ar_v2.npz", None, "cannot be read"),
    ],
)
def test_a_damaged_file_is_named(
    codes: Path, file: str, content: bytes | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = codes / file
    path.write_bytes(damaged(path.read_bytes()) if content is None else content)
    assert main([str(codes)]) == 1
    assert said in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_refused_at_once(codes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(codes), "--json", str(codes / "nowhere" / "report.json")])
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert "--json" in captured.err
    assert captured.out == ""
