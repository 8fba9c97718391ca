"""Published weights into our networks: strictly, or with one sentence that says why not.

A published file nests its entries, prefixes them, keeps weight norm as two tensors and carries entries nobody uses.
A ``PublishedFile`` says so for each network; everything the network needs must then be there, in shape. What it does
not know is left out, and named once in the log.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from worker.models.weights.published import PublishedFile, PublishedNetwork

Entries = dict[str, Tensor]

COUNTER = ".num_batches_tracked"  # BatchNorm's, of no use in inference
NAMED = 4  # entries in one message
_WEIGHT_NORM = re.compile(r"(.*)(weight_[gv]|parametrizations\.weight\.original[01])")
_DIRECTION = {"weight_g": "weight_v", "parametrizations.weight.original0": "parametrizations.weight.original1"}


class CheckpointError(Exception):
    """A file of weights cannot be used; the message is one sentence for its owner."""


def load_network(network: PublishedNetwork, path: str | Path, config: Any = None) -> nn.Module:
    """``network`` with the weights of a file, in float32 on the CPU, in evaluation mode.

    config: the network's sizes; None: as published (of a fine-tuned model: as the file's shapes say). Entries that the
    network does not know are left out and logged. Raises ``CheckpointError``; nothing half-loaded is ever returned.
    """
    entries = read_entries(Path(path), network.layout.nesting)
    try:
        module = assemble(network, entries, config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    unknown = unknown_entries(network, module, entries)
    if unknown:
        logger.warning("{}: left out {} entries unknown to {}: {}", path, len(unknown), network.name, some_of(unknown))
    for tensor in module.state_dict(keep_vars=True).values():
        tensor.data = tensor.data.clone()  # what was read is a view of the file, which may change or go away
    return module


def read_entries(path: Path, nesting: tuple[str, ...] = ()) -> Entries:
    """The tensors of a ``.safetensors`` or ``torch.save`` file by name, without executing anything it holds.

    nesting: keys that lead to them, as tables in tables or as dotted names; a file that holds its tensors at the top is
    taken as it is.
    """
    content = read_file(path)
    for key in nesting:
        if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
            inside = {str(name): value for name, value in content.items() if str(name).startswith(f"{key}.")}
            content = {name.removeprefix(f"{key}."): value for name, value in inside.items()} or content
            continue
        if not isinstance(content, Mapping) or key not in content:
            raise CheckpointError(f"{path}: expected its weights under {' / '.join(nesting)}, found no {key!r}.")
        content = content[key]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a table of weights, found {type(content).__name__}.")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def read_file(path: Path) -> Any:
    """What a file of weights holds: tables of tables and tensors."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a complete file of weights ({first_line(error)}).") from error
    except Exception as error:  # pickle raises what it likes for bytes that are not a pickle
        raise CheckpointError(f"{path}: not a file of weights ({first_line(error)}).") from error


def assemble(network: PublishedNetwork, entries: Mapping[str, Tensor], config: Any = None) -> nn.Module:
    """As ``load_network``, from entries with their published names; shares memory with them."""
    published = take_prefix(entries, network.layout.prefixes)
    if not published:
        raise CheckpointError(f"holds none of the weights of {network.name}.")
    foreign = [name for name in entries if any(re.search(pattern, name) for pattern in network.layout.refuse)]
    if foreign:
        raise CheckpointError(f"not a file of {network.name} alone: it holds {some_of(foreign)} as well.")
    weights = {
        our_name(network.layout, name): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in fold_weight_norm(published).items()
    }
    if config is None:
        try:
            config = network.config({name: tuple(tensor.shape) for name, tensor in published.items()})
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"not a checkpoint of {network.name}: it lacks {error}.") from error
    module = network.blank(config)
    fill(module, network.name, weights)
    return module.eval().requires_grad_(False)


def fill(module: nn.Module, name: str, weights: Entries) -> None:
    """Give ``module`` its weights, or raise ``CheckpointError`` and leave it alone."""
    wanted = {entry: tensor for entry, tensor in module.state_dict().items() if not entry.endswith(COUNTER)}
    missing = [entry for entry in wanted if entry not in weights]
    misshapen = [
        f"{entry} is {list(weights[entry].shape)}, not {list(tensor.shape)}"
        for entry, tensor in wanted.items()
        if entry in weights and weights[entry].shape != tensor.shape
    ]
    complaints = [
        f"{verdict} {len(entries)} ({some_of(entries)})"
        for verdict, entries in (("missing", missing), ("of another shape", misshapen))
        if entries
    ]
    if complaints:
        raise CheckpointError(f"not a checkpoint of {name}: entries {'; '.join(complaints)}.")
    module.load_state_dict({entry: weights[entry] for entry in wanted}, strict=False, assign=True)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.num_batches_tracked = torch.zeros((), dtype=torch.int64)


def used_entries(network: PublishedNetwork, module: nn.Module, entries: Iterable[str]) -> set[str]:
    """Those of a file's entries, by their names in it, that ``module`` is made of."""
    wanted = set(module.state_dict())
    prefix = prefix_of(entries, network.layout.prefixes)
    return {
        name
        for name in entries
        if prefix is not None
        and bare(name).startswith(prefix)
        and our_name(network.layout, folded_name(bare(name).removeprefix(prefix))) in wanted
    }


def unknown_entries(network: PublishedNetwork, module: nn.Module, entries: Iterable[str]) -> list[str]:
    """Those that ``module`` does not use and that its layout does not expect either."""
    used = used_entries(network, module, entries)
    prefix = prefix_of(entries, network.layout.prefixes)
    if prefix is None:
        return []
    return [
        name
        for name in entries
        if name not in used
        and not name.endswith(COUNTER)
        and bare(name).startswith(prefix)  # others belong to other networks
        and not any(re.search(pattern, bare(name).removeprefix(prefix)) for pattern in network.layout.ignore)
    ]


def our_name(layout: PublishedFile, name: str) -> str:
    """Of a published entry, without its prefix and with its weight norm folded."""
    for pattern, replacement in layout.rename:
        name = re.sub(pattern, replacement, name)
    return name


def bare(name: str) -> str:
    """Without the ``module.`` of data-parallel training."""
    return name.removeprefix("module.")


def prefix_of(entries: Iterable[str], prefixes: tuple[str, ...]) -> str | None:
    """The first of ``prefixes`` that occurs."""
    names = [bare(name) for name in entries]
    return next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in names)), None)


def take_prefix(entries: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> Entries:
    """Entries under the first prefix that occurs, without it and without ``module.``."""
    prefix = prefix_of(entries, prefixes)
    if prefix is None:
        return {}
    named = {bare(name): tensor for name, tensor in entries.items()}
    return {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}


def folded_name(name: str) -> str:
    """The entry that a half of a weight norm becomes part of; any other name as it is."""
    match = _WEIGHT_NORM.fullmatch(name)
    return name if match is None else f"{match[1]}weight"


def fold_weight_norm(entries: Mapping[str, Tensor]) -> Entries:
    """Replace ``g`` and ``v`` of weight norm (Salimans & Kingma, 2016) by ``g * v / |v|``, old names and new alike.

    The norm runs over the axes along which ``g`` has one value.
    """
    folded = {}
    for name, tensor in entries.items():
        match = _WEIGHT_NORM.fullmatch(name)
        if match is None:
            folded[name] = tensor
            continue
        stem, part = match.groups()
        if part not in _DIRECTION:
            continue
        direction = entries.get(stem + _DIRECTION[part])
        if direction is None or direction.dim() != tensor.dim():
            raise CheckpointError(f"lacks {stem}{_DIRECTION[part]}, the other half of a weight norm.")
        axes = [axis for axis, size in enumerate(tensor.shape) if size == 1]
        if any(size not in (1, whole) for size, whole in zip(tensor.shape, direction.shape, strict=True)):
            raise CheckpointError(f"has a weight norm at {stem}weight whose halves differ in shape.")
        norm = direction.float().square().sum(axes, keepdim=True).sqrt()
        folded[f"{stem}weight"] = direction.float() * (tensor.float() / norm)
    return folded


def some_of(names: list[str]) -> str:
    """The first few."""
    return ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
