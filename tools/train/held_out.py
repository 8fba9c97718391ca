"""Pairs for the evaluation that the model has never heard: ``python -m tools.train.held_out --out DIR``.

Sources are the held-out files of training speakers, put together to a few seconds, and callers unknown to the model:
two synthetic voices of Flite, who read sentences of no corpus, and, where Debian's ``asterisk-prompt-it-menardi-wav``
is installed, an Italian speaker. Targets are the bundled voices.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
from pathlib import Path

import numpy as np
import soundfile

import worker
from tools.train.corpus import LANGUAGES, RATE, Wave, read, squeeze
from worker.voices import list_voices

VOICES = Path(worker.__file__).parent / "assets" / "voices"
UNKNOWN_FLITE = {"rms": "male", "slt": "female"}
MENARDI = Path("/usr/share/asterisk/sounds/it_IT_f_Menardi")
SPEAKER_OF = {"carlo": "it", "allison": "en", "june": "fr", "ivrvoice": "ru", "awb": "flite_awb"}
SECONDS = 6.0
SOURCES_EACH = 3
SHORTEST_S = 1.5
SENTENCES = (
    "The train to the coast leaves at a quarter past nine from the far platform.",
    "She kept a small garden behind the house, with beans and yellow roses.",
    "Would you rather walk home through the park or wait for the next bus?",
    "My brother fixed the kitchen window before the storm came over the hills.",
    "We ordered fresh bread, two pounds of cheese and a jar of honey.",
    "Nobody knew who had left the old green bicycle at the garden gate.",
    "The doctor will see you on Thursday morning, just after breakfast.",
    "It takes about three hours to drive from the lake to the city.",
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train.held_out", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/nano"), help="the training command's folder")
    options = parser.parse_args(arguments)
    folder = options.out / "pairs"
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    known = {language: joined(sorted((options.out / "held_out" / language).glob("*.wav"))) for language in LANGUAGES}
    unknown = {f"flite_{voice}": read_aloud(voice, options.out) for voice in UNKNOWN_FLITE}
    if MENARDI.is_dir():
        unknown["menardi"] = joined(sorted(MENARDI.glob("*.wav"))[::9])
    rows = []
    for group, speakers in (("known", known), ("unknown", unknown)):
        for speaker, waves in speakers.items():
            for number, wave in enumerate(waves[:SOURCES_EACH]):
                path = folder / "audio" / f"{speaker}-{number}.wav"
                soundfile.write(path, wave, RATE)
                rows += pairs(folder, group, speaker, path, known)
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["source", "target", "other", "language", "group"])
        writer.writeheader()
        writer.writerows(rows)


def pairs(folder: Path, group: str, speaker: str, source: Path, known: dict[str, list[Wave]]) -> list[dict[str, str]]:
    """One source to every bundled voice but its own speaker's."""
    rows = []
    for voice in list_voices(VOICES):
        own = SPEAKER_OF.get(voice.name, "")
        if own == speaker or {own, speaker} == {"en", "es"}:
            continue
        row = {"source": str(source.relative_to(folder)), "target": str(voice.path), "group": group}
        row["language"] = "en" if speaker == "en" or speaker.startswith("flite_") else "other"
        if own in known:
            other = folder / "audio" / f"{own}-other.wav"
            if not other.exists():
                soundfile.write(other, known[own][-1], RATE)
            row["other"] = str(other.relative_to(folder))
        rows.append(row)
    return rows


def joined(paths: list[Path]) -> list[Wave]:
    """Files of at least ``SHORTEST_S``, in order, put together until each is ``SECONDS`` long; the rest dropped."""
    waves, current = [], np.zeros(0, np.float32)
    for path in paths:
        wave = squeeze(read(path))
        if wave is None or len(wave) < SHORTEST_S * RATE:
            continue
        current = np.concatenate([current, np.zeros(RATE // 5, np.float32), wave])
        if len(current) >= SECONDS * RATE:
            waves.append(current[: 10 * RATE])
            current = np.zeros(0, np.float32)
    return waves


def read_aloud(voice: str, out: Path) -> list[Wave]:
    """``SENTENCES`` in an unknown voice of Flite."""
    folder = out / "pairs" / "flite"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, sentence in enumerate(SENTENCES):
        path = folder / f"{voice}-{number:03}.wav"
        if not path.exists():
            subprocess.run(["flite", "-voice", voice, "-t", sentence, "-o", str(path)], check=True)
        paths.append(path)
    return joined(paths)


if __name__ == "__main__":
    main()
