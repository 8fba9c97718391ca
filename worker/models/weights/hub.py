"""Published checkpoints: where they are on this machine, and how to get them.

A folder of checkpoints (``checkpoints/`` unless the configuration says otherwise) is both: a place for plain copies,
``FOLDER/FILE`` or ``FOLDER/REPOSITORY/FILE``, and a Hugging Face cache. ``HF_HUB_CACHE`` names another cache,
``HF_ENDPOINT`` a mirror, ``HF_HUB_OFFLINE=1`` forbids downloads. What is here is used without asking the network.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from loguru import logger
from torch import nn

from worker.models.weights.checkpoints import CheckpointError, first_line, load_network
from worker.models.weights.published import PublishedFile, PublishedNetwork

DEFAULT_FOLDER = Path("checkpoints")


@dataclass(frozen=True, slots=True)
class FileState:
    """A file that a model needs. ``path`` is None while it is not on this machine."""

    repository: str
    file: str
    licence: str
    path: Path | None

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size if self.path else 0


def files(networks: Iterable[PublishedNetwork], folder: Path = DEFAULT_FOLDER) -> list[FileState]:
    """The files of networks and where they are; the hub is not asked."""
    states = []
    for network in networks:
        layout = network.layout
        for file in layout.files:
            state = FileState(layout.repository, file, layout.licence, find(layout, file, folder))
            if state not in states:  # one file may hold several networks
                states.append(state)
    return states


def fetch(networks: Iterable[PublishedNetwork], folder: Path = DEFAULT_FOLDER) -> list[FileState]:
    """Download what is missing, with progress bars. Raises ``CheckpointError``."""
    networks = list(networks)
    for network in networks:
        for file in network.layout.files:
            obtain(network.layout, file, folder)
    return files(networks, folder)


def load(network: PublishedNetwork, folder: Path = DEFAULT_FOLDER, config: Any = None) -> nn.Module:
    """A network with its published weights, downloaded if they are not here. Raises ``CheckpointError``.

    config: its sizes; None: as published.
    """
    layout = network.layout
    if layout.config_file is not None and network.read_config is not None:
        path = obtain(layout, layout.config_file, folder)
        try:
            config = network.read_config(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: not a configuration of {network.name} ({first_line(error)}).") from error
    return load_network(network, obtain(layout, layout.file, folder), config)


def find(layout: PublishedFile, file: str, folder: Path) -> Path | None:
    """A file that is on this machine: a plain copy, or in the cache."""
    plain = [folder / repository.partition("/")[2] / file for repository in layout.repositories]
    if not layout.needs_folder:
        plain.append(folder / file)
    cached = (try_to_load_from_cache(repository, file, cache_dir=cache(folder)) for repository in layout.repositories)
    paths = [*plain, *(Path(path) for path in cached if isinstance(path, str))]
    return next((path for path in paths if path.is_file()), None)


def obtain(layout: PublishedFile, file: str, folder: Path) -> Path:
    """A file that is on this machine, or is now."""
    path = find(layout, file, folder)
    if path is not None:
        return path
    where = f"{layout.repository}: {file}"
    copy = folder / layout.folder / file
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{where} is not here and HF_HUB_OFFLINE is set: put a copy at {copy}.")
    for repository in layout.repositories:
        try:
            logger.info("downloading {}: {} from {} (licence {})", repository, file, constants.ENDPOINT, layout.licence)
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
