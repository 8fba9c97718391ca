"""One recording for who may have it: its parts, as a zip, as JSON with base64, or as WAV."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from dataclasses import asdict
from typing import Any

import soundfile

from gateway.recording import files
from gateway.recording.flac import complete
from gateway.recording.index import Entry, Index
from gateway.recording.vault import Vault

PARTS = {
    "input": (files.INPUT, files.INPUT_OPUS),
    "output": (files.OUTPUT, files.OUTPUT_OPUS),
    "timeline": (files.TIMELINE,),
    "stats": (files.ABOUT, files.CHUNKS),
    "all": (
        *(files.ABOUT, files.INPUT, files.INPUT_OPUS, files.OUTPUT, files.OUTPUT_OPUS),
        *(files.TIMELINE, files.CHUNKS),
    ),
}
FORMATS = ("zip", "base64", "wav")


def load(index: Index, vault: Vault | None, entry: Entry, part: str) -> dict[str, bytes]:
    """Name and content of every file of `part` that there is; sound as whole FLAC files. Blocks: not for a loop."""
    loaded = {}
    for name in PARTS[part]:
        data = files.read(index.root / entry.folder / name, vault)
        if data is not None:
            loaded[name] = complete(data) if name.endswith(".flac") else data
    return loaded


def as_zip(loaded: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in loaded.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def as_json(entry: Entry, loaded: dict[str, bytes]) -> bytes:
    """``{"session_id", ..., "files": {NAME: base64}}``."""
    about: dict[str, Any] = {name: value for name, value in asdict(entry).items() if name not in ("folder", "figures")}
    encoded = {name: base64.b64encode(data).decode() for name, data in loaded.items()}
    return json.dumps({**about, "files": encoded}).encode()


def as_wav(sound: bytes) -> bytes:
    """Raises `ValueError` where there is no sound in it."""
    try:
        samples, rate = soundfile.read(io.BytesIO(sound), dtype="int16")
    except (soundfile.SoundFileError, RuntimeError):
        raise ValueError("no sound was recorded") from None
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, "PCM_16", format="WAV")
    return buffer.getvalue()
