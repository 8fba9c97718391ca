"""What is in the images and what is not."""

from __future__ import annotations

import configparser
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shared.config import ROOT

from .conftest import TAG, docker

GATEWAY, WORKER = f"fast-vc-gateway:{TAG}", f"fast-vc-worker:{TAG}"
BOTH = pytest.mark.parametrize("image", [GATEWAY, WORKER])
GATEWAY_LIMIT_BYTES = 250_000_000
TOOLS_OF_BUILDS = ("gcc", "cc", "make", "ld", "pip", "pip3", "git", "apt-get", "perl", "curl", "wget")


def inspect(image: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(docker("image", "inspect", image).stdout)[0]
    return content


def run(image: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    options = ["--rm", "--read-only", "--network", "none", "--tmpfs", "/tmp", "--entrypoint", command[0]]
    return docker("run", *options, image, *command[1:], check=check)


@pytest.fixture(autouse=True)
def _built(tree: Path) -> None:
    """Each of these looks at images."""


def test_the_gateway_is_small_and_knows_no_torch() -> None:
    assert inspect(GATEWAY)["Size"] < GATEWAY_LIMIT_BYTES
    assert "ModuleNotFoundError" in run(GATEWAY, "python", "-c", "import torch", check=False).stderr


def test_the_worker_knows_no_aiohttp() -> None:
    assert "ModuleNotFoundError" in run(WORKER, "python", "-c", "import aiohttp", check=False).stderr


@BOTH
def test_labels_user_health_and_version(image: str) -> None:
    settings = inspect(image)["Config"]
    project = configparser.ConfigParser()
    project.read(ROOT / "setup.cfg")
    version = project["metadata"]["version"]
    assert settings["Labels"]["org.opencontainers.image.version"] == version
    assert settings["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert settings["User"] == "10001:10001"
    assert settings["Healthcheck"]["Test"][0] == "CMD"
    assert version in run(image, "fast-vc", "version").stdout


@BOTH
def test_no_tools_of_builds_are_left(image: str) -> None:
    found = run(image, "sh", "-c", f"command -v {' '.join(TOOLS_OF_BUILDS)}", check=False).stdout
    assert found == ""
    assert "No module named pip" in run(image, "python", "-m", "pip", check=False).stderr


@BOTH
def test_the_history_tells_no_secret_and_the_files_hold_none(image: str) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    for word in ("password", "token", "secret", "api_key", "://"):
        assert word not in history.lower()
    found = run(image, "sh", "-c", "ls /keys/gateway /keys/worker /keys 2>/dev/null; ls -A /var/lib/fast-vc")
    assert "key_secret" not in found.stdout
    assert ".env" not in found.stdout


@BOTH
def test_exactly_the_pinned_versions_are_installed(image: str) -> None:
    program = "import importlib.metadata as m; print(*(f'{d.name.lower()}=={d.version}' for d in m.distributions()))"
    installed = dict(text.replace("_", "-").split("==") for text in run(image, "python", "-c", program).stdout.split())
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    both = set(installed) & set(pinned) - {"torch"}  # a CPU build of it was put in its place
    assert {"numpy", "pyzmq", "pydantic"} <= both
    assert {name: installed[name] for name in both} == {name: pinned[name] for name in both}


def test_a_change_of_code_builds_one_layer_anew(tree: Path) -> None:
    def layers() -> list[str]:
        found: list[str] = inspect(GATEWAY)["RootFS"]["Layers"]
        return found

    before = layers()
    changed = tree / "gateway" / "__init__.py"
    text = changed.read_text()
    try:
        changed.write_text(text + "# changed\n")
        docker("build", "--quiet", "--file", str(tree / "docker" / "gateway.Dockerfile"), "--tag", GATEWAY, str(tree))
        after = layers()
    finally:
        changed.write_text(text)
        docker("build", "--quiet", "--file", str(tree / "docker" / "gateway.Dockerfile"), "--tag", GATEWAY, str(tree))
    assert after[0] == before[0]
    assert after[1] != before[1]
