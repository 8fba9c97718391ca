"""How a network is published: the file that holds its weights, and the names they have in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Shapes = Mapping[str, tuple[int, ...]]
Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A published file, and how it names what one network needs."""

    repository: str
    file: str
    licence: str  # of the weights, by its SPDX name, as their publisher states it
    nesting: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ("",)  # the first that occurs is taken off; entries without it belong to others
    rename: Rules = ()  # regular expressions from published names to ours, applied in order
    ignore: tuple[str, ...] = ()  # regular expressions of published names the original carries and does not use
    refuse: tuple[str, ...] = ()  # of entries that make a file another one than is meant
    mirrors: tuple[str, ...] = ()  # repositories to try when the first has no such file
    config_file: str | None = None  # beside the weights, read by the network's configuration
    needs_folder: bool = False  # other repositories have a file of this name: a plain copy lies in a folder of its own

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,) if self.config_file is None else (self.file, self.config_file)

    @property
    def repositories(self) -> tuple[str, ...]:
        return (self.repository, *self.mirrors)

    @property
    def folder(self) -> str:
        """Of plain copies: the repository's name without its owner."""
        return self.repository.partition("/")[2]


def as_published(sizes: Any) -> Callable[[Shapes], Any]:
    """The configuration of a network whose published sizes are fixed."""
    return lambda shapes: sizes


@dataclass(frozen=True, slots=True)
class PublishedNetwork:
    """One network: where its weights are, and how it is built from its sizes."""

    name: str
    layout: PublishedFile
    build: Callable[[Any], nn.Module]
    config: Callable[[Shapes], Any]  # its sizes: as published, or read off the file's shapes
    read_config: Callable[[Mapping[str, object]], Any] | None = None  # its sizes from ``layout.config_file``

    def blank(self, config: Any) -> nn.Module:
        """It without memory or values, on torch's meta device: shapes to be given their weights."""
        with torch.device("meta"), Undrawn():
            return self.build(config)


class Undrawn(TorchFunctionMode):
    """Modules are made without the random values that torch draws for them, which takes as long as to read a file's.
    For an embedding on the meta device torch would even import its compiler, a second or two."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        drawn = func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)
        return given["tensor"] if drawn else func(*args, **given)
