"""Recordings of calls: observers on the event loop hand over, one thread writes.

What the thread has not written yet is bounded. What a slow disk leaves no room for is dropped and counted; sound that
was dropped becomes silence of the same length, so that a recording keeps its time. A disk that is full or gone ends
the recording, never the call.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from gateway.events import AnswerSent, BlockSubmitted, PayloadReceived, SessionEnded
from gateway.recording import files
from gateway.recording.figures import CallFigures
from gateway.recording.flac import Pcm
from gateway.recording.folder import WRITE_ERRORS, Backlog, CallInfo, Folder
from gateway.recording.index import Index
from gateway.recording.ogg import Packet, duration_ms
from gateway.recording.vault import Vault
from shared.log import for_session
from shared.messages import ChunkStats

_KEEP_INTERVAL_S = 60.0
_STATS = [field.name for field in fields(ChunkStats) if field.name != "concealed"]
_EVENT_BYTES = 64  # of memory that one line of a timeline is counted with


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
        due = 0.0
        while True:
            if (now := time.monotonic()) >= due:  # however much there is to write
                self._look_after()
                due = now + _KEEP_INTERVAL_S
            try:
                item = self._jobs.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
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
        except WRITE_ERRORS as error:
            logger.error("recordings cannot be looked after: {}", error)
            return
        if removed:
            logger.info("{} recordings were removed: too old, or too many", len(removed))


class Recording:
    """One call's observer: collects on the event loop, hands over with every block."""

    def __init__(self, recorder: Recorder, info: CallInfo, figures: CallFigures) -> None:
        self._recorder, self._info, self._figures = recorder, info, figures
        self._folder = Folder(recorder.index, recorder.vault, recorder.backlog, info)
        self._payloads: list[PayloadReceived] = []  # that are not in the timeline yet
        self._packets: list[Packet] = []  # of the caller, not handed over yet
        self._began: float | None = None  # loop time of the first event
        self._missing = {files.INPUT: 0, files.OUTPUT: 0}  # samples that were dropped
        self._missing_ms = {files.INPUT_OPUS: 0.0, files.OUTPUT_OPUS: 0.0}  # of packets
        recorder.hand_over(self._folder.open, 0, always=True)

    def on_payload(self, event: PayloadReceived) -> None:
        if self._began is None:
            self._began = event.at
        self._payloads.append(event)

    def on_block(self, event: BlockSubmitted) -> None:
        if not self._info.opus_in:
            self._sound(files.INPUT, event.samples)
        self._flush(f'{{"ms": {self._ms(event.at)}, "event": "submit", "seq": {event.seq}}}\n')

    def on_answer(self, event: AnswerSent) -> None:
        answer, at = event.answer, self._ms(event.at)
        sizes = [len(message) for message in event.messages]
        line = (
            f'{{"ms": {at}, "event": "send", "seq": {answer.seq}, "bytes": {sizes}, '
            f'"latency_ms": {event.latency_ms:.3f}}}\n'
        )
        chunk: dict[str, Any] = {"seq": answer.seq, "ms": at, "latency_ms": round(event.latency_ms, 3)}
        chunk["concealed"] = answer.concealed_by
        if answer.stats is not None:
            chunk |= {name: getattr(answer.stats, name) for name in _STATS}
        self._write({files.CHUNKS: json.dumps(chunk) + "\n", files.TIMELINE: self._timeline(line)})
        if self._info.opus_out:
            self._opus(files.OUTPUT_OPUS, [(message, None) for message in event.messages])
        else:
            self._sound(files.OUTPUT, event.samples)

    def on_end(self, event: SessionEnded) -> None:
        self._flush()
        for name in self._missing:
            self._sound(name, np.zeros(0, np.int16), always=True)
        for name in self._missing_ms:
            self._opus(name, [], always=True)
        summary, figures = event.summary, self._figures.as_json()
        self._recorder.hand_over(lambda: self._folder.end(event.outcome, summary, figures), 0, always=True)

    def _ms(self, at: float) -> float:
        if self._began is None:
            self._began = at
        return round((at - self._began) * 1000, 3)

    def _timeline(self, line: str) -> str:
        """The lines of what came before `line`, and it; packets wait for their block."""
        payloads, self._payloads = self._payloads, []
        if self._info.opus_in:
            self._packets += [(payload, audio_ms) for _, payload, audio_ms in payloads]
        began = self._began or 0.0
        lines = [
            f'{{"ms": {(at - began) * 1000:.3f}, "event": "receive", '
            f'"bytes": {"null" if payload is None else len(payload)}, "audio_ms": {audio_ms:.3f}}}\n'
            for at, payload, audio_ms in payloads
        ]
        return "".join(lines) + line

    def _flush(self, line: str = "") -> None:
        if lines := self._timeline(line):
            self._write({files.TIMELINE: lines})
        packets, self._packets = self._packets, []
        if packets:
            self._opus(files.INPUT_OPUS, packets)

    def _write(self, texts: dict[str, str]) -> None:
        """By file."""
        data = {name: text.encode() for name, text in texts.items()}
        self._recorder.hand_over(lambda: self._folder.append(data), sum(map(len, data.values())) + _EVENT_BYTES)

    def _sound(self, name: str, samples: Pcm, *, always: bool = False) -> None:
        missing = self._missing[name]
        job = lambda: self._folder.sound(name, missing, samples)  # noqa: E731
        if self._recorder.hand_over(job, samples.nbytes + _EVENT_BYTES, always=always):
            self._missing[name] = 0
        else:
            self._missing[name] += len(samples)

    def _opus(self, name: str, packets: list[Packet], *, always: bool = False) -> None:
        missing_ms = self._missing_ms[name]
        size = sum(len(packet or b"") for packet, _ in packets) + _EVENT_BYTES
        if self._recorder.hand_over(lambda: self._folder.packets(name, missing_ms, packets), size, always=always):
            self._missing_ms[name] = 0.0
        else:
            self._missing_ms[name] += sum(duration_ms(packet, ms) for packet, ms in packets)
