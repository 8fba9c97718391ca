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
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from shared.addresses import free_port

ROOT = Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")

# Imports what the base brings; then each part in a process of its own, forked from there, with what it brings besides.
GUARD = """
import importlib, json, os, sys, traceback
base, parts = json.loads(sys.stdin.read())

class Refuse:
    refused = ()

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.refused:
            raise ModuleNotFoundError(f"{name} is in none of the extras", name=name)

guard = Refuse()
sys.meta_path.insert(0, guard)

def take(refused, modules):
    guard.refused = refused
    try:
        for module in modules:
            importlib.import_module(module)
    except BaseException:
        return traceback.format_exc(), []
    return "", sorted({name.partition(".")[0] for name in sys.modules})

found = {"base": take(*base)}
for part, given in parts.items():
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        with open(writing, "w") as answer:
            json.dump(take(*given), answer)
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        found[part] = json.load(answer)
    os.waitpid(pid, 0)
json.dump(found, sys.stdout)
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


@cache
def owners_of_modules() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def refused(*extras: str) -> list[str]:
    """What one may import of the installed distributions, but not with `extras` alone."""
    brought = distributions(*extras)
    return [
        top
        for top, owners in owners_of_modules().items()
        if top not in OURS and not {normal(o) for o in owners} & brought
    ]


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


PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], set[str]]] = {  # extras, packages, and what is never imported
    "gateway": (("gateway",), ("gateway", "shared", "tools.service"), {"torch", "torchaudio", "safetensors"}),
    "worker": (("worker",), ("worker", "shared", "tools.service", "tools.file_vc"), {"aiohttp", "uvloop"}),
    "client": (("client",), ("tools.client", "shared", "tools.service"), {"torch", "uvloop"}),
    "base": ((), ("tools.service",), {"torch", "aiohttp", "uvloop"}),
}


@pytest.fixture(scope="module")
def imported() -> dict[str, tuple[str, list[str]]]:
    """For each of `PARTS` what went wrong, and every top-level module that its packages import."""
    given = {part: (refused(*extras), modules(*packages)) for part, (extras, packages, _) in PARTS.items()}
    asked = json.dumps([given.pop("base"), given])
    command = [sys.executable, "-c", GUARD]
    done = subprocess.run(command, cwd=ROOT, input=asked, capture_output=True, text=True, check=True)
    found: dict[str, tuple[str, list[str]]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("part", PARTS)
def test_an_extra_is_enough_for_its_part(imported: dict[str, tuple[str, list[str]]], part: str) -> None:
    error, found = imported[part]
    assert error == ""
    assert set(PARTS[part][1][0].split(".")[:1]) <= set(found)
    assert not set(found) & PARTS[part][2]


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


# Each command in a process of its own, forked from one that has imported the command line; exit codes on stdout.
COMMANDS = """
import json, os, sys
from tools.service import cli
codes = []
for number, arguments in enumerate(json.loads(sys.argv[1])):
    pid = os.fork()
    if not pid:
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{number}.{name}", os.O_CREAT | os.O_WRONLY), descriptor)
        code = 99
        try:
            cli.main(arguments)
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
json.dump(codes, sys.stdout)
"""


def said_by(folder: Path, refused: list[str], *commands: tuple[str, ...]) -> list[str]:
    """What ``fast-vc`` says where there are none of the modules and libraries `refused`. It always ends with 2."""
    (folder / "sitecustomize.py").write_text(WITHOUT)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("FASTVC_")}
    environ |= {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))), "TEST_REFUSED": json.dumps(refused)}
    environ |= {"FASTVC_GATEWAY__PORT": str(free_port()), "FASTVC_LINK__PORT": str(free_port())}
    command = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=True)
    said = [(folder / f"{number}.err").read_text() for number in range(len(commands))]
    assert json.loads(done.stdout) == [2] * len(commands), said
    assert not any((folder / f"{number}.out").read_text() for number in range(len(commands)))
    return said


NEEDED = {  # extras by the command that they are for
    ("gateway",): "gateway",
    ("worker",): "worker",
    ("serve", "--workers", "0"): "gateway",
    ("models", "list"): "worker",
    ("voices", "list"): "worker",
    ("keys", "tls"): "gateway",
}


def test_a_command_whose_extra_is_not_installed_says_which(tmp_path: Path) -> None:
    for (command, extra), said in zip(NEEDED.items(), said_by(tmp_path, refused(), *NEEDED), strict=True):
        assert f"pip install 'fast-vc-pool[{extra}]'" in said, command
        assert "Traceback" not in said, command


def test_without_libopus_a_gateway_says_how_to_get_it(tmp_path: Path) -> None:
    (said,) = said_by(tmp_path, ["libopus"], ("serve", "--workers", "0"))
    assert "apt-get install libopus0" in said
    assert "Traceback" not in said
