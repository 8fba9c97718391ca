"""Recordings: what a call leaves, off the event loop and bounded, through crashes and full disks."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import opuslib
import pytest
import soundfile

from gateway.events import AnswerSent, BlockSubmitted, PayloadReceived, SessionEnded
from gateway.recording import files, retrieval
from gateway.recording import index as indexes
from gateway.recording import recorder as recorders
from gateway.recording.figures import CallFigures
from gateway.recording.folder import CallInfo
from gateway.recording.index import Entry
from gateway.recording.ogg import PRE_SKIP
from gateway.recording.recorder import Recorder, Recording
from gateway.recording.vault import Vault
from gateway.stream import Answer
from shared.messages import ChunkStats

BLOCK_MS = 100
STATS = ChunkStats(1.0, 2, 3, True, False, {"vocoder": 4.0})


def sound(seq: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.random.default_rng(seq).normal(0, 3000, BLOCK_MS * 16).astype(np.int16)


def info(session_id: str = "a call", principal: str = "alice") -> CallInfo:
    return CallInfo(session_id, principal, "standard", "june", "nano", BLOCK_MS, 16_000)


def recorder_in(root: Path, vault: Vault | None = None, **options: float) -> Recorder:
    given = {"max_backlog_bytes": 1 << 20, "keep_days": 30, "max_bytes": 1e9, **options}
    return Recorder(root, vault, **given)  # type: ignore[arg-type]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = recorder_in(tmp_path / "outputs")
    recorder.start()
    yield recorder
    recorder.stop()


def talk(recording: Recording, figures: CallFigures, blocks: int, first: int = 0) -> None:
    for seq in range(first, first + blocks):
        at = seq * BLOCK_MS / 1000
        for observer in (figures, recording):
            observer.on_payload(PayloadReceived(at, bytes(3200), BLOCK_MS))
            observer.on_block(BlockSubmitted(at, seq, sound(seq)))
            observer.on_answer(AnswerSent(at + 0.03, Answer(seq, sound(seq), STATS, at), -sound(seq), [bytes(3200)]))


def end(recording: Recording, figures: CallFigures, outcome: str = "complete") -> None:
    for observer in (figures, recording):
        observer.on_end(SessionEnded(10.0, outcome, {"chunks_processed": 7}))


def record(recorder: Recorder, blocks: int = 12, session_id: str = "a call", principal: str = "alice") -> Entry:
    figures = CallFigures(BLOCK_MS)
    recording = recorder.observe(info(session_id, principal), figures)
    talk(recording, figures, blocks)
    end(recording, figures)
    settle(recorder)
    entry = recorder.index.find(session_id, principal, None)
    assert entry is not None
    return entry


def settle(recorder: Recorder) -> None:
    """Until the thread has done what is handed over."""
    done = threading.Event()
    recorder.hand_over(done.set, 0, always=True)
    assert done.wait(10)


def everything(recorder: Recorder, entry: Entry) -> dict[str, bytes]:
    return retrieval.load(recorder.index, recorder.vault, entry, "all")


def samples(flac: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(soundfile.read(io.BytesIO(flac), dtype="int16")[0])


def lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_call_leaves_its_sound_its_timeline_and_its_figures(tmp_path: Path, encrypted: bool) -> None:
    vault = Vault(tmp_path / "keys") if encrypted else None
    if vault is not None:
        vault.make_key()
    recorder = recorder_in(tmp_path / "outputs", vault)
    recorder.start()
    entry = record(recorder)
    loaded = everything(recorder, entry)
    recorder.stop()
    whole = np.concatenate([sound(seq) for seq in range(12)])
    np.testing.assert_array_equal(samples(loaded["input.flac"]), whole)
    np.testing.assert_array_equal(samples(loaded["output.flac"]), -whole)
    timeline = lines(loaded["timeline.jsonl"])
    assert [event["event"] for event in timeline] == ["receive", "submit", "send"] * 12
    assert timeline[-1] == {"ms": 1130.0, "event": "send", "seq": 11, "bytes": [3200], "latency_ms": 30.0}
    chunks = lines(loaded["chunks.jsonl"])
    assert len(chunks) == 12
    assert chunks[3] == {
        "seq": 3, "ms": 330.0, "latency_ms": 30.0, "concealed": None, "queue_ms": 1.0, "batch_size": 2, "steps": 3,
        "speech": True, "stages_ms": {"vocoder": 4.0},
    }  # fmt: skip
    about = json.loads(loaded["session.json"])
    assert (about["session_id"], about["principal"], about["outcome"]) == ("a call", "alice", "complete")
    assert about["summary"] == {"chunks_processed": 7}
    assert entry.figures is not None
    assert entry.figures["latencies_ms"] == {"30": 12}
    stored = [path for path in (tmp_path / "outputs" / entry.folder).iterdir()]
    assert all((path.suffix == ".enc") == encrypted for path in stored)
    assert entry.bytes == sum(path.stat().st_size for path in stored)
    if encrypted:
        assert not any(b"fLaC" in path.read_bytes() or b"a call" in path.read_bytes() for path in stored)


def test_no_part_of_a_path_comes_from_the_caller(recorder: Recorder) -> None:
    for session_id in ("../../etc/passwd", "/absolute", "a\nb", "x" * 200, "naïve ☎"):
        entry = record(recorder, 1, session_id)
        assert re.fullmatch(r"\d{4}/\d\d/\d\d/\d{6}-[0-9a-f]{16}", entry.folder)
        assert entry.session_id == session_id


def test_calls_are_found_by_id_owner_and_day_the_latest_first(recorder: Recorder) -> None:
    first, second = record(recorder, 1), record(recorder, 1)
    of_bob = record(recorder, 1, principal="bob")
    index, today = recorder.index, time.strftime("%Y-%m-%d", time.gmtime(second.started))
    assert index.find("a call", "alice", None) == second != first
    assert index.find("a call", None, today) == of_bob
    assert index.find("a call", "alice", "1999-01-01") is None
    assert index.find("a call", "eve", None) is None
    assert index.find("another", None, None) is None


def test_what_a_slow_disk_leaves_no_room_for_is_dropped_counted_and_silent(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path, max_backlog_bytes=20_000)
    figures = CallFigures(BLOCK_MS)
    recording = recorder.observe(info(), figures)
    talk(recording, figures, 20)  # the thread does not run yet: most finds no room
    assert recorder.backlog.bytes <= 20_000
    assert recorder.backlog.dropped_bytes > 0
    recorder.start()
    settle(recorder)
    talk(recording, figures, 1, first=20)
    end(recording, figures)
    settle(recorder)
    entry = recorder.index.find("a call", "alice", None)
    assert entry is not None
    loaded = everything(recorder, entry)
    for name, sign in (("input.flac", 1), ("output.flac", -1)):
        got = samples(loaded[name])
        assert len(got) == 21 * BLOCK_MS * 16  # time is kept
        np.testing.assert_array_equal(got[:1600], sign * sound(0))
        np.testing.assert_array_equal(got[-1600:], sign * sound(20))
        assert not got[-3200:-1600].any()
    assert json.loads(loaded["session.json"])["dropped_ms"] > 0
    recorder.stop()


def test_opus_that_found_no_room_keeps_its_time(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path, max_backlog_bytes=3000)
    opus = replace(info(), opus_in=True, opus_out=True)
    encoder = opuslib.Encoder(16_000, 1, opuslib.APPLICATION_VOIP)
    figures = CallFigures(BLOCK_MS)
    recording = recorder.observe(opus, figures)
    for seq in range(21):
        if seq == 20:
            recorder.start()  # it did not run before: most found no room
            settle(recorder)
        packets = [encoder.encode(frame.tobytes(), 320) for frame in sound(seq).reshape(-1, 320)]
        for packet in packets:
            recording.on_payload(PayloadReceived(seq / 10, packet, 20.0))
        recording.on_block(BlockSubmitted(seq / 10, seq, sound(seq)))
        recording.on_answer(AnswerSent(seq / 10, Answer(seq, sound(seq), STATS, seq / 10), sound(seq), packets))
    end(recording, figures)
    settle(recorder)
    entry = recorder.index.find("a call", "alice", None)
    assert entry is not None
    loaded = everything(recorder, entry)
    assert recorder.backlog.dropped_bytes > 0
    for name in ("input.opus", "output.opus"):
        assert len(soundfile.read(io.BytesIO(loaded[name]))[0]) == 100_800 - PRE_SKIP
    recorder.stop()


class Full:
    """A disk that takes so many bytes and no more."""

    def __init__(self, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = left
        monkeypatch.setattr(files, "_write_all", self.write)

    def write(self, descriptor: int, data: bytes) -> None:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(28, "No space left on device")
        os.write(descriptor, data)


@pytest.mark.parametrize("left", [0, 500, 5000, 30_000])
def test_a_full_disk_ends_the_recording_and_nothing_else(
    recorder: Recorder, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Full(left, monkeypatch)
    figures = CallFigures(BLOCK_MS)
    recording = recorder.observe(info(), figures)
    talk(recording, figures, 12)
    end(recording, figures)
    settle(recorder)
    assert recorder.backlog.failed == 1
    assert recorder.backlog.bytes == 0
    monkeypatch.undo()
    assert record(recorder, 2).outcome == "complete"  # room again


def test_a_folder_that_cannot_be_made_ends_no_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    recorder = recorder_in(tmp_path / "file" / "outputs")
    recorder.start()
    figures = CallFigures(BLOCK_MS)
    recording = recorder.observe(info(), figures)
    talk(recording, figures, 3)
    end(recording, figures)
    settle(recorder)
    assert recorder.backlog.failed == 1
    recorder.stop()


CRASHER = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.gateway.recording.test_recorder import *
recorder = recorder_in(Path({folder!r}), Vault(Path({keys!r})) if {keys!r} else None)
recorder.start()
figures = CallFigures(BLOCK_MS)
recording = recorder.observe(info(), figures)
talk(recording, figures, 40)
settle(recorder)
print("written", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_crash_keeps_what_was_there(tmp_path: Path, encrypted: bool) -> None:
    keys = tmp_path / "keys"
    if encrypted:
        Vault(keys).make_key()
    root = str(Path(__file__).parents[3])
    script = CRASHER.format(root=root, folder=str(tmp_path / "outputs"), keys=str(keys) if encrypted else "")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    recorder = recorder_in(tmp_path / "outputs", Vault(keys) if encrypted else None)
    recorder.start()  # looks after what was left open
    settle(recorder)
    entry = recorder.index.find("a call", "alice", None)
    assert entry is not None
    assert entry.outcome == "interrupted"
    assert entry.bytes > 0
    loaded = everything(recorder, entry)
    got = samples(loaded["input.flac"])
    assert len(got) > 40 * 1600 - 4096
    np.testing.assert_array_equal(got, np.concatenate([sound(seq) for seq in range(40)])[: len(got)])
    assert len(lines(loaded["timeline.jsonl"])) == 120
    recorder.stop()


def test_what_is_too_old_or_too_much_goes_the_oldest_first(recorder: Recorder) -> None:
    entries = [record(recorder, 2, f"call {number}") for number in range(4)]
    index = recorder.index
    index.keep(30, sum(entry.bytes for entry in entries[2:]))
    assert [index.find(f"call {number}", "alice", None) is not None for number in range(4)] == [
        False,
        False,
        True,
        True,
    ]
    assert not (index.root / entries[0].folder).exists()
    assert (index.root / entries[3].folder).exists()
    index.keep(0, 1e9)
    assert not any(path.is_dir() for path in (index.root / entries[3].folder).parents[0].glob("*"))


def test_a_call_that_is_on_is_never_removed(recorder: Recorder) -> None:
    figures = CallFigures(BLOCK_MS)
    recording = recorder.observe(info(), figures)
    talk(recording, figures, 2)
    settle(recorder)
    assert recorder.index.keep(0, 0) == []
    end(recording, figures)
    settle(recorder)
    assert len(recorder.index.keep(0, 0)) == 1


async def test_the_event_loop_never_waits_for_the_disk(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path)
    recorder.start()
    stuck = threading.Event()
    recorder.hand_over(lambda: stuck.wait(20) and None, 0, always=True)
    figures = CallFigures(BLOCK_MS)
    recording = recorder.observe(info(), figures)
    talk(recording, figures, 100)  # returns although nothing is written
    end(recording, figures)
    assert recorder.backlog.written_bytes == 0
    stuck.set()
    await asyncio.to_thread(recorder.stop)
    entry = recorder.index.find("a call", "alice", None)
    assert entry is not None
    assert entry.outcome == "complete"


def test_calls_of_another_host_are_on_until_it_is_silent_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gateways of two hosts, or two containers with the same process number, over one folder."""
    here = indexes.Index(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(indexes, "_HOST", "else-where")
        there = indexes.Index(tmp_path)
        on = there.begin("a call", "alice", time.time())
    assert here.close_interrupted() == []
    assert here.keep(0, 0) == []
    later = time.time() + indexes.GONE_AFTER_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    with monkeypatch.context() as patch:
        patch.setattr(indexes, "_HOST", "else-where")
        assert there.close_interrupted() == []  # which says that it lives
    assert here.close_interrupted() == []
    monkeypatch.setattr(time, "time", lambda: later + indexes.GONE_AFTER_S + 1)
    assert [entry.folder for entry in here.close_interrupted()] == [on.folder]
    entry = here.find("a call", "alice", None)
    assert entry is not None
    assert entry.outcome == "interrupted"


def test_recordings_are_looked_after_however_much_there_is_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorders, "_KEEP_INTERVAL_S", 0.0)
    looked: list[int] = []
    recorder = recorder_in(tmp_path)
    monkeypatch.setattr(recorder, "_look_after", lambda: looked.append(1))
    for _ in range(50):
        recorder.hand_over(lambda: None, 0, always=True)
    recorder.start()
    settle(recorder)
    recorder.stop()
    assert len(looked) >= 50
