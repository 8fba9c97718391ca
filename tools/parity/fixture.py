"""A folder of recorded inputs and outputs, the synthetic weights behind them, and comparisons with ours.

The format is described in ``tools/check_parity.py``.
"""

from __future__ import annotations

import copy
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.models.seedvc import spec
from worker.models.seedvc2 import networks as seedvc2
from worker.models.weights import checkpoints

DEFAULT_TOLERANCE = 1e-4
WIDER = {kind: 3e-4 for kind in ("hubert", "astral", "cfm_v2", "timbre_v2")}  # where no manifest says so
CONSTANTS = ("input_pos", "freqs", ".filter", "num_batches_tracked")
WEIGHTLESS = ("mel", "fbank")

# Twice the largest error measured on a CPU at each precision, over all outputs of a kind; most of CAM++'s is its head.
LOWER_PRECISION_TOLERANCES: Mapping[torch.dtype, Mapping[str, float]] = {
    torch.bfloat16: {
        "bigvgan": 0.04,
        "campplus": 0.6,
        "cfm": 0.04,
        "dit": 0.05,
        "hift": 0.012,
        "regulator": 0.07,
        "rmvpe": 0.02,
        "whisper": 0.15,
        "xlsr": 0.16,
        "ar_v2": 0.15,
        "astral": 0.41,
        "cfm_v2": 0.16,
        "dit_v2": 0.065,
        "hubert": 0.72,
        "timbre_v2": 0.13,
    },
    torch.float16: {
        "bigvgan": 0.006,
        "campplus": 0.08,
        "cfm": 0.006,
        "dit": 0.008,
        "hift": 0.0015,
        "regulator": 0.01,
        "rmvpe": 0.0025,
        "whisper": 0.02,
        "xlsr": 0.02,
        "ar_v2": 0.02,
        "astral": 0.06,
        "cfm_v2": 0.02,
        "dit_v2": 0.0085,
        "hubert": 0.11,
        "timbre_v2": 0.017,
    },
}
NETWORKS = {**spec.NETWORKS, **seedvc2.NETWORKS}
SIZED = tuple(name for name in NETWORKS if name not in ("cfm", "regulator"))  # those two fit any size


class ParityError(Exception):
    """A fixture, or the folder, cannot be checked."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One recorded item against ours. ``unit``: of the error and the tolerance, ``abs``, ``relative`` or ``share``."""

    network: str
    item: str
    error: float
    tolerance: float
    unit: str = "abs"

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # false for NaN


@dataclass(frozen=True, slots=True)
class Fixture:
    """Arrays of one network, and where and how to run it. ``name`` may say more than ``network_name``."""

    name: str
    network_name: str  # of ``NETWORKS``, ``mel`` or ``fbank``
    arrays: Mapping[str, NDArray[Any]]
    keys: Path
    tolerance: float
    device: torch.device
    dtype: torch.dtype
    used: set[str] = field(default_factory=set)  # names of arrays that a runner asked for
    missing: dict[str, None] = field(default_factory=dict)  # and of those that an item lacks, in their order

    def tensor(self, name: str) -> Tensor:
        """In float32 or int64, whatever type and byte order it was recorded in."""
        if name not in self.arrays:
            raise ParityError(f"lacks {name}")
        values = self.arrays[name]
        if values.dtype.kind not in "fiub":
            raise ParityError(f"{name} holds no numbers")
        self.used.add(name)
        plain = np.float32 if values.dtype.kind == "f" else np.int64
        return torch.from_numpy(values.astype(plain, copy=False)).to(self.device)

    def optional(self, name: str) -> Tensor | None:
        return self.tensor(name) if name in self.arrays else None

    def suffixes(self, stem: str) -> list[str]:
        """What follows ``stem`` in the arrays' names."""
        found = [name.removeprefix(stem) for name in self.arrays if name.startswith(stem)]
        if not found:
            raise ParityError(f"has no {stem}*")
        return found

    def has(self, *names: str) -> bool:
        """Whether an item can be run that wants these arrays. Those that are not there are noted."""
        lacking = [name for name in names if name not in self.arrays]
        self.missing.update(dict.fromkeys(lacking))
        return not lacking

    def whole(self, items: Iterable[str], *stems: str) -> list[str]:
        """Those of `items` that have an array ``STEM_ITEM`` of every stem."""
        return [item for item in items if self.has(*(f"{stem}_{item}" for stem in stems))]

    def unused_outputs(self) -> list[str]:
        """What was recorded and compared with nothing."""
        return [name for name in self.arrays if name.startswith("out_") and name not in self.used]

    def network(self) -> Any:
        network = filled_network(self.network_name, self.keys)
        if self.device.type == "cpu" and self.dtype == torch.float32:
            return network
        return copy.deepcopy(network).to(self.device, self.dtype)  # the next fixture may want it as it was

    def compare(self, item: str, ours: Tensor, expected: Tensor, *, relative: bool = False) -> Comparison:
        """The largest difference of one item; shapes must agree up to axes of size one."""
        a, b = ours.detach().double().cpu().squeeze(), expected.double().cpu().squeeze()
        if a.shape != b.shape:
            raise ParityError(f"{item}: ours is {list(ours.shape)}, recorded is {list(expected.shape)}")
        difference = (a - b).abs()
        if relative:
            difference = difference / b.abs().clamp(min=1.0)
        error = difference.max().item() if difference.numel() else 0.0
        return Comparison(self.name, item, error, self.tolerance, "relative" if relative else "abs")

    def compare_rows(self, item: str, ours: Tensor, expected: Tensor) -> Iterator[Comparison]:
        """One comparison a row of a batch."""
        if len(ours) != len(expected):
            raise ParityError(f"{item}: ours has {len(ours)} rows, recorded are {len(expected)}")
        for row, (a, b) in enumerate(zip(ours, expected, strict=True)):
            yield self.compare(item if len(ours) == 1 else f"{item}[{row}]", a, b)


def stack(items: list[Tensor], dim: int) -> tuple[Tensor, Tensor]:
    """Items ``[b, ...]`` as one batch, padded at the end of axis ``dim``, and the length of each row."""
    longest = max(item.shape[dim] for item in items)
    rows = sum(len(item) for item in items)
    shape = list(items[0].shape)
    shape[0], shape[dim] = rows, longest
    out = items[0].new_zeros(shape)
    lens, row = [], 0
    for item in items:
        out[row : row + len(item)].narrow(dim, 0, item.shape[dim]).copy_(item)
        lens += [item.shape[dim]] * len(item)
        row += len(item)
    return out, torch.tensor(lens, device=out.device)


def synthetic_weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The weight that belongs to a checkpoint's ``name``: the recipe behind the recorded outputs."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("weight_g"):
        values = (0.4 + 0.4 * random.rand(*shape)) * (4.0 if "conv_post" in name else 1.0)
    elif name.endswith("running_var"):
        values = 0.5 * random.rand(*shape) + (1.5 if name.startswith("unet.") else 0.3)
    elif name.endswith("running_mean"):
        values = 0.1 * random.standard_normal(shape)
    elif name.endswith((".act.alpha", ".act.beta")):
        values = 0.2 * random.standard_normal(shape)
    elif name.endswith(".alpha"):
        values = 0.5 + random.rand(*shape)
    elif len(shape) >= 2:
        values = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    elif name.endswith(".weight"):
        values = 1.0 + 0.1 * random.standard_normal(shape)
    else:
        values = 0.02 * random.standard_normal(shape)
    return values.astype(np.float32)


def synthetic_entries(keys: Path, prefix: str = "") -> dict[str, Tensor]:
    """Entries of a checkpoint's layout, those whose names begin with ``prefix``.

    Constants and counters, which no network reads, are zero. Raises ``ParityError`` for a file that is no layout.
    """
    entries = {}
    try:
        for name, (shape, dtype) in json.loads(keys.read_text()).items():
            if not name.startswith(prefix):
                continue
            constant = "float" not in dtype or name.endswith(CONSTANTS)
            values = np.zeros(shape, dtype) if constant else synthetic_weight(name, tuple(shape))
            entries[name] = torch.from_numpy(values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ParityError(f"{keys.name} is no layout of a checkpoint ({checkpoints.first_line(error)})") from error
    return entries


@lru_cache(maxsize=1)
def filled_network(name: str, keys: Path) -> nn.Module:
    """Kept for the next fixture, as ``dit_*`` and ``cfm_*`` share theirs; only one, they are large."""
    return checkpoints.assemble(NETWORKS[name], synthetic_entries(keys))


def fixture_names(folder: Path, only: Iterable[str] = ()) -> list[str]:
    """Names of a folder's fixtures, so ordered that those with the same weights are neighbours."""
    if not folder.is_dir():
        raise ParityError(f"{folder}: no such folder")
    found = {path.stem for path in folder.glob("*.npz")}
    wanted = set(only)
    if wanted - found:
        raise ParityError(
            f"{folder}: no fixture {', '.join(sorted(wanted - found))}; it has {', '.join(sorted(found))}"
        )
    if not found:
        raise ParityError(f"{folder}: no .npz fixtures in it")
    return sorted(wanted or found, key=lambda name: (re.sub("^(dit|timbre)_", "cfm_", name), name))


def network_of(name: str) -> str:
    """The network of a fixture called ``NETWORK`` or ``NETWORK_anything``."""
    name = re.sub("^(dit|timbre)_", "cfm_", name)
    for known in (*WEIGHTLESS, *SIZED):
        if name == known or name.startswith(f"{known}_"):
            return known
    raise ParityError(f"is of no network known here ({', '.join((*WEIGHTLESS, *SIZED))})")


def of_kind(values: Mapping[str, float], name: str, otherwise: float) -> float:
    """The value of a fixture's kind, which its name begins with; the longest kind counts."""
    kinds = [kind for kind in values if name == kind or name.startswith(f"{kind}_")]
    return values[max(kinds, key=len)] if kinds else otherwise


def manifest_entry(manifest: Path, name: str) -> Mapping[str, Any]:
    """What a folder's manifest says of a fixture; nothing where there is none. Raises ``ParityError``."""
    try:
        entry = json.loads(manifest.read_text()).get(name, {}) if manifest.is_file() else {}
        if not isinstance(entry.get("keys") or "", str) or not float(entry.get("atol", 1)) >= 0:
            raise ValueError("keys is a file's name and atol a number")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ParityError(f"{manifest.name} cannot be used ({checkpoints.first_line(error)})") from error
    return cast(Mapping[str, Any], entry)


def open_fixture(
    folder: Path, name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Fixture:
    """Raises ``ParityError`` if its files cannot be used."""
    entry = manifest_entry(folder / "manifest.json", name)
    try:
        with (folder / f"{name}.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            content = {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ParityError(f"cannot be read ({checkpoints.first_line(error)})") from error
    network_name = network_of(name)
    keys = folder / (entry.get("keys") or f"{network_name}.keys.json")
    if network_name not in WEIGHTLESS and not keys.is_file():
        raise ParityError(f"lacks {keys.name}")
    tolerance = float(entry.get("atol", of_kind(WIDER, name, DEFAULT_TOLERANCE)))
    tolerance = of_kind(LOWER_PRECISION_TOLERANCES.get(dtype, {}), name, tolerance)
    return Fixture(name, network_name, content, keys, tolerance, torch.device(device), dtype)
