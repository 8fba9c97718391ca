"""Reference recordings: which voices a worker offers, and their sound as 16 kHz mono.

A folder holds one recording a voice (``carlo.flac``, ``june.wav``, ...). A ``voices.yaml`` beside them may describe
them and fix their order; recordings it does not mention follow by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import yaml

from worker.geometry import INPUT_RATE

SUFFIXES = (".flac", ".wav", ".ogg")
MIN_PROMPT_S = 1.0
MARGIN_S = 0.01
SILENCE_DBFS = -60.0
MAX_NAME_LENGTH = 64

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_NAME_LENGTH - 1}}}")

Wave = npt.NDArray[np.float32]


class VoiceError(ValueError):
    """A reference voice cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One reference recording and what a listing says of it."""

    name: str
    description: str
    path: Path
    language: str = ""
    attribution: str = ""


def list_voices(folder: Path) -> list[Voice]:
    """Voices of ``folder``: those of its ``voices.yaml`` in that order, then the remaining recordings by name.

    Raises ``VoiceError`` if the folder holds no recording, two of one name, one whose name cannot be offered, or if
    ``voices.yaml`` is malformed or describes a recording that is not there.
    """
    if not folder.is_dir():
        raise VoiceError(f"voices folder {folder} does not exist")
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if not _NAME.fullmatch(path.stem):
            raise VoiceError(f"voice {path.name!r}: a name has letters, digits, '_', '-', '.' and begins with a letter")
        if path.stem in paths:
            raise VoiceError(f"voice {path.stem!r} has two recordings: {paths[path.stem].name} and {path.name}")
        paths[path.stem] = path
    if not paths:
        raise VoiceError(f"no recordings ({', '.join(SUFFIXES)}) in {folder}")
    described = _descriptions(folder / "voices.yaml")
    missing = [name for name in described if name not in paths]
    if missing:
        raise VoiceError(f"voice {missing[0]!r} of voices.yaml has no recording in {folder}")
    order = [*described, *(name for name in paths if name not in described)]
    return [_voice(name, paths[name], described.get(name, {})) for name in order]


def load_voice(voice: Voice, max_prompt_s: float = 25.0, rate: int = INPUT_RATE) -> Wave:
    """The recording as float32 ``[n]`` in [-1, 1], mono at ``rate``, at most ``max_prompt_s`` seconds from its start.

    Any rate and channel count that libsndfile reads; channels are averaged. Raises ``VoiceError`` if the file cannot be
    read, holds values that are not finite, lasts less than 1 s, or is silent (below -60 dBFS rms).
    """
    try:
        with soundfile.SoundFile(voice.path) as file:
            recorded = file.samplerate
            # A little more than is kept, so that every long recording gives exactly as many samples at any rate.
            wave = file.read(frames=int((max_prompt_s + MARGIN_S) * recorded), dtype="float32", always_2d=True).mean(
                axis=1
            )
    except (OSError, RuntimeError) as error:  # libsndfile's own error is a RuntimeError
        raise VoiceError(f"voice {voice.name!r}: cannot read {voice.path.name}: {error}") from error
    if not np.isfinite(wave).all():
        raise VoiceError(f"voice {voice.name!r}: {voice.path.name} holds values that are not finite")
    if rate != recorded:
        wave = soxr.resample(wave, recorded, rate)
    wave = wave[: int(max_prompt_s * rate)]
    seconds = len(wave) / rate
    if seconds < MIN_PROMPT_S:
        raise VoiceError(f"voice {voice.name!r}: {seconds:.2f} s is too short, at least {MIN_PROMPT_S:g} s are needed")
    rms = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    if rms < 10 ** (SILENCE_DBFS / 20):
        raise VoiceError(f"voice {voice.name!r}: the recording is silent")
    return np.ascontiguousarray(np.clip(wave, -1.0, 1.0), dtype=np.float32)


def shortest_s(voices: Sequence[Voice]) -> float:
    """Seconds of the shortest recording, from the files' headers. Raises ``VoiceError`` for an unreadable one."""
    durations = []
    for voice in voices:
        try:
            durations.append(float(soundfile.info(voice.path).duration))
        except (OSError, RuntimeError) as error:
            raise VoiceError(f"voice {voice.name!r}: cannot read {voice.path.name}: {error}") from error
    return min(durations)


def _descriptions(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VoiceError(f"{path.name} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise VoiceError(f"{path.name} must map each voice to description, language, attribution")
    return {str(name): entry for name, entry in content.items()}


def _voice(name: str, path: Path, entry: dict[str, Any]) -> Voice:
    known = {"description", "language", "attribution"}
    unknown = sorted(set(entry) - known)
    if unknown:
        raise VoiceError(
            f"voice {name!r}: unknown key {unknown[0]!r} in voices.yaml, known are {', '.join(sorted(known))}"
        )
    texts = {key: str(entry[key]) for key in known if key in entry}
    texts.setdefault("description", name)
    return Voice(name=name, path=path, **texts)
