"""Every model with weights, by name. A new one is a line here; none is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from worker.models.weights import hub
from worker.models.weights.checkpoints import CheckpointError
from worker.models.weights.published import PublishedNetwork

if TYPE_CHECKING:
    from worker.models.networks import Networks

MODULES: Mapping[str, str] = {  # each has a function ``model(name) -> Model``
    "nano": "worker.models.nano.networks",
    "tiny": "worker.models.seedvc.model",
    "small": "worker.models.seedvc.model",
    "base": "worker.models.seedvc.model",
    "v2": "worker.models.seedvc2.model",
}


@dataclass(frozen=True, slots=True)
class FineTuned:
    """Somebody's own weights in place of a published model's."""

    checkpoint: Path
    config: Path | None = None  # the YAML file it was trained with, if its sizes differ


class Model(Protocol):
    """What a pipeline can be made of."""

    @property
    def name(self) -> str: ...

    @property
    def networks(self) -> tuple[PublishedNetwork, ...]:
        """What has to be downloaded; empty where the weights come with the package."""
        ...

    def load(self, folder: Path, own: FineTuned | None = None) -> Networks:
        """In float32 on the CPU; what is missing is downloaded to ``folder``. Raises ``CheckpointError``."""
        ...


def model_named(name: str) -> Model:
    """Raises ``CheckpointError`` for an unknown name."""
    if name not in MODULES:
        raise CheckpointError(f"unknown model {name!r}; known are {', '.join(MODULES)}.")
    return cast(Model, import_module(MODULES[name]).model(name))


def load_model(
    name: str,
    folder: Path = hub.DEFAULT_FOLDER,
    dit_checkpoint: Path | None = None,
    dit_config: Path | None = None,
) -> Networks:
    """Any model, as ``Model.load``. dit_checkpoint, dit_config: see ``FineTuned``. Raises ``CheckpointError``."""
    if dit_config is not None and dit_checkpoint is None:
        raise CheckpointError("dit_config_path needs dit_checkpoint_path beside it.")
    own = None if dit_checkpoint is None else FineTuned(dit_checkpoint, dit_config)
    return model_named(name).load(folder, own)


def table(folder: Path = hub.DEFAULT_FOLDER) -> str:
    """What ``fast-vc models list`` prints: every model's files, and which are here."""
    lines = []
    for name in MODULES:
        states = hub.files(model_named(name).networks, folder)
        if not states:
            lines.append(f"{name}: bundled")
            continue
        here = sum(state.path is not None for state in states)
        lines.append(f"{name}: {here} of {len(states)} files here")
        for state in states:
            place = f"{state.size_bytes / 1e6:8.1f} MB  {state.path}" if state.path else "       -     not here"
            lines.append(f"  {f'{state.repository}: {state.file}':<86} {state.licence:<12} {place}")
    return "\n".join(lines)
