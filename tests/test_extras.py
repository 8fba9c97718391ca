"""What an extra of setup.cfg brings is enough for its part.

A subprocess imports every module of a part while a finder refuses every installed library that the extras, and what
they require in turn, do not bring: as in an environment that was made with ``pip install fast-vc-pool[gateway]``.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from shared.addresses import free_port

ROOT = Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")

GUARD = """
import importlib, json, sys
refused, modules = json.loads(sys.argv[1]), json.loads(sys.argv[2])

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"{name} is in none of the extras", name=name)

sys.meta_path.insert(0, Refuse())
for module in modules:
    importlib.import_module(module)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
OURS = {"config", "gateway", "shared", "tools", "worker"}


def requirements(extra: str) -> list[Requirement]:
    text = SETUP["options"]["install_requires"] if extra == "base" else SETUP["options.extras_require"][extra]
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def distributions(*extras: str) -> set[str]:
    """Names of the distributions that installing the package with `extras` brings, dependencies of theirs included."""
    found: set[str] = set()
    waiting = [requirement for extra in ("base", *extras) for requirement in requirements(extra)]
    while waiting:
        requirement = waiting.pop()
        name = normal(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        found.add(name)
        waiting += [Requirement(line) for line in required]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def refused(*extras: str) -> list[str]:
    """What one may import of the installed distributions, but not with `extras` alone."""
    brought = distributions(*extras)
    by_module = importlib.metadata.packages_distributions()
    return [top for top, owners in by_module.items() if top not in OURS and not {normal(o) for o in owners} & brought]


def modules(*packages: str) -> list[str]:
    """Every module below `packages`; the ``__main__`` of a program is imported as well, under its own name."""
    found = []
    for package in packages:
        place = ROOT / Path(*package.split("."))
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        for path in files:
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def imported(extras: tuple[str, ...], packages: tuple[str, ...]) -> set[str]:
    command = [sys.executable, "-c", GUARD, json.dumps(refused(*extras)), json.dumps(modules(*packages))]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("extras", "packages", "never"),
    [
        (("gateway",), ("gateway", "shared", "tools.service"), {"torch", "torchaudio", "safetensors"}),
        (("worker",), ("worker", "shared", "tools.service", "tools.files"), {"aiohttp", "uvloop"}),
        (("client",), ("tools.client", "shared", "tools.service"), {"torch", "uvloop"}),
        ((), ("tools.service",), {"torch", "aiohttp", "uvloop"}),
    ],
    ids=["gateway", "worker", "client", "base"],
)
def test_an_extra_is_enough_for_its_part(extras: tuple[str, ...], packages: tuple[str, ...], never: set[str]) -> None:
    assert not imported(extras, packages) & never


def test_the_base_and_the_gateway_bring_no_torch_and_the_worker_no_aiohttp() -> None:
    assert "torch" not in distributions("gateway", "client")
    assert "aiohttp" not in distributions("worker")
    assert {"torch", "aiohttp"} <= distributions("gateway", "worker", "client")


def test_every_requirement_is_pinned_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {normal(name): version for name, version in pins.items()}
    extras = ("base", "gateway", "worker", "client", "webrtc")
    wanted = [requirement for extra in extras for requirement in requirements(extra)]
    for requirement in wanted:
        assert requirement.specifier.contains(pinned[normal(requirement.name)]), requirement
    assert set(pinned) == {normal(requirement.name) for requirement in wanted}


WITHOUT = """
import ctypes.util, json, os, sys
refused, find = json.loads(os.environ["TEST_REFUSED"]), ctypes.util.find_library

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
ctypes.util.find_library = lambda name: None if f"lib{name}" in refused else find(name)
"""


def said_by(folder: Path, refused: list[str], *arguments: str) -> str:
    """What ``fast-vc`` says where there are none of the modules and libraries `refused`. It ends with 2."""
    (folder / "sitecustomize.py").write_text(WITHOUT)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("FASTVC_")}
    environ |= {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))), "TEST_REFUSED": json.dumps(refused)}
    environ |= {"FASTVC_GATEWAY__PORT": str(free_port()), "FASTVC_LINK__PORT": str(free_port())}
    command = [sys.executable, "-m", "tools.service.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("gateway",), "gateway"),
        (("worker",), "worker"),
        (("serve", "--workers", "0"), "gateway"),
        (("models", "list"), "worker"),
        (("voices", "list"), "worker"),
        (("keys", "tls"), "gateway"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_a_command_whose_extra_is_not_installed_says_which(
    tmp_path: Path, arguments: tuple[str, ...], extra: str
) -> None:
    said = said_by(tmp_path, refused(), *arguments)
    assert f"pip install 'fast-vc-pool[{extra}]'" in said
    assert "Traceback" not in said


def test_without_libopus_a_gateway_says_how_to_get_it(tmp_path: Path) -> None:
    said = said_by(tmp_path, ["libopus"], "serve")
    assert "apt-get install libopus0" in said
    assert "Traceback" not in said
