"""The files of one recording: plain, or sealed by a vault. Each grows; what was written stays after a crash."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

from gateway.recording.vault import Encryptor, MasterKey, Vault, decrypt, key_id_of

SEALED = ".enc"
INPUT, OUTPUT, TIMELINE, CHUNKS, ABOUT = "input.flac", "output.flac", "timeline.jsonl", "chunks.jsonl", "session.json"
INPUT_OPUS, OUTPUT_OPUS = "input.opus", "output.opus"  # in place of FLAC, of callers who send and hear Opus


class RecordingFile(Protocol):
    """A file that grows, on the recorder's thread."""

    def append(self, data: bytes) -> None: ...

    def patch(self, offset: int, data: bytes) -> None: ...

    def close(self) -> None: ...


class PlainFile:
    """Written without a buffer of ours: nothing is lost with the process."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed with the recording

    def append(self, data: bytes) -> None:  # `patch` leaves the position where it is: at the end
        _write_all(self._file.fileno(), data)

    def patch(self, offset: int, data: bytes) -> None:
        os.pwrite(self._file.fileno(), data, offset)

    def close(self) -> None:
        self._file.close()


class SealedFile:
    """One frame for each piece. Nothing in it can be changed later."""

    def __init__(self, path: Path, key: MasterKey) -> None:
        self._file = PlainFile(path.with_name(path.name + SEALED))
        self._encryptor = Encryptor(key)
        try:
            self._file.append(self._encryptor.head)
        except OSError:
            self._file.close()
            raise

    def append(self, data: bytes) -> None:
        self._file.append(self._encryptor.frame(data))

    def patch(self, offset: int, data: bytes) -> None:
        pass  # a reader completes what this would have said

    def close(self) -> None:
        try:
            self._file.append(self._encryptor.frame(b"", last=True))
        finally:
            self._file.close()


def create(path: Path, key: MasterKey | None) -> RecordingFile:
    """A new file; sealed, with `SEALED` behind its name, where there is a key. Raises `OSError`."""
    return PlainFile(path) if key is None else SealedFile(path, key)


def replace(path: Path, data: bytes, key: MasterKey | None) -> None:
    """Write a whole small file, atomically. Raises `OSError`."""
    part = path.with_name(f".{path.name}.part")
    for old in (part, part.with_name(part.name + SEALED)):
        old.unlink(missing_ok=True)
    with contextlib.closing(create(part, key)) as file:
        file.append(data)
    suffix = "" if key is None else SEALED
    part.with_name(part.name + suffix).replace(path.with_name(path.name + suffix))


def read(path: Path, vault: Vault | None) -> bytes | None:
    """The content, decrypted; None where there is no such file. Raises `OSError`, `VaultError`, `ConfigError`."""
    if path.is_file():
        return path.read_bytes()
    sealed = path.with_name(path.name + SEALED)
    if not sealed.is_file():
        return None
    data = sealed.read_bytes()
    if len(data) < 5:
        return b""  # a crash before the head was whole
    assert vault is not None, "an encrypted recording needs a vault"
    return decrypt(vault.key(key_id_of(data)), data)[0]


def _write_all(descriptor: int, data: bytes) -> None:
    """A disk that is nearly full may take a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
