"""Judge conversions: ``python -m tools.evaluate [--model NAME] [--streaming] [--pairs FOLDER_OR_CSV] [--json FILE]``,
or ``--recordings FOLDER`` in place of pairs.

Recordings are any folder of people who speak: each goes to every bundled voice and is counted with its language. The
name of the folder that it lies in says what is spoken (``en``, ``it``, ...); where it does not, Whisper does.

Pairs are a CSV with the columns ``source,target`` and, where there are any, ``output`` (already converted),
``other`` (another recording of the target's speaker), ``language`` (of the source) and ``group``; paths are relative to
the CSV. Or a folder with ``source``, ``target`` and perhaps ``output``, whose files have the same names. Without
outputs the model converts. Needs the ``train`` extra.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from shared.config import load
from tools.files.convert import MODELS
from tools.quality.conversions import Calls, Converter, Files
from tools.quality.judges import Judges, Measures
from tools.train.corpus import RATE, Wave, read
from worker.models.catalogue import load_model
from worker.models.nano.networks import load_bundled
from worker.models.published.mel import NANO, MelSpectrogram
from worker.models.weights.hub import DEFAULT_FOLDER

ROOT = Path(__file__).resolve().parents[2]
VOICES = ROOT / "worker/assets/voices"
SUFFIXES = (".wav", ".flac", ".ogg")
LANGUAGE = re.compile("[a-z]{2}")  # ISO 639-1
STRANGERS_PERCENTILE = 95
COLUMNS = ("to_target", "to_source", "before", "ceiling", "mos_output", "mos_copy", "mos_source", "cer", "f0_error")


@dataclass(frozen=True, slots=True)
class Pair:
    source: Path
    target: Path
    output: Path | None = None
    other: Path | None = None
    language: str = "en"
    group: str = ""

    @property
    def name(self) -> str:
        return f"{self.source.stem}-{self.target.stem}"


@dataclass(frozen=True, slots=True)
class Case:
    pair: Pair
    measures: Measures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate", description=__doc__)
    parser.add_argument("--model", default="nano", choices=MODELS, help="converts pairs that have no output")
    parser.add_argument("--weights", type=Path, help="another file of nano's (default: the package's own)")
    parser.add_argument("--checkpoints", type=Path, default=DEFAULT_FOLDER, help="where other models' weights are kept")
    parser.add_argument("--streaming", action="store_true", help="as a caller hears it, by config/default.yaml")
    parser.add_argument("--steps", type=int, help="solver steps (default: as file_vc, or as the configuration)")
    parser.add_argument("--guidance", type=float, help="rate of classifier-free guidance (default: as file_vc)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--pairs", type=Path, help="CSV or folder (default: the bundled recordings)")
    parser.add_argument("--recordings", type=Path, help="folder of recordings: to every bundled voice, by language")
    parser.add_argument("--json", type=Path, help="write all measures here")
    parser.add_argument("--keep", type=Path, help="keep outputs and spectrogram pictures in this folder")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    judges = Judges()
    if options.recordings:
        pairs = recorded_pairs(options.recordings, judges.language)
    else:
        pairs = read_pairs(options.pairs) if options.pairs else bundled_pairs()
    with tempfile.TemporaryDirectory() as folder:
        keep: Path = options.keep or Path(folder)
        keep.mkdir(parents=True, exist_ok=True)
        needed = any(pair.output is None for pair in pairs)
        cases = evaluate(judges, pairs, converter_of(options) if needed else None, keep)
    print(table(cases))
    print(strangers(cases))
    if options.json:
        content = {
            "summary": {group: summary(rows) for group, rows in grouped(cases).items()},
            "cases": [
                {
                    "source": str(case.pair.source),
                    "target": str(case.pair.target),
                    "group": case.pair.group,
                    **asdict(case.measures),
                }
                for case in cases
            ],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


def converter_of(options: argparse.Namespace) -> Converter:
    """What the options name. Raises ``CheckpointError``."""
    if options.weights is not None:
        networks = load_bundled(options.weights)
    else:
        networks = load_model(options.model, options.checkpoints)
    if options.streaming:
        return Calls(networks, load(profile="default").worker, steps=options.steps)
    return Files(networks, steps=options.steps, guidance=options.guidance)


def bundled_pairs() -> list[Pair]:
    """The sample and the tests' recordings, to every bundled voice."""
    sources = {
        ROOT / "worker/assets/samples/sample.flac": "en",
        ROOT / "tests/data/male_english.flac": "en",
        ROOT / "tests/data/male_italian.flac": "it",
    }
    return [
        Pair(source, target, language=language)
        for source, language in sources.items()
        for target in sorted(VOICES.glob("*.flac"))
    ]


def recorded_pairs(folder: Path, language: Callable[[Wave], str]) -> list[Pair]:
    """Every recording below a folder to every bundled voice, grouped by language. Raises ``FileNotFoundError`` where
    there is none."""
    pairs = []
    for source in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        named = source.parent.name
        spoken = named if LANGUAGE.fullmatch(named) and source.parent != folder else language(read(source))
        pairs += [Pair(source, target, language=spoken, group=spoken) for target in sorted(VOICES.glob("*.flac"))]
    if not pairs:
        raise FileNotFoundError(f"{folder} holds no recording ({', '.join(SUFFIXES)})")
    return pairs


def read_pairs(path: Path) -> list[Pair]:
    """Pairs of a CSV or a folder. Raises ``FileNotFoundError`` naming what is missing."""
    if path.is_dir():
        pairs = []
        for source in sorted((path / "source").iterdir()):
            if source.suffix.lower() not in SUFFIXES:
                continue
            output = named(path / "output", source.stem)
            target = named(path / "target", source.stem)
            if target is None:
                raise FileNotFoundError(f"{path / 'target'} has no recording named {source.stem}")
            pairs.append(Pair(source, target, output))
        return pairs
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def at(text: str | None) -> Path | None:
        return path.parent / text if text else None

    pairs = [
        Pair(
            path.parent / row["source"],
            path.parent / row["target"],
            at(row.get("output")),
            at(row.get("other")),
            row.get("language") or "en",
            row.get("group") or "",
        )
        for row in rows
    ]
    for pair in pairs:
        for file_path in (pair.source, pair.target, pair.output, pair.other):
            if file_path is not None and not file_path.is_file():
                raise FileNotFoundError(f"{path} names {file_path}, which is not there")
    return pairs


def named(folder: Path, stem: str) -> Path | None:
    """The recording of this name, whatever its format."""
    return next((folder / f"{stem}{suffix}" for suffix in SUFFIXES if (folder / f"{stem}{suffix}").is_file()), None)


def evaluate(judges: Judges, pairs: list[Pair], converter: Converter | None, keep: Path) -> list[Case]:
    """Convert what has no output, judge everything, draw it."""
    cases = []
    for pair in tqdm(pairs, desc="pairs"):
        source, target = read(pair.source), read(pair.target)
        other = None if pair.other is None else read(pair.other)
        copy = None if converter is None else converter.copy(pair.source)
        if pair.output is not None:
            output = read(pair.output)
        else:
            assert converter is not None
            output = converter.convert(pair.source, pair.target)
            soundfile.write(keep / f"{pair.name}.wav", np.clip(output, -1, 1), RATE)
        measures = judges.measure(source, target, output, other=other, copy=copy, language=pair.language)
        cases.append(Case(pair, measures))
        draw({"source": source, "output": output, "target": target}, keep / f"{pair.name}.png")
    return cases


def draw(waves: dict[str, Wave], path: Path) -> None:
    """Log-mel spectrograms, one below the other, on one scale of time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.2 * len(waves)), layout="constrained")
    spectrogram = MelSpectrogram(NANO)
    axes = figure.subplots(len(waves), 1, sharex=True)
    for axis, (name, wave) in zip(axes, waves.items(), strict=True):
        mel = spectrogram(torch.from_numpy(wave)[None])[0].numpy()
        seconds = mel.shape[1] * NANO.hop / NANO.rate
        axis.imshow(mel, origin="lower", aspect="auto", extent=(0, seconds, 0, NANO.bins), vmin=-10, vmax=1)
        axis.set(title=name, ylabel="mel bin")
    axes[-1].set(xlabel="s", xlim=(0, max(len(wave) for wave in waves.values()) / RATE))
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=80)


def grouped(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Cases by group, and all of them."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.pair.group or "pairs", []).append(case)
    if len(groups) > 1:
        groups["all"] = [case for rows in list(groups.values()) for case in rows]
    return groups


def summary(cases: list[Case]) -> dict[str, float | int]:
    """Means over cases; of ``f0_error`` the median; of those that were measured."""
    result: dict[str, float | int] = {"cases": len(cases)}
    for name in COLUMNS:
        values = [value for case in cases if (value := getattr(case.measures, name)) is not None]
        if values:
            result[name] = float(np.median(values) if name == "f0_error" else np.mean(values))
    result["nearer"] = float(np.mean([case.measures.nearer for case in cases]))
    return result


def strangers(cases: list[Case]) -> str:
    """How alike the voices of different people already are, which is what likeness is worth: sources to targets."""
    before = [case.measures.before for case in cases]
    percentile = np.percentile(before, STRANGERS_PERCENTILE)
    middle = np.median(before)
    return f"sources and targets before: median {middle:.3f}, {STRANGERS_PERCENTILE}th percentile {percentile:.3f}"


def table(cases: list[Case]) -> str:
    """Markdown: a row a group."""
    columns = ("cases", *COLUMNS, "nearer")
    lines = ["| group | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for group, rows in grouped(cases).items():
        values = summary(rows)
        cells = [str(values["cases"])] + [f"{values[name]:.3f}" if name in values else "" for name in columns[1:]]
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
