"""Published checkpoints: where they are on this machine, and how to get them.

A folder of checkpoints (``checkpoints/`` unless the configuration says otherwise) is both: a place for plain copies,
``FOLDER/FILE`` or ``FOLDER/REPOSITORY/FILE``, and a Hugging Face cache. ``HF_HUB_CACHE`` names another cache,
``HF_ENDPOINT`` a mirror, ``HF_HUB_OFFLINE=1`` forbids downloads. What is here is used without asking the network.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from torch import nn

from worker.models.published.bigvgan import BigVganConfig
from worker.models.seedvc.spec import SPECS, spec_named
from worker.models.weights.checkpoints import NETWORKS, CheckpointError, Layout, first_line, load_network, network_named

DEFAULT_FOLDER = Path("checkpoints")


@dataclass(frozen=True, slots=True)
class FileState:
    """A file that a model needs. ``path`` is None while it is not on this machine."""

    repository: str
    file: str
    path: Path | None

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size if self.path else 0


def files(model: str, folder: Path = DEFAULT_FOLDER) -> list[FileState]:
    """The files of a model and where they are; the network is not asked."""
    states = []
    for network in spec_named(model).networks:
        layout = NETWORKS[network].layout
        for file in layout.files:
            state = FileState(layout.repository, file, find(layout, file, folder))
            if state not in states:  # one file holds the transformer and the regulator
                states.append(state)
    return states


def fetch(model: str, folder: Path = DEFAULT_FOLDER) -> list[FileState]:
    """Download what is missing of a model, with progress bars. Raises ``CheckpointError``."""
    for network in spec_named(model).networks:
        layout = NETWORKS[network].layout
        for file in layout.files:
            obtain(layout, file, folder)
    return files(model, folder)


def load(network: str, folder: Path = DEFAULT_FOLDER, config: Any = None) -> nn.Module:
    """A network with its published weights, downloaded if they are not here. Raises ``CheckpointError``.

    config: its sizes; None: as published.
    """
    layout = network_named(network).layout
    if layout.config_file is not None:
        path = obtain(layout, layout.config_file, folder)
        try:
            config = BigVganConfig.from_published(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: not a configuration of {network} ({first_line(error)}).") from error
    return load_network(network, obtain(layout, layout.file, folder), config)


def layout_of(network: str) -> Layout:
    """How a network is published. Raises ``CheckpointError`` for an unknown one."""
    return network_named(network).layout


def find(layout: Layout, file: str, folder: Path) -> Path | None:
    """A file that is on this machine: a plain copy, or in the cache."""
    repositories = (layout.repository, *layout.mirrors)
    plain = [folder / repository.partition("/")[2] / file for repository in repositories]
    if is_unambiguous(file):
        plain.append(folder / file)
    cached = (try_to_load_from_cache(repository, file, cache_dir=cache(folder)) for repository in repositories)
    paths = [*plain, *(Path(path) for path in cached if isinstance(path, str))]
    return next((path for path in paths if path.is_file()), None)


def obtain(layout: Layout, file: str, folder: Path) -> Path:
    """A file that is on this machine, or is now."""
    path = find(layout, file, folder)
    if path is not None:
        return path
    where = f"{layout.repository}: {file}"
    copy = folder / layout.repository.partition("/")[2] / file
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{where} is not here and HF_HUB_OFFLINE is set: put a copy at {copy}.")
    for repository in (layout.repository, *layout.mirrors):
        try:
            return Path(hf_hub_download(repository, file, cache_dir=cache(folder)))
        except LocalEntryNotFoundError as error:  # the hub could not be reached: a mirror cannot be either
            raise CheckpointError(
                f"{where} is not here and {constants.ENDPOINT} cannot be reached: try again, set HF_ENDPOINT, or put a "
                f"copy at {copy}."
            ) from error
        except (EntryNotFoundError, RepositoryNotFoundError):
            continue
        except Exception as error:  # each transport has errors of its own
            raise CheckpointError(f"{where} could not be downloaded ({first_line(error)}).") from error
    raise CheckpointError(f"{where} is no longer published there: put a copy at {copy}.")


def cache(folder: Path) -> Path:
    """The Hugging Face cache in use."""
    return Path(constants.HF_HUB_CACHE) if os.environ.get("HF_HUB_CACHE") else folder


def is_unambiguous(file: str) -> bool:
    """Whether only one repository publishes a file of this name."""
    layouts = [network.layout for network in NETWORKS.values()]
    return len({layout.repository for layout in layouts if file in layout.files}) == 1


def table(folder: Path = DEFAULT_FOLDER) -> str:
    """What ``fast-vc models list`` prints: every model's files, and which are here."""
    lines = []
    for model in SPECS:
        states = files(model, folder)
        here = sum(state.path is not None for state in states)
        lines.append(f"{model}: {here} of {len(states)} files here")
        for state in states:
            place = f"{state.size_bytes / 1e6:8.1f} MB  {state.path}" if state.path else "       -     not here"
            lines.append(f"  {state.repository + ': ' + state.file:<86} {place}")
    return "\n".join(lines)
