"""Reference recordings: which voices a worker offers, and their sound as 16 kHz mono.

A folder holds one recording a voice (``carlo.flac``, ``june.wav``, ...). A ``voices.yaml`` beside them may describe
them and fix their order; recordings it does not mention follow by name.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import yaml
from loguru import logger

from worker.geometry import INPUT_RATE, UNITS_A_SECOND
from worker.recordings import Wave, opened

BUNDLED = Path(__file__).parent / "assets" / "voices"
OWN = Path("voices")  # in the working folder
SUFFIXES = (".flac", ".wav", ".ogg", ".mp3")
MIN_PROMPT_S = 1.0
MARGIN_S = 0.01
SEARCH_S = 120.0  # of a recording in which speech is looked for
SPEECH_FRAMES, SPEECH_LOUD_FRAMES, LEAD_FRAMES = 5, 3, 3  # of 20 ms
SPEECH_RANGE_DB = 30.0
SILENCE_DBFS = -60.0
MAX_NAME_LENGTH = 64

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_NAME_LENGTH - 1}}}")


class VoiceError(ValueError):
    """A reference voice cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One reference recording and what a listing says of it. A caller's own has no path, but its file's content."""

    name: str
    description: str
    path: Path
    language: str = ""
    attribution: str = ""
    content: bytes | None = field(default=None, repr=False)

    @classmethod
    def of_caller(cls, name: str, content: bytes) -> Voice:
        """A voice that a session brings."""
        return cls(name, "", Path("recording"), content=content)


def offered_voices(folder: Path | None) -> list[Voice]:
    """As ``worker.voices_dir`` says: those of ``folder``; without one the bundled voices, and after them those that
    lie in ``voices/`` of the working folder, if there are any. A recording of one's own takes a bundled one's place.

    Raises ``VoiceError`` as `list_voices` does.
    """
    if folder is not None:
        return list_voices(folder)
    own = {voice.name: voice for voice in list_voices(OWN)} if recordings(OWN) else {}
    return list(({voice.name: voice for voice in list_voices(BUNDLED)} | own).values())


def is_name(text: str) -> bool:
    """Whether a voice may be called so."""
    return _NAME.fullmatch(text) is not None


def recordings(folder: Path) -> dict[str, Path]:
    """The recording of each name in ``folder``. What cannot be offered is left out with a warning: a second recording
    of one name, and a name of other characters. Names that begin with a dot are other programs' notes."""
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if not is_name(path.stem):
            logger.warning(
                "voice {!r} is left out: a name has letters, digits, '_', '-', '.' and begins with a letter or digit",
                path.name,
            )
        elif path.stem in paths:
            logger.warning("voice {!r} has two recordings: {} is left out", path.stem, path.name)
        else:
            paths[path.stem] = path
    return paths


def list_voices(folder: Path) -> list[Voice]:
    """Voices of ``folder``: those of its ``voices.yaml`` in that order, then the remaining `recordings` by name.

    A description without a recording is left out with a warning. Raises ``VoiceError`` if nothing is left, or if
    ``voices.yaml`` is malformed.
    """
    if not folder.is_dir():
        raise VoiceError(f"worker.voices_dir: there is no folder {folder}")
    paths = recordings(folder)
    if not paths:
        raise VoiceError(f"no recordings ({', '.join(SUFFIXES)}) in {folder}")
    described = _descriptions(folder / "voices.yaml")
    for name in described:
        if name not in paths:
            logger.warning("voice {!r} of voices.yaml has no recording in {}", name, folder)
    order = [*(name for name in described if name in paths), *(name for name in paths if name not in described)]
    return [_voice(name, paths[name], described.get(name, {})) for name in order]


def index_file(folder: Path | None, voice: str, model: str) -> Path:
    """Where the index of a voice's content features lies: beside the recordings that were added."""
    return (folder or OWN) / f"{voice}.{model}.index.safetensors"


def index_files(folder: Path | None, voice: str) -> list[Path]:
    """Those of a voice that are there, of any model."""
    pattern = re.compile(re.escape(index_file(None, voice, "*").name).replace(r"\*", "[^.]+"))
    return [path for path in (folder or OWN).glob("*") if pattern.fullmatch(path.name)]


def load_voice(voice: Voice, max_prompt_s: float = 25.0, rate: int = INPUT_RATE) -> Wave:
    """The recording as float32 ``[n]`` in [-1, 1], mono at ``rate``, at most ``max_prompt_s`` seconds from where speech
    begins.

    Any rate and channel count that libsndfile reads; channels are averaged. Raises ``VoiceError`` if the file cannot be
    read, holds values that are not finite, has less than 1 s from there on, or is silent (below -60 dBFS rms).
    """
    if voice.content is None and not voice.path.exists():
        raise VoiceError(f"voice {voice.name!r}: cannot read {voice.path}: no such file")
    try:
        with opened(voice.path) if voice.content is None else soundfile.SoundFile(io.BytesIO(voice.content)) as file:
            recorded = file.samplerate
            wave = file.read(frames=int(SEARCH_S * recorded), dtype="float32", always_2d=True).mean(axis=1)
    except (OSError, RuntimeError) as error:  # libsndfile's own error is a RuntimeError
        raise VoiceError(f"voice {voice.name!r}: cannot read {voice.path.name}: {error}") from error
    if not np.isfinite(wave).all():
        raise VoiceError(f"voice {voice.name!r}: {voice.path.name} holds values that are not finite")
    if len(wave) and float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))) < 10 ** (SILENCE_DBFS / 20):
        raise VoiceError(f"voice {voice.name!r}: the recording is silent")
    wave = wave[speech_begins(wave, recorded) :]
    # A little more than is kept, so that every long recording gives exactly as many samples at any rate.
    wave = wave[: int((max_prompt_s + MARGIN_S) * recorded)]
    if rate != recorded:
        wave = soxr.resample(wave, recorded, rate)
    wave = wave[: int(max_prompt_s * rate)]
    seconds = len(wave) / rate
    if seconds < MIN_PROMPT_S:
        raise VoiceError(f"voice {voice.name!r}: {seconds:.2f} s is too short, at least {MIN_PROMPT_S:g} s are needed")
    return np.ascontiguousarray(np.clip(wave, -1.0, 1.0), dtype=np.float32)


def speech_begins(wave: Wave, rate: int) -> int:
    """The sample shortly before speech begins: of the first 0.1 s that hold, three times in five, 20 ms within 30 dB of
    the loudest. A click is shorter."""
    frame = rate // UNITS_A_SECOND
    count = len(wave) // frame
    if count < SPEECH_FRAMES:
        return 0
    power = np.square(wave[: count * frame].reshape(count, frame), dtype=np.float64).mean(axis=1)
    loud = power > power.max() * 10 ** (-SPEECH_RANGE_DB / 10)
    often = np.lib.stride_tricks.sliding_window_view(loud, SPEECH_FRAMES).sum(axis=1) >= SPEECH_LOUD_FRAMES
    if not often.any():
        return 0
    return max(0, int(often.argmax()) - LEAD_FRAMES) * frame


def usable(voices: Sequence[Voice], max_prompt_s: float) -> Iterator[tuple[Voice, Wave]]:
    """Those that can be loaded, with their sound as ``load_voice`` gives it; others are left out with a warning.

    Raises ``VoiceError``, the last one's, if there is none.
    """
    found, reason = False, VoiceError("at least one reference voice is needed")
    for voice in voices:
        try:
            wave = load_voice(voice, max_prompt_s)
        except VoiceError as error:
            logger.warning("{}; the voice is left out", error)
            reason = error
        else:
            found = True
            yield voice, wave
    if not found:
        raise reason


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
    return Voice(name, texts["description"], path, texts.get("language", ""), texts.get("attribution", ""))
