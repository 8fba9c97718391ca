"""Stage ``data``: speakers from Debian packages, as one long 16 kHz recording each, and the utterances held out.

Recordings of the asterisk core sounds (five languages, four speakers), of klettres and ktuberling (about forty, a few
words each), and two synthetic male voices of Flite that read the English sentences: there is one man among the four.
"""

from __future__ import annotations

import gzip
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from loguru import logger
from tqdm import tqdm

RATE = 16_000
LANGUAGES = ("en", "es", "fr", "it", "ru")
HELD_OUT_EVERY, HELD_OUT_AT = 14, 5  # of the files of each language
FLITE_VOICES = ("awb", "kal16")  # rms stays unknown to the model: it is a caller of the tests
FLITE_SENTENCES = 220
LEVEL = 0.07  # rms of speech
PACKAGES = (
    *(f"asterisk-core-sounds-{language}-g722" for language in LANGUAGES),
    "asterisk-core-sounds-en",
    "klettres-data",
    "ktuberling-data",
    "flite",
)
NOT_SPEECH = ("beep", "tone", "silence", "ring", "ascending", "descending")

Wave = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Speaker:
    """A speaker's training recordings, pauses squeezed, end to end."""

    name: str
    wave: Wave

    @property
    def minutes(self) -> float:
        return len(self.wave) / RATE / 60


def build(out: Path, packages: Path) -> None:
    """Write ``out/speakers/NAME.npy`` (int16) and ``out/held_out/NAME/FILE.wav``. packages: where they are unpacked."""
    unpack(packages)
    done = out / "data.done"
    if done.exists():
        return
    for name, files in tqdm(sources(packages, out / "decoded").items(), desc="speakers"):
        kept, held = [], []
        for number, path in enumerate(files):
            wave = squeeze(read(path))
            if wave is None:
                continue
            if name in LANGUAGES and number % HELD_OUT_EVERY == HELD_OUT_AT:
                held.append((path.stem, wave))
            else:
                kept.append(wave)
        if not kept:
            continue
        save(out, Speaker(name, np.concatenate(kept)))
        for stem, wave in held:
            target = out / "held_out" / name / f"{stem}.wav"
            target.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(target, wave, RATE)
    done.touch()
    logger.info("{:.0f} minutes of {} speakers", sum(s.minutes for s in load(out)), len(load(out)))


def save(out: Path, speaker: Speaker) -> None:
    path = out / "speakers" / f"{speaker.name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, (np.clip(speaker.wave, -1, 1) * 32767).astype(np.int16))


def load(out: Path) -> list[Speaker]:
    """Speakers in the order of their names."""
    paths = sorted((out / "speakers").glob("*.npy"))
    return [Speaker(path.stem, np.load(path).astype(np.float32) / 32768) for path in paths]


def unpack(packages: Path) -> None:
    """Fetch and unpack what is missing, without installing anything."""
    packages.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not list(packages.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=packages, check=True)
    for path in packages.glob("*.deb"):
        mark = packages / f"{path.name}.unpacked"
        if not mark.exists():
            subprocess.run(["dpkg", "-x", str(path), str(packages / "root")], check=True)
            mark.touch()


def sources(packages: Path, decoded: Path) -> dict[str, list[Path]]:
    """Readable files of each speaker."""
    share = packages / "root" / "usr" / "share"
    speakers = {}
    for language in LANGUAGES:
        files = [
            path
            for path in sorted((share / "asterisk" / "sounds").rglob("*.g722"))
            if path.relative_to(share / "asterisk" / "sounds").parts[0].startswith(language)
            and not any(word in path.name for word in NOT_SPEECH)
        ]
        speakers[language] = decode(files, decoded / language)
    for game, pattern in (("klettres", "*/*.og?"), ("ktuberling/sounds", "*.*")):
        for folder in sorted(path for path in (share / game).glob("*") if path.is_dir()):
            files = sorted(path for path in folder.glob(pattern) if path.suffix in (".ogg", ".oga", ".wav", ".opus"))
            speakers[f"{game.partition('/')[0]}_{folder.name}"] = files
    for voice in FLITE_VOICES:
        speakers[f"flite_{voice}"] = read_aloud(packages, voice, decoded / f"flite_{voice}")
    return speakers


def decode(files: list[Path], folder: Path) -> list[Path]:
    """G.722 to WAV through ffmpeg."""
    folder.mkdir(parents=True, exist_ok=True)

    def one(path: Path) -> Path:
        target = folder / f"{path.parent.name}_{path.stem}.wav"
        if not target.exists():
            command = ["ffmpeg", "-v", "error", "-y", "-f", "g722", "-i", str(path), "-ar", str(RATE), str(target)]
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        return list(tqdm(pool.map(one, files), total=len(files), desc=folder.name))


def sentences(packages: Path) -> list[str]:
    """The longer English sentences of the asterisk sounds."""
    folder = packages / "root" / "usr" / "share" / "doc" / "asterisk-core-sounds-en"
    packed = next(folder.glob("core-sounds-en.txt*"))
    text = gzip.decompress(packed.read_bytes()).decode() if packed.suffix == ".gz" else packed.read_text()
    lines = [match[1].strip() for match in re.finditer(r"^[^;:\n]+:\s*(.+)$", text, re.M)]
    return [line for line in lines if len(line) > 30 and "[" not in line]


def read_aloud(packages: Path, voice: str, folder: Path) -> list[Path]:
    """Flite reads the English sentences of the asterisk sounds."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, sentence in enumerate(sentences(packages)[:FLITE_SENTENCES]):
        path = folder / f"{number:04}.wav"
        if not path.exists():
            subprocess.run(["flite", "-voice", voice, "-t", sentence, "-o", str(path)], check=True)
        paths.append(path)
    return paths


def read(path: Path) -> Wave:
    """Mono at 16 kHz; empty if libsndfile cannot read it."""
    try:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError):
        return np.zeros(0, np.float32)
    mono = wave.mean(axis=1)
    return np.asarray(mono if rate == RATE else soxr.resample(mono, rate, RATE), np.float32)


def squeeze(wave: Wave) -> Wave | None:
    """Outer silence and long pauses cut, speech at ``LEVEL``; None if nothing is left."""
    wave = wave - wave.mean() if len(wave) else wave
    count = len(wave) // 160
    if count < 25:
        return None
    frames = wave[: count * 160].reshape(count, 160)
    level = np.sqrt((frames**2).mean(axis=1) + 1e-12)
    loud = np.percentile(level, 95)
    if loud < 1e-3:
        return None
    active = level > 0.03 * loud
    keep = np.convolve(active, np.ones(23), "same") > 0  # 110 ms either side
    out = frames[keep].reshape(-1)
    if len(out) < RATE // 4:
        return None
    out = out * (LEVEL / np.sqrt((frames[active] ** 2).mean()))
    peak = np.abs(out).max()
    out = out * min(1.0, 0.98 / peak)
    fade = np.linspace(0, 1, 80)
    out[:80] *= fade
    out[-80:] *= fade[::-1]
    return out.astype(np.float32)
