"""A model or an engine is one line of a table, and nothing else is imported for it."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import get_args

import pytest

from shared.config import ROOT, WorkerConfig
from worker.factory import ENGINES
from worker.models.catalogue import MODULES, model_named

_IMPORTED = """
import sys
import worker.main
from shared.config import WorkerConfig
from worker.factory import make_engine
for model in sys.argv[1:]:
    make_engine(WorkerConfig(model=model, right_ms=60), "cpu")
    print("\\n".join(f"{model} {name}" for name in sys.modules))
from worker.models.seedvc.spec import NETWORKS
NETWORKS["whisper"].blank(NETWORKS["whisper"].config({}))  # has embeddings
print("\\n".join(f"later {name}" for name in sys.modules))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """Modules that a worker has imported once the engine of a model is made after those before it, and ``later``."""
    command = [sys.executable, "-c", _IMPORTED, "shift", "passthrough", "nano"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    modules: dict[str, set[str]] = {}
    for when, name in (line.split(" ", 1) for line in said):
        modules.setdefault(when, set()).add(name)
    return modules


def test_every_configurable_model_has_its_engine() -> None:
    assert set(get_args(WorkerConfig.model_fields["model"].annotation)) == set(ENGINES)
    assert all(callable(import_module(module).make) for module in ENGINES.values())
    assert all(model_named(name).name == name for name in MODULES)


def test_engines_without_networks_import_none(imported: dict[str, set[str]]) -> None:
    foreign = ("worker.models.published", "worker.models.seedvc", "worker.models.nano", "worker.engines.diffusion")
    allowed = {"worker.models.published", "worker.models.published.silero"}  # of the gate
    assert not {name for name in imported["passthrough"] if name.startswith(foreign)} - allowed


def test_a_model_imports_its_own_networks_alone(imported: dict[str, set[str]]) -> None:
    others = ("hift", "bigvgan", "rmvpe", "campplus", "xlsr")
    modules = imported["nano"]
    assert "worker.models.nano.networks" in modules
    assert not {f"worker.models.published.{name}" for name in others} & modules
    assert "worker.models.seedvc.spec" not in modules


def test_nothing_imports_a_compiler(imported: dict[str, set[str]]) -> None:
    """Torch's takes long to import, also where a blank network with embeddings is made, and nothing here compiles."""
    assert "worker.models.published.whisper" in imported["later"]
    assert "torch._dynamo" not in imported["later"]
