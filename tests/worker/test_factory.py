"""A model or an engine is one line of a table, and nothing else is imported for it."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any, get_args

import pytest

from shared.config import WorkerConfig
from tests.support.forked import run
from worker.factory import ENGINES
from worker.models.catalogue import MODULES, model_named

OURS = ("worker", "shared", "gateway", "tools", "tests", "torch._dynamo", "torch._inductor")


def _import(models: tuple[str, ...]) -> None:
    """Prints what is imported by and by, as in a process that has imported none of `OURS`."""
    for name in [name for name in sys.modules if name.startswith(OURS)]:
        del sys.modules[name]
    config: Any = import_module("shared.settings").WorkerConfig
    import_module("worker.main")
    for model in models:
        import_module("worker.factory").make_engine(config(model=model, right_ms=60), "cpu")
        print("\n".join(f"{model} {name}" for name in sys.modules))
    whisper = import_module("worker.models.seedvc.spec").NETWORKS["whisper"]
    whisper.blank(whisper.config({}))  # has embeddings
    print("\n".join(f"later {name}" for name in sys.modules))


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """Modules that a worker has imported once the engine of a model is made after those before it, and ``later``."""
    done = run(_import, ("shift", "passthrough", "nano"), environ=os.environ)
    assert done.returncode == 0, done.stderr
    modules: dict[str, set[str]] = {}
    for when, name in (line.split(" ", 1) for line in done.stdout.splitlines()):
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
