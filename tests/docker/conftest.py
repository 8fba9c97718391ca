"""Containers, really built and really run; `make test-docker`, not part of `make test`. Needs an engine with Compose.

The images are built from a copy of the files that git knows, so nothing that happens to lie about gets into them.
Everything made here has names of its own and is removed afterwards, except the engine's build cache.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.addresses import free_port
from shared.config import ROOT

from .marked import CHEAP, ENTRY, PATIENT, PROGRAM

ASKED_FOR = "DOCKER_TESTS"  # `make test-docker` sets it
if os.environ.get(ASKED_FOR) != "1":
    collect_ignore_glob = ["test_*.py"]

SAMPLE = ROOT / "worker" / "assets" / "samples" / "sample.flac"
KEY = "a-key-of-the-docker-tests"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TAG = "test"
IMAGES = [f"fast-vc-{name}:{TAG}" for name in ("gateway", "worker", "proxy")]


def docker(*arguments: str, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """`docker ARGUMENTS`; a failure shows what it said."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=timeout_s)
    assert not check or done.returncode == 0, (
        f"docker {' '.join(arguments)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    )
    return done


def until(true: Callable[[], Any], timeout_s: float = 90.0) -> None:
    """Wait for `true()`, which may fail to connect meanwhile."""
    end = time.monotonic() + timeout_s
    while True:
        with suppress(OSError, ValueError):
            if true():
                return
        assert time.monotonic() < end, "did not become true in time"
        time.sleep(0.2)


def _clean_tree(folder: Path) -> None:
    known = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in known.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def _wheels_of_torch() -> list[Path]:
    """CPU wheels that this machine's pip finds in a folder."""
    folders = [Path(place) for place in os.environ.get("PIP_FIND_LINKS", "").split() if Path(place).is_dir()]
    return [wheel for folder in folders for wheel in sorted(folder.glob("torch-*cpu*.whl"))]


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clean copy of the project, from which the images have been built without CUDA."""
    if shutil.which("docker") is None or docker("info", check=False).returncode != 0:
        pytest.skip("NO DOCKER ENGINE ANSWERS: the images and compose.yaml are not tested")
    folder = tmp_path_factory.mktemp("project")
    _clean_tree(folder)
    environ = os.environ | {"TAG": TAG}
    wheels = _wheels_of_torch()
    for wheel in wheels[-1:]:
        shutil.copy2(wheel, folder / "docker" / "wheels")
    if not wheels:
        pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
        assert pinned is not None
        environ |= {"EXTRA_INDEX": CPU_INDEX, "TORCH": f"torch=={pinned[1]}+cpu"}
    command = ["docker", "compose", "--profile", "tls", "build", "gateway", "worker", "proxy"]
    built = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-5000:]
    yield folder
    docker("image", "rm", "--force", *IMAGES, check=False)
    docker("image", "prune", "--force", check=False)


@dataclass
class Stack:
    """One `docker compose` project, as an operator handles it."""

    folder: Path
    settings: dict[str, str]
    profiles: tuple[str, ...] = ()
    overrides: dict[str, Any] | None = None  # merged over compose.yaml
    name: str = field(default_factory=lambda: f"fvc-test-{secrets.token_hex(4)}")
    port: int = field(default_factory=free_port)
    tls_port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        lines = {"FASTVC_AUTH__API_KEYS": f'["{KEY}"]', **self.settings}
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        self._files = ["--file", "compose.yaml"]
        if self.overrides is not None:
            (self.folder / "overrides.yaml").write_text(yaml.safe_dump(self.overrides))
            self._files += ["--file", "overrides.yaml"]

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environ = {"TAG": TAG, "PUBLISH_PORT": str(self.port), "TLS_PORT": str(self.tls_port)}
        profiles = [text for profile in self.profiles for text in ("--profile", profile)]
        command = ["docker", "compose", "--project-name", self.name, *self._files, *profiles, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=os.environ | environ, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done

    def up(self, workers: int = 1) -> Stack:
        self.compose("up", "--detach", "--no-build", "--scale", f"worker={workers}")
        until(lambda: self.ready()["workers"] == workers, 180)
        return self

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout", "5", "--remove-orphans", check=False)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--quiet", service).stdout.split()

    def inspect(self, service: str) -> list[dict[str, Any]]:
        ids = self.compose("ps", "--all", "--quiet", service).stdout.split()
        content: list[dict[str, Any]] = json.loads(docker("inspect", *ids).stdout)
        return content

    def inside(self, service: str, *command: str, check: bool = True) -> str:
        done = self.compose("exec", "--no-TTY", service, *command, check=check)
        return done.stdout + done.stderr

    def ready(self) -> dict[str, Any]:
        """What /ready says, also when it says no."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=2) as response:
                content: dict[str, Any] = json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                content = json.loads(error.read())
        return content

    def recreate(self, service: str) -> None:
        """As an upgrade does; to when the new container serves."""
        before = self.containers(service)
        self.compose("up", "--detach", "--no-build", "--no-deps", "--force-recreate", service)
        assert set(before).isdisjoint(self.containers(service))
        until(lambda: self.ready()["workers"] > 0)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"


@pytest.fixture(scope="module")
def stack(tree: Path) -> Iterator[Stack]:
    """`docker compose up` with one worker and the bundled model, and a TLS proxy in front."""
    made = Stack(tree, {"FASTVC_LOG__FORMAT": "json"}, profiles=("tls",))
    try:
        yield made.up()
    finally:
        made.down()


@pytest.fixture
def cheap(tree: Path) -> Iterator[Stack]:
    """Not up yet. Workers that copy, so that many calls fit whatever else the machine does; nothing is just late."""
    settings = {
        "FASTVC_WORKER__MODEL": "passthrough",
        "FASTVC_WORKER__RMS_MIX_RATE": "1",
        "FASTVC_WORKER__VAD": "energy",
        **PATIENT,
    }
    made = Stack(tree, settings)
    try:
        yield made
    finally:
        made.down()


@pytest.fixture
def marked(tree: Path) -> Iterator[Stack]:
    """Not up yet. Workers that mark what they convert, and conceal nothing for want of time."""
    (tree / "marking.py").write_text(PROGRAM)
    worker = {"entrypoint": ENTRY, "volumes": ["./marking.py:/marking.py:ro"]}
    made = Stack(tree, CHEAP | PATIENT, overrides={"services": {"worker": worker}})
    try:
        yield made
    finally:
        made.down()
