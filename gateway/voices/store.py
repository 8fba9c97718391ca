"""The voices that callers brought, in a folder: ``ID.json`` says whose and how it is called, ``ID.flac`` is its sound.

No part of a path comes from a client. Several gateways may share a folder: each looks again when it has changed. What
a method does is done under a lock, also against other processes; all may block and raise `OSError`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from loguru import logger

from gateway.stamps import Stamp, stamp
from gateway.voices.clip import Clip


class StoreError(Exception):
    """A voice cannot be kept. `field` is what is wrong with it; None: there is no room."""

    def __init__(self, field: str | None, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class StoredVoice:
    """One voice. `owner` is its principal's name."""

    id: str
    clip_id: str  # of its sound, for workers
    name: str
    owner: str
    description: str
    shared: bool  # everybody may use it, otherwise its owner alone
    seconds: float
    rate: int
    created: float  # seconds since 1970, UTC


class VoiceStore:
    """Of one folder. For any thread."""

    def __init__(self, folder: Path, *, per_principal: int, total: int) -> None:
        self.folder = folder
        self._per_principal, self._total = per_principal, total
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None
        self._voices: dict[str, StoredVoice] = {}

    def visible(self, principal: str | None, *, everything: bool = False) -> list[StoredVoice]:
        """What `principal` may use, the oldest first; None: what everybody may. `everything`: an administrator asks."""
        with self._lock:
            self._look()
            mine = [v for v in self._voices.values() if everything or v.shared or v.owner == principal]
            return sorted(mine, key=lambda voice: voice.created)

    def find(self, name: str, principal: str | None, owner: str | None = None) -> StoredVoice | None:
        """The voice of that name: `principal`'s own, else a shared one; with `owner`, that principal's."""
        with self._lock:
            self._look()
            named = [voice for voice in self._voices.values() if voice.name == name]
        if owner is not None:
            return next((voice for voice in named if voice.owner == owner), None)
        own = next((voice for voice in named if voice.owner == principal), None)
        return own or next((voice for voice in named if voice.shared), None)

    def sound(self, voice: StoredVoice) -> bytes:
        """Its FLAC file."""
        return (self.folder / f"{voice.id}.flac").read_bytes()

    def add(self, name: str, owner: str, clip: Clip, *, description: str = "", shared: bool = False) -> StoredVoice:
        """Keep a voice; it is there whole, or not at all. Raises `StoreError`."""
        with self._alone():
            if any(v.name == name and (v.owner == owner or v.shared or shared) for v in self._voices.values()):
                raise StoreError("name", f"there is a voice {name!r} already")
            if sum(voice.owner == owner for voice in self._voices.values()) >= self._per_principal:
                raise StoreError(None, f"{owner} has {self._per_principal} voices, and may have no more: remove one")
            if len(self._voices) >= self._total:
                raise StoreError(None, f"this service keeps {self._total} voices at most")
            voice = StoredVoice(
                secrets.token_hex(8), clip.id, name, owner, description, shared, clip.seconds, clip.rate, time.time()
            )
            self._write(f"{voice.id}.flac", clip.flac)
            self._write(f"{voice.id}.json", json.dumps(asdict(voice), indent=1).encode())
            self._voices[voice.id] = voice
            return voice

    def remove(self, voice: StoredVoice) -> None:
        """Forget it. Calls that have it go on."""
        with self._alone():
            for suffix in ("json", "flac"):
                (self.folder / f"{voice.id}.{suffix}").unlink(missing_ok=True)
            self._voices.pop(voice.id, None)

    def _write(self, name: str, data: bytes) -> None:
        part = self.folder / f".{name}.part"
        try:
            part.write_bytes(data)
            part.replace(self.folder / name)
        finally:
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._lock, open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._look()
            yield

    def _look(self) -> None:
        """Read what has come since, and forget what is gone."""
        now = stamp(self.folder)
        if now == self._stamp:
            return
        paths = {path.stem: path for path in self.folder.glob("*.json")} if now is not None else {}
        self._voices = {
            name: known for name, path in paths.items() if (known := self._voices.get(name) or _read(path)) is not None
        }
        self._stamp = now


def _read(path: Path) -> StoredVoice | None:
    try:
        return StoredVoice(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None  # removed this moment
    except (ValueError, TypeError) as error:
        logger.warning("{}: no description of a voice ({}); it is left out", path, error)
        return None
