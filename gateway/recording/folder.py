"""One recording's files, written by the recorder's thread alone."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gateway.recording import files
from gateway.recording.flac import FlacWriter, Pcm
from gateway.recording.index import Entry, Index
from gateway.recording.ogg import OggOpusWriter, Packet
from gateway.recording.vault import MasterKey, Vault
from shared.errors import ConfigError
from shared.log import for_session
from shared.messages import LINK_RATE

WRITE_ERRORS = (OSError, sqlite3.Error, ConfigError, RuntimeError)  # RuntimeError: libsndfile's own


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What a recording says about its call."""

    session_id: str
    principal: str
    protocol: str
    voice: str
    model: str
    block_ms: float
    rate_out: int  # of the worker: the rate of the recorded output
    request: dict[str, Any] = field(default_factory=dict)
    opus_in: bool = False  # the caller sends Opus, which is kept as it is
    opus_out: bool = False
    started: float = field(default_factory=time.time)


@dataclass(slots=True)
class Backlog:
    """What is handed over and not written yet, and what became of the rest; read by the metrics."""

    max_bytes: int
    bytes: int = 0
    dropped_bytes: int = 0
    failed: int = 0  # recordings that ended because the disk would not take them
    written_bytes: int = 0


class Folder:
    """From the call's first event to its last."""

    def __init__(self, index: Index, vault: Vault | None, backlog: Backlog, info: CallInfo) -> None:
        self._index, self._vault, self._backlog, self._info = index, vault, backlog, info
        self._log = for_session(info.session_id)
        self._entry: Entry | None = None
        self._key: MasterKey | None = None
        self._open: dict[str, files.RecordingFile] = {}
        self._sounds: dict[str, FlacWriter | OggOpusWriter] = {}  # over the files they write to
        self._dropped_ms = 0.0

    def open(self) -> None:
        with self._guarded():
            self._key = self._vault.newest() if self._vault is not None else None
            self._entry = self._index.begin(self._info.session_id, self._info.principal, self._info.started)
            self._describe({"outcome": None})

    def append(self, data: dict[str, bytes]) -> None:
        """To files by their names."""
        if self._entry is not None:
            with self._guarded():
                for name, more in data.items():
                    self._file(name).append(more)

    def sound(self, name: str, missing: int, samples: Pcm) -> None:
        if self._entry is not None and (missing or len(samples)):
            with self._guarded():
                rate = LINK_RATE if name == files.INPUT else self._info.rate_out
                if name not in self._sounds:
                    self._sounds[name] = FlacWriter(self._file(name), rate)
                self._dropped_ms += missing / rate * 1000
                writer = self._sounds[name]
                assert isinstance(writer, FlacWriter)
                writer.write(np.concatenate([np.zeros(missing, np.int16), samples]))

    def packets(self, name: str, missing_ms: float, packets: Sequence[Packet]) -> None:
        """Opus as it was passed on; None is a packet that did not arrive."""
        if self._entry is not None and (missing_ms or packets):
            with self._guarded():
                if name not in self._sounds:
                    self._sounds[name] = OggOpusWriter(self._file(name))
                self._dropped_ms += missing_ms
                writer = self._sounds[name]
                assert isinstance(writer, OggOpusWriter)
                writer.write([*([(None, missing_ms)] if missing_ms else []), *packets])

    def end(self, outcome: str, summary: dict[str, Any], figures: dict[str, Any]) -> None:
        if self._entry is None:
            return
        with self._guarded():
            self._close()
            self._describe({"outcome": outcome, "summary": summary, "figures": figures, "dropped_ms": self._dropped_ms})
            self._index.end(self._entry.folder, outcome, figures)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """What the disk refuses ends the recording: nothing more of this call is written."""
        try:
            yield
        except WRITE_ERRORS as error:
            self._backlog.failed += 1
            self._log.error("the recording ends, the call goes on: {}", error)
            entry, self._entry = self._entry, None
            with contextlib.suppress(*WRITE_ERRORS):
                self._close()
            if entry is not None:
                with contextlib.suppress(*WRITE_ERRORS):
                    self._index.end(entry.folder, "disk", {})

    def _close(self) -> None:
        closes = [sound.close for sound in self._sounds.values()] + [file.close for file in self._open.values()]
        self._sounds, self._open = {}, {}
        with contextlib.ExitStack() as stack:  # all of them, whichever fails
            for close in reversed(closes):
                stack.callback(close)

    def _describe(self, more: dict[str, Any]) -> None:
        text = json.dumps({**asdict(self._info), **more}, indent=1)
        files.replace(self._folder / files.ABOUT, text.encode(), self._key)

    def _file(self, name: str) -> files.RecordingFile:
        if name not in self._open:
            self._open[name] = files.create(self._folder / name, self._key)
        return self._open[name]

    @property
    def _folder(self) -> Path:
        assert self._entry is not None
        return self._index.root / self._entry.folder
