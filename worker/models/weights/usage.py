"""What files of weights hold, and what of it a model's networks are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from worker.models.weights.checkpoints import read_entries, read_file, take_prefix, used_entries
from worker.models.weights.hub import find
from worker.models.weights.published import PublishedFile, PublishedNetwork

GROUP_DEPTH = 2  # parts of a dotted name by which unused entries are counted


@dataclass(frozen=True, slots=True)
class FileUsage:
    """One file, with how many of its entries each network takes, and how many nobody does, by the start of their
    names. ``path`` is None where the file is not on this machine."""

    layout: PublishedFile
    path: Path | None
    used: Mapping[str, int]
    unused: Mapping[str, int]


def usage(networks: Iterable[PublishedNetwork], folder: Path) -> list[FileUsage]:
    """Every file of weights of ``networks``, each once. Raises ``CheckpointError`` for one that cannot be read."""
    by_file: dict[tuple[str, str], list[PublishedNetwork]] = {}
    for network in networks:
        by_file.setdefault((network.layout.repository, network.layout.file), []).append(network)
    return [_usage(sharing, folder) for sharing in by_file.values()]


def _usage(networks: list[PublishedNetwork], folder: Path) -> FileUsage:
    layout = networks[0].layout
    path = find(layout, layout.file, folder)
    if path is None:
        return FileUsage(layout, None, {}, {})
    names = set(_names(read_file(path)))
    counts = {}
    for network in networks:
        own = used_by(network, path)
        counts[network.name] = len(own)
        names -= own
    groups = Counter(".".join(name.split(".")[:GROUP_DEPTH]) for name in names)
    return FileUsage(layout, path, counts, dict(sorted(groups.items())))


def used_by(network: PublishedNetwork, path: Path) -> set[str]:
    """Entries of a file that a network of the published sizes has a place for, by their dotted names in it."""
    entries = read_entries(path, network.layout.nesting)
    published = take_prefix(entries, network.layout.prefixes)
    try:
        sizes = network.config({name: tuple(entry.shape) for name, entry in published.items()})
    except (KeyError, ValueError):
        return set()  # a file of something else
    module = network.blank(sizes)
    nested = f"{'.'.join(network.layout.nesting)}." if network.layout.nesting else ""
    inside = {name for name in _names(read_file(path)) if name.startswith(nested)}
    prefix = nested if inside else ""
    return {prefix + name for name in used_entries(network, module, entries)}


def _names(content: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all tensors in tables of tables."""
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}"
        else:
            yield from _names(value, f"{prefix}{name}.")
