"""A program of `tools` whose extra is not installed: one line that names what to install."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

from shared.config import ROOT
from shared.errors import ConfigError, naming_libopus
from shared.extras import advice

NEEDS = {
    "bench_door": ("click", "all"),
    "bench_engine": ("torch", "worker"),
    "bench_gateway": ("aiohttp", "all"),
    "bench_gateways": ("aiohttp", "all"),
    "bench_models": ("torch", "worker"),
    "bench_webrtc": ("aiohttp", "all,webrtc"),
    "check_parity": ("torch", "worker"),
    "decrypt_session": ("cryptography", "gateway"),
    "evaluate": ("soundfile", "all,train"),
    "evaluate_chunks": ("soxr", "worker"),
    "evaluate_codes": ("torch", "worker"),
    "evaluate_shift": ("parselmouth", "worker,dev"),
    "file_vc": ("torch", "worker"),
    "loadgen": ("tqdm", "client"),
    "search_schedule": ("torch", "worker"),
    "simulate_fleet": ("msgpack", "all"),
    "train": ("torch", "worker,train"),
    "ws_client": ("aiohttp", "client"),
}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Our modules are imported anew, so that they miss what a test takes away."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("gateway", "shared", "tools", "worker"):
            monkeypatch.delitem(sys.modules, name)
    return monkeypatch


@pytest.mark.parametrize("program", NEEDS)
def test_a_program_names_the_extra_that_it_lacks(
    without: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str
) -> None:
    library, extra = NEEDS[program]
    for name in [library, *(name for name in sys.modules if name.startswith(f"{library}."))]:
        without.setitem(sys.modules, name, None)  # an import of it raises ModuleNotFoundError
    without.setattr(sys, "argv", [program, "data"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"tools.{program}", run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f" needs {library}, which is not here: pip install 'fast-vc-pool[{extra}]'" in said


def test_every_program_is_among_them() -> None:
    programs = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"__init__", "demo"}  # demo starts others
    programs |= {path.parent.name for path in (ROOT / "tools").glob("*/__main__.py")}
    assert programs == set(NEEDS)


@pytest.mark.parametrize("group", ["voices", "models"])
@pytest.mark.parametrize(
    ("environ", "said"),
    [({}, "{group} needs "), ({"FASTVC_GATEWAY__PROT": "1"}, "FASTVC_GATEWAY__PROT: gateway.prot: unknown key")],
    ids=["an extra is missing", "a key is wrong"],
)
def test_a_group_that_lists_by_itself_says_it_as_its_commands_do(
    without: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], group: str, environ: dict[str, str], said: str
) -> None:
    for library in ("soundfile", "torch"):
        without.setitem(sys.modules, library, None)
    for name, value in environ.items():
        without.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("tools.service.cli").main([group])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"fast-vc: {said.format(group=group)}")


def test_a_clone_that_was_never_installed_is_named_by_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.extras.PACKAGE", "fast-vc-pool-of-nobody")
    said = advice(ModuleNotFoundError("no", name="aiohttp"), "loadgen", "client")
    assert said == f"loadgen needs aiohttp, which is not here: pip install '{Path(ROOT)}[client]'"


def test_a_module_of_our_own_that_is_missing_is_a_fault() -> None:
    assert advice(ModuleNotFoundError("no", name="gateway.lost"), "loadgen", "client") is None


def test_libopus_that_is_missing_is_named_with_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"libopus: Could not find .* apt-get install libopus0"), naming_libopus():
        raise Exception("Could not find Opus library.")  # as opuslib does
