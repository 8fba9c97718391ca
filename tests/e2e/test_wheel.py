"""The wheel: built from a copy of the tree, installed elsewhere, started where nothing of the project lies."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from packaging.version import Version

from shared.addresses import free_port
from shared.config import ROOT, Config
from shared.settings import WorkerGroup
from tools.service.supervisor import local_children

from .conftest import Serve

QUICK = {  # on any machine
    "WORKER__MAX_BATCH": 1,
    "WORKER__WARM_UP_S": 1,
    "GATEWAY__LATENCY_BUDGET_MS": 60_000,
    "WEBRTC__ENABLED": "false",
}
PACKAGES = ("config", "gateway", "shared", "tools", "worker")


def pip(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders in the tree that it is made from."""
    if pip("--version", cwd=ROOT).returncode:
        pytest.skip("no pip in this environment: the wheel is NOT tested")
    copy = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    # not compressed, which says nothing and takes long; with this environment's setuptools where it can build wheels
    options = ["--no-deps", "--config-settings=--build-option=--compression=stored"]
    if Version(importlib.metadata.version("setuptools")) >= Version("70.1"):
        options.append("--no-build-isolation")
    built = pip("wheel", *options, "--wheel-dir", copy / "dist", ".", cwd=copy)
    if "No matching distribution found for setuptools" in built.stderr:
        pytest.skip("setuptools cannot be fetched to build with: the wheel is NOT tested")
    assert built.returncode == 0, built.stderr
    (path,) = (copy / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that holds the wheel, and sees this one's libraries but not this tree."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    install = ("install", "--no-deps", "--no-index", "--no-compile", wheel)  # what is not run need not be compiled
    installed = pip("--python", folder / "bin" / "python", *install, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text("\n".join(libraries), encoding="utf-8")
    return folder / "bin" / "python"


class Installed(Serve):
    """The installed command, started in `folder`."""

    def start_installed(self, python: Path, workers: int = 1) -> Installed:
        self.port, self.link_port, self.workers = free_port(), free_port(), workers
        given = QUICK | {"GATEWAY__PORT": self.port, "LINK__PORT": self.link_port}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("FASTVC_", "PYTHON"))}
        self.python = python
        self.environ = inherited | {f"FASTVC_{key}": str(value) for key, value in given.items()}
        with (self.folder / "serve.out").open("w") as log:
            command = [python.parent / "fast-vc", "serve", "--workers", str(workers)]
            self.process = subprocess.Popen(
                command, env=self.environ, cwd=self.folder, text=True, stdout=log, stderr=log
            )
        self.until(self.is_up, timeout_s=200)
        return self

    def is_up(self) -> bool:
        """All that was started is."""
        with suppress(OSError):
            return self.get("/health")[0] == 200 and self.ready_workers() == self.workers
        return False

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        """A program of the environment, in `folder`."""
        words = [str(word) for word in command]
        return subprocess.run(
            words, env=self.environ, cwd=self.folder, text=True, capture_output=True, timeout=200, check=False
        )

    def convert_sample(self, output: Path) -> subprocess.CompletedProcess[str]:
        sample = next(self.python.parents[1].glob("lib/python*/site-packages/worker/assets/samples/sample.flac"))
        command = [self.python, "-P", "-m", "tools.ws_client", "--url", self.url, "--no-real-time"]
        command += ["--source-wav-path", sample, "--output", output, "--json", output.with_suffix(".json")]
        return self.run(*command)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Installed]:
    (tmp_path / "work").mkdir()
    serve = Installed(tmp_path / "work")
    yield serve
    if serve.process.poll() is None:
        serve.stop()


def test_the_wheel_brings_profiles_page_weights_and_voices(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
    for name in ("config/default.yaml", "config/prod.yaml", "gateway/web/index.html", "shared/build.json"):
        assert name in names
    for name in ("nano/nano.safetensors", "voices/voices.yaml", "samples/sample.flac"):
        assert f"worker/assets/{name}" in names


@pytest.mark.timeout(400)
def test_an_installed_service_converts_the_sample(python: Path, place: Installed, tmp_path: Path) -> None:
    """Half a minute on a slow machine: the bundled model is loaded, measured and converts 10 s of speech."""
    assert list(place.folder.iterdir()) == []
    place.start_installed(python)
    output = tmp_path / "answer.wav"
    client = place.convert_sample(output)
    assert client.returncode == 0, client.stderr
    source, rate = soundfile.read(ROOT / "worker" / "assets" / "samples" / "sample.flac")
    answer, rate_out = soundfile.read(output)
    assert len(answer) / rate_out == pytest.approx(len(source) / rate, abs=0.5)
    assert np.sqrt(np.mean(answer**2)) > 0.01
    assert json.loads(output.with_suffix(".json").read_text())["complete"]["concealed_chunks"] == 0
    assert place.stop() == 0
    assert {path.name for path in place.folder.iterdir()} == {"temp", "logs", "serve.out"}


@pytest.mark.timeout(400)
def test_foreign_packages_in_the_working_folder_do_no_harm(python: Path, place: Installed) -> None:
    """Another project lives here, and its packages are called as ours are.

    The worker, started as `fast-vc serve` starts it, finds its configuration, and gives up before torch is imported.
    """
    for package in PACKAGES:
        (place.folder / package).mkdir()
        (place.folder / package / "__init__.py").write_text("raise SystemExit('a foreign package')")
    (place.folder / "config" / "default.yaml").write_text("another: {program: 1}\n")
    place.start_installed(python, workers=0)
    assert place.get("/models")[0] == 200
    children = local_children(Config(), 1, [WorkerGroup()], [], [])
    command = next(child.command for child in children if child.role == "worker")
    refused = place.run(python, *command[1:], "--gateway", "tcp://nowhere")
    assert (refused.returncode, "write tcp://HOST:PORT" in refused.stderr) == (2, True), refused.stderr
    assert place.stop() == 0
