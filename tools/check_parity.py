"""Compare our networks with recorded inputs and outputs of the original ones.

    python -m tools.check_parity tests/data/parity [--device cuda:0] [--dtype bfloat16] [--only dit_tiny] [--json FILE]

A folder holds ``NAME.npz`` (``in_*``, ``out_*``), ``NAME.keys.json`` (the checkpoint's names and shapes; ``dit_*`` uses
that of ``cfm_*``) and, if tolerances differ from 1e-4, ``manifest.json``. Weights are drawn from names and shapes and
go through the strict loader as a published file would. Batches, items, lengths, step counts, guidance and schedules are
read from the arrays and their names. Items recorded alone are run as a batch of unequal lengths where the network takes
one. Exit code 1: an item is beyond its tolerance, or a fixture cannot be run.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.models import bigvgan, campplus, checkpoints, dit, fbank, flow, hift, mel, regulator, rmvpe, whisper, xlsr
from worker.models.wavenet import LAYERS, MARGIN

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_TOLERANCE = 1e-4
CONSTANTS = ("input_pos", "freqs", ".filter", "num_batches_tracked")
WAVENET_REACH = LAYERS * MARGIN  # frames


class ParityError(Exception):
    """A fixture, or the folder, cannot be checked."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One recorded item against ours. ``unit``: of the error and the tolerance, ``abs`` or ``relative``."""

    network: str
    item: str
    error: float
    tolerance: float
    unit: str = "abs"

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # false for NaN


@dataclass(frozen=True, slots=True)
class Failure:
    network: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fixture:
    """Arrays of one network, and where and how to run it. ``name`` may say more than ``network_name``."""

    name: str
    network_name: str  # of ``checkpoints.NETWORKS``, ``mel`` or ``fbank``
    arrays: Mapping[str, NDArray[Any]]
    keys: Path
    tolerance: float
    device: torch.device
    dtype: torch.dtype

    def tensor(self, name: str) -> Tensor:
        if name not in self.arrays:
            raise ParityError(f"lacks {name}")
        return torch.from_numpy(self.arrays[name]).to(self.device)

    def optional(self, name: str) -> Tensor | None:
        return self.tensor(name) if name in self.arrays else None

    def suffixes(self, stem: str) -> list[str]:
        """What follows ``stem`` in the arrays' names."""
        found = [name.removeprefix(stem) for name in self.arrays if name.startswith(stem)]
        if not found:
            raise ParityError(f"has no {stem}*")
        return found

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


Runner = Callable[[Fixture], Iterator[Comparison]]


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


def synthetic_entries(keys: Path) -> dict[str, Tensor]:
    """Every entry of a checkpoint's layout; constants and counters, which no network reads, are zero."""
    entries = {}
    for name, (shape, dtype) in json.loads(keys.read_text()).items():
        constant = "float" not in dtype or name.endswith(CONSTANTS)
        values = np.zeros(shape, dtype) if constant else synthetic_weight(name, tuple(shape))
        entries[name] = torch.from_numpy(values)
    return entries


@lru_cache(maxsize=1)
def filled_network(name: str, keys: Path) -> nn.Module:
    """Kept for the next fixture, as ``dit_*`` and ``cfm_*`` share theirs; only one, they are large."""
    return checkpoints.assemble(name, synthetic_entries(keys))


def run_dit(fixture: Fixture) -> Iterator[Comparison]:
    """The batch against each item alone (``out_solo_b``) and against the original's batch (``out_out``).

    With the WaveNet head the original's batch sees padding at an item's end, ours does not: frames its convolutions
    reach from there are compared with the item alone only.
    """
    network: dit.DiT = fixture.network()
    x, prompt, lens, t, style, mu = (
        fixture.tensor(f"in_{name}") for name in ("x", "prompt_x", "x_lens", "t", "style", "mu")
    )
    ours = network(x, prompt, lens, t, style, mu)
    batch = fixture.optional("out_out")
    for row, length in enumerate(lens.tolist()):
        alone = fixture.optional(f"out_solo_{row}")
        if alone is not None:
            yield fixture.compare(f"solo_{row}", ours[row, :, :length], alone)
        if batch is not None:
            padded = network.config.wavenet and length < x.shape[-1]
            until = max(length - WAVENET_REACH, 0) if padded else length
            if until:
                yield fixture.compare(f"out[{row}]", ours[row, :, :until], batch[row, :, :until])


def run_cfm(fixture: Fixture) -> Iterator[Comparison]:
    """All items recorded with the same steps, guidance and schedule go through one batched call."""
    network: dit.DiT = fixture.network()
    groups: dict[tuple[int, float, str], list[str]] = defaultdict(list)
    for suffix in fixture.suffixes("out_"):
        match = re.fullmatch(r"(.+)_n(\d+)_cfg([\d.]+)_(\w+)", suffix)
        if match is None:
            raise ParityError(f"out_{suffix} does not say item, steps, guidance and schedule")
        item, steps, guidance, schedule = match.groups()
        groups[int(steps), float(guidance), schedule].append(item)
    for (steps, guidance, schedule), items in groups.items():
        solver = flow.FlowSolver(network, steps=steps, guidance=guidance, schedule=schedule)  # type: ignore[arg-type]
        noise, noise_lens = stack([fixture.tensor(f"in_z_{item}") for item in items], dim=2)
        mu, _ = stack([fixture.tensor(f"in_mu_{item}") for item in items], dim=1)
        prompt, prompt_lens = stack([fixture.tensor(f"in_prompt_{item}") for item in items], dim=2)
        style = torch.cat([fixture.tensor(f"in_style_{item}") for item in items])
        ours = solver(noise, mu, prompt, style, noise_lens, prompt_lens)
        row = 0
        for item in items:
            name = f"{item}_n{steps}_cfg{guidance}_{schedule}"
            expected = fixture.tensor(f"out_{name}")
            yield fixture.compare(name, ours[row : row + len(expected), :, : expected.shape[-1]], expected)
            row += len(expected)


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


def run_regulator(fixture: Fixture) -> Iterator[Comparison]:
    network: regulator.LengthRegulator = fixture.network()
    for item in fixture.suffixes("in_content_"):
        lens = fixture.tensor(f"in_ylens_{item}")
        f0 = fixture.optional(f"in_f0_{item}")
        expected = fixture.optional(f"out_{item}")
        if expected is not None:
            ours = network(fixture.tensor(f"in_content_{item}"), expected.shape[1], target_lens=lens, f0=f0)
            yield from fixture.compare_rows(item, ours, expected)
        bins = fixture.optional(f"out_outbins_{item}")
        if bins is not None and f0 is not None:
            yield fixture.compare(f"outbins_{item}", regulator.f0_bins(f0), bins)


def run_mel(fixture: Fixture) -> Iterator[Comparison]:
    for size in fixture.suffixes("out_mel_"):
        if size not in ("tiny", "small", "base"):
            raise ParityError(f"out_mel_{size}: known are tiny, small and base")
        config: mel.MelConfig = getattr(mel, size.upper())
        wave = fixture.tensor(f"in_audio_{config.rate // 1000}k")
        yield from fixture.compare_rows(
            size, mel.MelSpectrogram(config).to(fixture.device)(wave), fixture.tensor(f"out_mel_{size}")
        )


def run_fbank(fixture: Fixture) -> Iterator[Comparison]:
    features = fbank.KaldiFbank().to(fixture.device)
    wave = fixture.tensor("in_audio_16k")
    for name, extract in (("fbank_raw", features), ("fbank", features.centred)):
        expected = fixture.optional(f"out_{name}")
        if expected is not None:
            yield fixture.compare(name, extract(wave), expected)


def run_campplus(fixture: Fixture) -> Iterator[Comparison]:
    network: campplus.CamPlus = fixture.network()
    for item in fixture.suffixes("in_fbank_"):
        features = fixture.tensor(f"in_fbank_{item}").to(fixture.dtype)
        embedding = fixture.optional(f"out_{item}")
        if embedding is not None:
            yield from fixture.compare_rows(item, network(features), embedding)
        head = fixture.optional(f"out_head_{item}")
        if head is not None:
            ours = network.head(features[: len(head)].transpose(1, 2))
            yield fixture.compare(f"head_{item}", ours[..., : head.shape[-1]], head)
        masked = fixture.optional(f"out_masked_{item}")
        if masked is not None:
            yield from fixture.compare_rows(
                f"masked_{item}", network(features, fixture.tensor(f"in_lens_{item}")), masked
            )


def run_hift(fixture: Fixture) -> Iterator[Comparison]:
    network: hift.Hift = fixture.network()
    for item in fixture.suffixes("in_mel_"):
        spectrum = fixture.tensor(f"in_mel_{item}")
        f0 = fixture.tensor(f"in_f0_{item}")
        samples = spectrum.shape[-1] * hift.HOP
        phase, noise = fixture.optional(f"in_phase_{item}"), fixture.optional(f"in_noise_{item}")
        if phase is None:
            phase = spectrum.new_zeros(len(spectrum), hift.HARMONICS, 1)
        if noise is None:
            noise = spectrum.new_zeros(len(spectrum), hift.HARMONICS, samples)
        results: dict[str, Callable[[], Tensor]] = {
            "f0pred": partial(network.f0_predictor, spectrum.to(fixture.dtype)),
            "source": partial(network.m_source, f0, phase, noise),
            "wave": partial(network, spectrum, f0=f0, phase=phase, noise=noise),
            "wave_predf0": partial(network, spectrum, phase=phase, noise=noise),
        }
        for name, run in results.items():
            expected = fixture.optional(f"out_{name}_{item}")
            if expected is not None:
                yield from fixture.compare_rows(f"{name}_{item}", run(), expected)


def run_bigvgan(fixture: Fixture) -> Iterator[Comparison]:
    network: bigvgan.BigVgan = fixture.network()
    for item in fixture.suffixes("in_mel_"):
        expected = fixture.optional(f"out_{item}")
        if expected is not None:
            yield from fixture.compare_rows(item, network(fixture.tensor(f"in_mel_{item}")), expected)
    for name in ("filter_up", "filter_down"):
        expected = fixture.optional(f"out_{name}")
        if expected is not None:
            yield fixture.compare(name, bigvgan.kaiser_sinc(), expected)


def run_rmvpe(fixture: Fixture) -> Iterator[Comparison]:
    """Pitch is compared through the decoder on recorded salience, and end to end where no near tie could flip it."""
    network: rmvpe.Rmvpe = fixture.network()
    front = rmvpe.RmvpeMel().to(fixture.device)
    for item in fixture.suffixes("in_audio_"):
        spectrum = front(torch.atleast_2d(fixture.tensor(f"in_audio_{item}")))
        expected = fixture.optional(f"out_mel_{item}")
        if expected is not None:
            yield fixture.compare(f"mel_{item}", spectrum, expected)
        ours = network(spectrum)
        salience = fixture.optional(f"out_salience_{item}")
        pitch = fixture.optional(f"out_f0_{item}")
        if salience is not None:
            yield from fixture.compare_rows(f"salience_{item}", ours, salience.view_as(ours))
            if pitch is not None:
                yield fixture.compare(f"f0_{item}", rmvpe.decode_f0(salience.view_as(ours)), pitch)
        if pitch is not None:
            clear = decided(ours.float() if salience is None else salience.view_as(ours), fixture.tolerance)
            recorded = pitch.view_as(clear)[clear]
            yield fixture.compare(f"f0_whole_{item}", rmvpe.decode_f0(ours)[clear], recorded, relative=True)
    if "in_decode_salience" in fixture.arrays:
        ours = rmvpe.decode_f0(fixture.tensor("in_decode_salience"))
        yield fixture.compare("decode_f0", ours, fixture.tensor("out_decode_f0"))


def decided(salience: Tensor, margin: float) -> Tensor:
    """Frames of ``[B, T, 360]`` whose highest class and whose voicing are clear by ``margin``."""
    best, second = salience.topk(2, dim=-1).values.unbind(-1)
    return (best - second > margin) & ((best - rmvpe.UNVOICED).abs() > margin)


def run_xlsr(fixture: Fixture) -> Iterator[Comparison]:
    network: xlsr.Xlsr = fixture.network()
    items = fixture.suffixes("in_audio_")
    wave, lens = stack([fixture.tensor(f"in_audio_{item}") for item in items], dim=1)
    yield from run_encoder(fixture, items, network(wave, lens))
    normalised = xlsr.normalise(wave, lens)
    row = 0
    for item in items:
        head = fixture.optional(f"out_normed_head_{item}")
        if head is not None:
            yield fixture.compare(f"normed_head_{item}", normalised[row : row + len(head), : head.shape[-1]], head)
        row += len(fixture.tensor(f"in_audio_{item}"))


def run_whisper(fixture: Fixture) -> Iterator[Comparison]:
    network: whisper.WhisperEncoder = fixture.network()
    items = fixture.suffixes("in_audio_")
    wave, lens = stack([fixture.tensor(f"in_audio_{item}") for item in items], dim=1)
    log_mel = whisper.WhisperMel().to(fixture.device)(wave, lens)
    yield from run_encoder(fixture, items, network(log_mel, wave.shape[-1]))
    row = 0
    for item in items:
        head = fixture.optional(f"out_logmel_{item}")
        if head is not None:
            yield fixture.compare(f"logmel_{item}", log_mel[row : row + len(head), :, : head.shape[-1]], head)
        row += len(fixture.tensor(f"in_audio_{item}"))


def run_encoder(fixture: Fixture, items: list[str], ours: Tensor) -> Iterator[Comparison]:
    row = 0
    for item in items:
        rows = len(fixture.tensor(f"in_audio_{item}"))
        expected = fixture.optional(f"out_{item}")
        if expected is not None:
            yield from fixture.compare_rows(item, ours[row : row + rows, : expected.shape[1]], expected)
        row += rows


RUNNERS: Mapping[str, Runner] = {
    "dit": run_dit,
    "cfm": run_cfm,
    "regulator": run_regulator,
    "mel": run_mel,
    "fbank": run_fbank,
    "campplus": run_campplus,
    "hift": run_hift,
    "bigvgan": run_bigvgan,
    "rmvpe": run_rmvpe,
    "xlsr": run_xlsr,
    "whisper": run_whisper,
}
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
    },
}
SIZED = tuple(name for name in checkpoints.NETWORKS if name not in ("cfm", "regulator"))  # those two fit any size


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
    return sorted(wanted or found, key=lambda name: name.replace("dit_", "cfm_"))


def network_of(name: str) -> str:
    """The network of a fixture called ``NETWORK`` or ``NETWORK_anything``."""
    name = name.replace("dit_", "cfm_")
    for known in (*WEIGHTLESS, *SIZED):
        if name == known or name.startswith(f"{known}_"):
            return known
    raise ParityError(f"is of no network known here ({', '.join((*WEIGHTLESS, *SIZED))})")


def open_fixture(
    folder: Path, name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Fixture:
    """Raises ``ParityError`` if its files cannot be used."""
    try:
        manifest = folder / "manifest.json"
        entry = json.loads(manifest.read_text()).get(name, {}) if manifest.is_file() else {}
        with (folder / f"{name}.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            content = {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ParityError(f"cannot be read ({checkpoints.first_line(error)})") from error
    network_name = network_of(name)
    keys = folder / (entry.get("keys") or f"{network_name}.keys.json")
    if network_name not in WEIGHTLESS and not keys.is_file():
        raise ParityError(f"lacks {keys.name}")
    tolerance = entry.get("atol", DEFAULT_TOLERANCE)
    tolerance = LOWER_PRECISION_TOLERANCES.get(dtype, {}).get(name.split("_")[0], tolerance)
    return Fixture(name, network_name, content, keys, tolerance, torch.device(device), dtype)


@torch.inference_mode()
def check(fixture: Fixture) -> list[Comparison]:
    """Run one fixture. Raises ``ParityError`` if it cannot be."""
    try:
        results = list(RUNNERS[fixture.name.split("_")[0]](fixture))
        if not results:
            raise ParityError("has no output to compare with")
        return results
    except (checkpoints.CheckpointError, RuntimeError, ValueError, IndexError) as error:
        raise ParityError(checkpoints.first_line(error)) from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="check_parity", description="Compare the networks with recorded outputs.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="one fixture; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    rows: list[Comparison] = []
    failures: list[Failure] = []
    try:
        device = torch.empty(0, device=options.device).device
        names = fixture_names(options.folder, options.only)
    except (ParityError, RuntimeError, AssertionError) as error:
        print(f"check_parity: {checkpoints.first_line(error)}", file=sys.stderr)
        return 1
    print(f"{'network':<16} {'item':<28} {'error':>10} {'tolerance':>10}")
    for name in names:
        try:
            results = check(open_fixture(options.folder, name, device, DTYPES[options.dtype]))
        except ParityError as error:
            failures.append(Failure(name, str(error)))
            print(f"{name:<16} cannot be run: {error}")
            continue
        rows += results
        for row in results:
            verdict = "" if row.passed else "  BEYOND"
            unit = " (relative)" if row.unit == "relative" else ""
            print(f"{row.network:<16} {row.item:<28} {row.error:10.2e} {row.tolerance:10.1e}{unit}{verdict}")
    beyond = sum(not row.passed for row in rows)
    print(f"{len(rows)} items, {beyond} beyond tolerance, {len(failures)} fixtures that cannot be run")
    if options.json:
        report = {
            "device": str(device),
            "dtype": options.dtype,
            "items": [asdict(row) | {"passed": row.passed} for row in rows],
            "failures": [asdict(failure) for failure in failures],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if beyond or failures else 0


if __name__ == "__main__":
    sys.exit(main())
