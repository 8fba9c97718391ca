"""Recordings of calls: observers on the event loop hand over, one thread writes.

What the thread has not written yet is bounded. What a slow disk leaves no room for is dropped and counted; sound that
was dropped becomes silence of the same length, so that a recording keeps its time. A disk that is full or gone ends
the recording, never the call.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from gateway.events import AnswerSent, BlockSubmitted, PayloadReceived, SessionEnded
from gateway.recording import files
from gateway.recording.figures import CallFigures
from gateway.recording.flac import FlacWriter, Pcm
from gateway.recording.index import Entry, Index
from gateway.recording.vault import MasterKey, Vault
from shared.errors import ConfigError
from shared.log import for_session
from shared.messages import LINK_RATE

_KEEP_INTERVAL_S = 60.0
_EVENT_BYTES = 64  # of memory that one line of a timeline is counted with
_WRITE_ERRORS = (OSError, sqlite3.Error, ConfigError, RuntimeError)  # RuntimeError: libsndfile's own


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
    started: float = field(default_factory=time.time)


@dataclass(slots=True)
class Backlog:
    """What is handed over and not written yet, and what became of the rest; read by the metrics."""

    max_bytes: int
    bytes: int = 0
    dropped_bytes: int = 0
    failed: int = 0  # recordings that ended because the disk would not take them
    written_bytes: int = 0


class Recorder:
    """Starts with `start`, ends with `stop`, which waits for what is handed over."""

    def __init__(
        self, root: Path, vault: Vault | None, *, max_backlog_bytes: int, keep_days: float, max_bytes: float
    ) -> None:
        self.index = Index(root)
        self.vault = vault
        self.backlog = Backlog(max_backlog_bytes)
        self._keep = (keep_days, max_bytes)
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Blocks until everything is written, or the time is over."""
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def observe(self, info: CallInfo, figures: CallFigures) -> Recording:
        """An observer that records a call from now on."""
        return Recording(self, info, figures)

    def hand_over(self, job: Callable[[], None], size: int, *, always: bool = False) -> bool:
        """Let the thread do `job`. False where there is no room for `size` bytes. Never waits."""
        with self._lock:
            if self.backlog.bytes + size > self.backlog.max_bytes and not always:
                self.backlog.dropped_bytes += size
                return False
            self.backlog.bytes += size
        self._jobs.put((job, size))
        return True

    def _work(self) -> None:
        self._look_after()
        due = time.monotonic() + _KEEP_INTERVAL_S
        while True:
            try:
                item = self._jobs.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                self._look_after()
                due = time.monotonic() + _KEEP_INTERVAL_S
                continue
            if item is None:
                return
            job, size = item
            try:
                job()
            except Exception:  # a fault of one recording must not end the others
                logger.exception("recording failed")
            with self._lock:
                self.backlog.bytes -= size
                self.backlog.written_bytes += size

    def _look_after(self) -> None:
        """Retention, and calls that a crash left open."""
        try:
            for entry in self.index.close_interrupted():
                for_session(entry.session_id).warning("its gateway ended in mid-call: what was recorded is kept")
            removed = self.index.keep(*self._keep)
        except _WRITE_ERRORS as error:
            logger.error("recordings cannot be looked after: {}", error)
            return
        if removed:
            logger.info("{} recordings were removed: too old, or too many", len(removed))


class Recording:
    """One call's observer: collects on the event loop, hands over with every block."""

    def __init__(self, recorder: Recorder, info: CallInfo, figures: CallFigures) -> None:
        self._recorder, self._info, self._figures = recorder, info, figures
        self._files = _Files(recorder, info)
        self._lines: list[str] = []
        self._began: float | None = None  # loop time of the first event
        self._missing = {files.INPUT: 0, files.OUTPUT: 0}  # samples that were dropped
        recorder.hand_over(self._files.open, 0, always=True)

    def on_payload(self, event: PayloadReceived) -> None:
        size = "null" if event.payload is None else len(event.payload)
        self._lines.append(
            f'{{"ms": {self._ms(event.at)}, "event": "receive", "bytes": {size}, "audio_ms": {event.audio_ms:.3f}}}\n'
        )

    def on_block(self, event: BlockSubmitted) -> None:
        self._lines.append(f'{{"ms": {self._ms(event.at)}, "event": "submit", "seq": {event.seq}}}\n')
        self._sound(files.INPUT, event.samples)
        self._flush()

    def on_answer(self, event: AnswerSent) -> None:
        answer, at = event.answer, self._ms(event.at)
        sizes = [len(message) for message in event.messages]
        self._lines.append(
            f'{{"ms": {at}, "event": "send", "seq": {answer.seq}, "bytes": {sizes}, '
            f'"latency_ms": {event.latency_ms:.3f}}}\n'
        )
        chunk: dict[str, Any] = {"seq": answer.seq, "ms": at, "latency_ms": round(event.latency_ms, 3)}
        chunk["concealed"] = answer.concealed_by
        if answer.stats is not None:
            chunk |= {name: value for name, value in asdict(answer.stats).items() if name != "concealed"}
        self._write(files.CHUNKS, json.dumps(chunk) + "\n")
        self._sound(files.OUTPUT, event.samples)
        self._flush()

    def on_end(self, event: SessionEnded) -> None:
        self._flush()
        for name in self._missing:
            self._sound(name, np.zeros(0, np.int16), always=True)
        summary, figures = event.summary, self._figures.as_json()
        self._recorder.hand_over(lambda: self._files.end(event.outcome, summary, figures), 0, always=True)

    def _ms(self, at: float) -> float:
        if self._began is None:
            self._began = at
        return round((at - self._began) * 1000, 3)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._write(files.TIMELINE, "".join(lines))

    def _write(self, name: str, text: str) -> None:
        data = text.encode()
        self._recorder.hand_over(lambda: self._files.append(name, data), len(data) + _EVENT_BYTES)

    def _sound(self, name: str, samples: Pcm, *, always: bool = False) -> None:
        missing = self._missing[name]
        job = lambda: self._files.sound(name, missing, samples)  # noqa: E731
        if self._recorder.hand_over(job, samples.nbytes + _EVENT_BYTES, always=always):
            self._missing[name] = 0
        else:
            self._missing[name] += len(samples)


class _Files:
    """One recording's files, on the recorder's thread alone."""

    def __init__(self, recorder: Recorder, info: CallInfo) -> None:
        self._recorder, self._info = recorder, info
        self._log = for_session(info.session_id)
        self._entry: Entry | None = None
        self._key: MasterKey | None = None
        self._open: dict[str, files.RecordingFile] = {}
        self._sounds: dict[str, FlacWriter] = {}  # over the files they write to
        self._dropped_ms = 0.0

    def open(self) -> None:
        with self._guarded():
            vault = self._recorder.vault
            self._key = vault.newest() if vault is not None else None
            self._entry = self._recorder.index.begin(self._info.session_id, self._info.principal, self._info.started)
            self._describe({"outcome": None})

    def append(self, name: str, data: bytes) -> None:
        if self._entry is not None:
            with self._guarded():
                self._file(name).append(data)

    def sound(self, name: str, missing: int, samples: Pcm) -> None:
        if self._entry is not None and (missing or len(samples)):
            with self._guarded():
                rate = LINK_RATE if name == files.INPUT else self._info.rate_out
                if name not in self._sounds:
                    self._sounds[name] = FlacWriter(self._file(name), rate)
                self._dropped_ms += missing / rate * 1000
                self._sounds[name].write(np.concatenate([np.zeros(missing, np.int16), samples]))

    def end(self, outcome: str, summary: dict[str, Any], figures: dict[str, Any]) -> None:
        if self._entry is None:
            return
        with self._guarded():
            self._close()
            self._describe({"outcome": outcome, "summary": summary, "figures": figures, "dropped_ms": self._dropped_ms})
            self._recorder.index.end(self._entry.folder, outcome, figures)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """What the disk refuses ends the recording: nothing more of this call is written."""
        try:
            yield
        except _WRITE_ERRORS as error:
            self._recorder.backlog.failed += 1
            self._log.error("the recording ends, the call goes on: {}", error)
            entry, self._entry = self._entry, None
            with contextlib.suppress(*_WRITE_ERRORS):
                self._close()
            if entry is not None:
                with contextlib.suppress(*_WRITE_ERRORS):
                    self._recorder.index.end(entry.folder, "disk", {})

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
        return self._recorder.index.root / self._entry.folder
